"""Whether the schedules end at the same accuracy, in words and as a table: what the whole comparison is about."""

from __future__ import annotations

from collections.abc import Sequence

from trainer.report.difference import Difference
from trainer.report.outcome import Outcome
from trainer.report.table import Table
from trainer.report.units import UNKNOWN, accuracy, listed, p_value, points, signed_points

WITHIN, CANNOT_TELL = "within", "cannot tell"
_WITHIN = "within the spread of the seeds"


def agreement_headline(outcomes: Sequence[Outcome], differences: Sequence[Difference | None], baseline: int) -> str:
    """Who ends within the spread of the baseline's seeds, who does not, and of whom the seeds cannot tell."""
    labels: dict[str, list[str]] = {}
    clear_from = max((d.least_clear for d in differences if d is not None and verdict(d) == WITHIN), default=0.0)
    for number, (outcome, difference) in enumerate(zip(outcomes, differences, strict=True)):
        if number != baseline:
            labels.setdefault(verdict(difference), []).append(outcome.group.label)
    against = outcomes[baseline].group.label
    made = comparisons_made(differences)
    sentences = []
    if within := labels.get(WITHIN):
        # In the same breath: few seeds with a wide spread would let anything pass.
        limit = f"{points(clear_from)} points" if clear_from <= 1 else "none"
        sentences.append(
            f"{listed(within)} {_s('end', within)} {_WITHIN} of {against} (a difference that is sure to be clear: "
            f"{limit})."
        )
    for side in ("higher", "lower"):
        if apart := labels.get(side):
            sentences.append(f"{listed(apart)} {_s('end', apart)} {side} than {against}, more than the seeds explain.")
        if alone := labels.get(f"{side} alone"):
            sentences.append(
                f"{listed(alone)} {_s('end', alone)} {side} than {against}: clear if asked alone, but not as one of "
                f"{made} comparisons."
            )
    if untold := labels.get(CANNOT_TELL):
        sentences.append(
            f"The seeds cannot tell whether {listed(untold)} {_s('agree', untold)} with {against}: that takes two "
            "finished runs or more of each, and some spread among them."
        )
    return " ".join(sentences)


def agreement(difference: Difference, final: str, against: str) -> str:
    """How one ended against another, with interval, test and verdict; if it is not clear, with what would have been.

    final, against: the two in words.
    """
    apart = points(difference.mean)
    how = "level with" if float(apart) == 0 else f"{apart} points {'above' if difference.mean > 0 else 'below'}"
    would_be = f"A difference of {points(difference.least_clear)} points or more would have been clear"
    if difference.least_clear > 1:
        would_be = "With so few seeds and such a spread no difference at all would have been clear"
    if difference.is_clear:
        says = "more than the seeds explain"
    elif verdict(difference) == WITHIN:
        says = f"{_WITHIN}. {would_be}"
    else:
        says = f"clear if asked alone, but not among several. {would_be}"
    return (
        f"ended at {final}, {how} {against} (95 % confidence interval "
        f"{_interval(difference)}; Welch's t-test, n = {difference.n} and {difference.baseline_n}, "
        f"{p_value(difference.p)}): {says}."
    )


def agreement_table(outcomes: Sequence[Outcome], differences: Sequence[Difference | None], baseline: int) -> Table:
    """A row for each schedule but the baseline; the differences are in percentage points."""
    held_against = outcomes[baseline]
    rows = []
    for number, (outcome, difference) in enumerate(zip(outcomes, differences, strict=True)):
        if number == baseline:
            continue
        cells = (UNKNOWN, UNKNOWN, UNKNOWN)
        if difference is not None:
            clear_from = "none" if difference.least_clear > 1 else f"±{points(difference.least_clear)}"
            cells = (_interval(difference), clear_from, p_value(difference.p).removeprefix("p ").removeprefix("= "))
        final, first = outcome.final_top1, held_against.final_top1
        by = UNKNOWN if final is None or first is None else signed_points(final.mean - first.mean)
        rows.append((outcome.group.label, accuracy(outcome.final_top1), by, *cells, verdict(difference)))
    headers = ("schedule", "final top-1", "difference (points)", "95 % interval", "clear from", "p", "verdict")
    return Table(headers, tuple(rows))


def agreement_note(differences: Sequence[Difference | None], against: str, is_the_best: bool) -> str:
    """Which test it was, and what its numbers mean; nothing where none was made.

    is_the_best: the one that all are held against was picked for its accuracy.
    """
    made = comparisons_made(differences)
    if made == 0:
        return ""
    p = f"; p after Holm for {made} comparisons, while each interval stands by itself" if made > 1 else ""
    note = (
        f"Final top-1 against {against}: Welch's two-sided t-test over the seeds at the level of 0.05{p}. Within the "
        "spread is not the same as equal: a difference below the one under “clear from” need not have shown."
    )
    picked = " The best was picked after the runs, so differences from it look a little larger than they are."
    return note + picked if is_the_best else note


def comparisons_made(differences: Sequence[Difference | None]) -> int:
    return sum(difference is not None for difference in differences)


def verdict(difference: Difference | None) -> str:
    """In a word or two: "lower alone" is what one comparison would show, and one of several does not."""
    if difference is None:
        return CANNOT_TELL
    if difference.low <= 0 <= difference.high:
        return WITHIN
    side = "higher" if difference.mean > 0 else "lower"
    return side if difference.is_clear else f"{side} alone"


def _interval(difference: Difference) -> str:
    return f"{signed_points(difference.low)} to {signed_points(difference.high)}"


def _s(verb: str, subjects: Sequence[str]) -> str:
    return f"{verb}s" if len(subjects) == 1 else verb
