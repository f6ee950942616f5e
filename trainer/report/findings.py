"""What was saved, in plain sentences made from the data: the first thing that a reader of a report wants to know."""

from __future__ import annotations

from collections.abc import Sequence

from trainer.report.outcome import Change, Cost, Outcome, change
from trainer.report.units import accuracy, count, duration, percent_label, unit_of


def findings(outcomes: Sequence[Outcome], target_top1: float | None) -> tuple[str, ...]:
    """A finding for each recipe after the first, held against the first; for a single one, what it reached."""
    first, *others = outcomes
    if not others:
        return (f"{_ended(first)}. {_reached_alone(first, target_top1)}".strip(),)
    return tuple(
        " ".join(filter(None, (_whole_run(first, other), _to_target(first, other, target_top1)))) for other in others
    )


def updates_change(difference: Change | None) -> str:
    """A change of updates in words: 40 % fewer updates."""
    return _in_words(difference, "fewer updates", "more updates", "about as many updates")


def time_change(difference: Change | None) -> str:
    """A change of time in words: 12 % less time."""
    return _in_words(difference, "less time", "more time", "about the same time")


def _whole_run(first: Outcome, other: Outcome) -> str:
    label, baseline = other.group.label, first.group.label
    if not (first.group.is_finished and other.group.is_finished):
        return f"{_ended(other)}, {_ended(first)}."
    costs = _costs(other.whole_run, first.whole_run, f" than {baseline}")
    return f"{label} took {costs} and ended at {accuracy(other.final_top1)}, against {accuracy(first.final_top1)}."


def _to_target(first: Outcome, other: Outcome, target_top1: float | None) -> str:
    if target_top1 is None:
        return ""
    goal = percent_label(target_top1)
    if other.to_target is None:
        return f"It did not reach {goal}" + (f", as {first.group.label} did." if first.reached else ".")
    if first.to_target is None:
        return f"It reached {goal}{_how_many(other)}, which {first.group.label} did not."
    return f"To {goal}{_how_many(other)} it took {_costs(other.to_target, first.to_target)}."


def _reached_alone(outcome: Outcome, target_top1: float | None) -> str:
    if target_top1 is None:
        return ""
    cost = outcome.to_target
    if cost is None:
        return f"It did not reach {percent_label(target_top1)}."
    updates, time = count(cost.updates), duration(cost.time_s, unit_of(cost.time_s))
    return f"It reached {percent_label(target_top1)}{_how_many(outcome)} after {updates} updates and {time}."


def _ended(outcome: Outcome) -> str:
    verb = "ended at" if outcome.group.is_finished else "stands so far at"
    return f"{outcome.group.label} {verb} {accuracy(outcome.final_top1)}"


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
