"""What was saved, in plain sentences made from the data: the first thing that a reader of a report wants to know."""

from __future__ import annotations

import math
from collections.abc import Sequence

from trainer.report.agreement import CANNOT_TELL, WITHIN, agreement, agreement_headline, comparisons_made, verdict
from trainer.report.difference import Difference
from trainer.report.groups import Group
from trainer.report.outcome import Change, Cost, Outcome, change, read_apart
from trainer.report.sweep import Sweep
from trainer.report.units import accuracy, count, duration, listed, p_value, percent_label, points, unit_of
from trainer.tracking.tracker import FINISHED, PAUSED, RUNNING

_GAIN = "optim/gain"


def findings(
    outcomes: Sequence[Outcome], target_top1: float | None, differences: Sequence[Difference | None]
) -> tuple[str, ...]:
    """Who agrees with the first, then a finding for each of the others; for a single one, what it reached."""
    first, *others = outcomes
    if not others:
        return (f"{_ended(first)}. {_reached_alone(first, target_top1)} {_not_counted(first)}".strip(),)
    return (
        agreement_headline(outcomes, differences, 0),
        *(
            _sentences(
                _whole_run(first, other, difference),
                _samples(first, other),
                _to_target(first, other, target_top1),
                _not_counted(other),
            )
            for other, difference in zip(others, differences[1:], strict=True)
        ),
        *filter(None, [_not_counted(first)]),
    )


def sweep_findings(
    outcomes: Sequence[Outcome], sweep: Sweep, best: int, differences: Sequence[Difference | None]
) -> tuple[str, ...]:
    """The best value of a sweep, which values end within its spread, and which fall off. differences: from the best."""
    values = {number: f"{sweep.values[number]:g}" for number in sweep.order}
    by_verdict: dict[str, list[str]] = {}
    for number, value in values.items():
        difference = differences[number]
        if difference is None:
            value = f"{value} ({_verb(outcomes[number])} {accuracy(outcomes[number].final_top1)})"
        elif verdict(difference) != WITHIN:
            value = f"{value} (by {points(difference.mean)} points, {p_value(difference.p)})"
        if number != best:
            by_verdict.setdefault(verdict(difference), []).append(value)
    told = {
        WITHIN: "Within the spread of its seeds",
        "lower alone": f"Lower if asked alone, but not as one of {comparisons_made(differences)} comparisons",
        "lower": "Lower than the seeds explain",
        CANNOT_TELL: "Too few finished runs, or no spread among them, to tell",
    }
    return (
        _sentences(
            f"{sweep.key} = {values[best]} ended best, at {accuracy(outcomes[best].final_top1)}.",
            *(f"{what}: {listed(by_verdict[kind])}." for kind, what in told.items() if kind in by_verdict),
        ),
        *filter(None, map(_not_counted, outcomes)),
    )


def broken_off(group: Group) -> str:
    """What is known of runs that failed in their first epoch."""
    error = group.left_out[0].error
    return f"{group.label} broke off in its first epoch" + (f": {error}." if error else ".")


def updates_change(difference: Change | None) -> str:
    """A change of updates in words: 40 % fewer updates."""
    return _in_words(difference, "fewer updates", "more updates", "about as many updates")


def time_change(difference: Change | None) -> str:
    """A change of time in words: 12 % less time."""
    return _in_words(difference, "less time", "more time", "about the same time")


def _whole_run(first: Outcome, other: Outcome, difference: Difference | None) -> str:
    label, baseline = other.group.label, first.group.label
    if not (first.group.is_finished and other.group.is_finished):
        return f"{_ended(other)}, {_ended(first)}."
    costs = _costs(other.whole_run, first.whole_run, f" than {baseline}")
    final, against = accuracy(other.final_top1), accuracy(first.final_top1)
    end = f"ended at {final}, against {against}."
    if difference is not None:
        end = agreement(difference, final, f"the {against} of {baseline}")
    return f"{label} took {costs} and {end}"


def _samples(first: Outcome, other: Outcome) -> str:
    """How many times the samples it read, where that is another number; with the gain that AdaScale counted them by."""
    both_finished = first.group.is_finished and other.group.is_finished
    if not both_finished or other.samples is None or first.samples is None or not read_apart((first, other)):
        return ""
    gains = [gain for run in other.group.runs for gain in run.values(_GAIN) if math.isfinite(gain)]
    why = f": AdaScale's gain was between {min(gains):.2g} and {max(gains):.2g}" if gains else ""
    return (
        f"It read {other.samples.mean / first.samples.mean:.2f} times as many samples "
        f"({_instead(count(other.samples), count(first.samples))}){why}."
    )


def _to_target(first: Outcome, other: Outcome, target_top1: float | None) -> str:
    if target_top1 is None:
        return ""
    goal = percent_label(target_top1)
    if other.to_target is None:
        return f"It did not reach {goal}" + (f", as {first.group.label} did." if first.reached else ".")
    if first.to_target is None:
        return f"It reached {goal}{_how_many(other)}, which {first.group.label} did not."
    return f"To {goal}{_how_many(other)} it took {_costs(other.to_target, first.to_target)}."


def _not_counted(outcome: Outcome) -> str:
    """Seeds that broke off beside finished ones: means over the survivors alone look better than the recipe is."""
    counted = {run.seed for run in outcome.group.runs}
    broken = {run.seed for run in outcome.group.left_out if run.status != FINISHED} - counted
    if not broken:
        return ""
    runs, have, are = ("1 run", "has", "is") if len(broken) == 1 else (f"{len(broken)} runs", "have", "are")
    return f"{runs} of {outcome.group.label} {have} not finished and {are} not in its numbers."


def _sentences(*sentences: str) -> str:
    return " ".join(filter(None, sentences))


def _reached_alone(outcome: Outcome, target_top1: float | None) -> str:
    if target_top1 is None:
        return ""
    cost = outcome.to_target
    if cost is None:
        return f"It did not reach {percent_label(target_top1)}."
    updates, time = count(cost.updates), duration(cost.time_s, unit_of(cost.time_s))
    return f"It reached {percent_label(target_top1)}{_how_many(outcome)} after {updates} updates and {time}."


def _ended(outcome: Outcome) -> str:
    return f"{outcome.group.label} {_verb(outcome)} {accuracy(outcome.final_top1)}"


def _verb(outcome: Outcome) -> str:
    if outcome.group.is_finished:
        return "ended at"
    return "stands so far at" if any(run.status in (PAUSED, RUNNING) for run in outcome.group.runs) else "broke off at"


def _costs(cost: Cost, baseline: Cost, than_what: str = "") -> str:
    """ "40 % fewer updates than A (1,620 instead of 2,700) and 4 % less time (21.1 s instead of 22.0 s)"."""
    unit = unit_of(cost.time_s, baseline.time_s)
    updates = updates_change(change(cost.updates, baseline.updates))
    time = time_change(change(cost.time_s, baseline.time_s))
    if updates.startswith("about"):
        than_what = than_what.replace(" than ", " as ")
    return (
        f"{updates}{than_what} ({_instead(count(cost.updates), count(baseline.updates))}) and "
        f"{time} ({_instead(duration(cost.time_s, unit), duration(baseline.time_s, unit))})"
    )


def _instead(text: str, baseline: str) -> str:
    return f"{text} each" if text == baseline else f"{text} instead of {baseline}"


def _in_words(difference: Change | None, less: str, more: str, same: str) -> str:
    if difference is None or not difference.is_clear or round(100 * difference.fraction) == 0:
        return same
    return f"{abs(100 * difference.fraction):.0f} % {less if difference.fraction < 0 else more}"


def _how_many(outcome: Outcome) -> str:
    runs = len(outcome.group.runs)
    return "" if outcome.reached == runs else f" (in {outcome.reached} of {runs} runs)"
