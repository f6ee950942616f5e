"""Whether batches passed the gradient noise scale that was measured, in plain sentences, and what could be changed."""

from __future__ import annotations

import math
from collections.abc import Sequence

from trainer.report.groups import Group
from trainer.report.measured_noise import MeasuredEpoch, epochs_of, measured_epochs, passed_from
from trainer.report.outcome import Spread
from trainer.report.sweep import BATCH
from trainer.report.units import count, listed

_STILL_RIGHT = (
    "A batch above the gradient noise scale can still be right where workers would stand idle otherwise: an epoch "
    "takes less time then, though its samples go less far."
)


def noise_findings(groups: Sequence[Group]) -> tuple[str, ...]:
    """A paragraph for each schedule whose batch passed the scale, and a sentence on the others; none of those that did
    not measure it."""
    passed: list[str] = []
    others: dict[str, list[str]] = {}
    for group in groups:
        measured = [epoch for epoch in measured_epochs(group) if not math.isnan(epoch.global_batch)]
        since = passed_from(measured)
        if since is not None:
            passed.append(_passed(group, measured, since))
        elif measured:
            kind, how_far = _not_passed(measured, epochs_of(group))
            others.setdefault(kind, []).append(f"{group.label} ({how_far})")
    return (
        *passed,
        *([_STILL_RIGHT] if passed else []),
        *(f"The batch {kind} the gradient noise scale that was measured: {listed(of)}." for kind, of in others.items()),
    )


def _passed(group: Group, measured: Sequence[MeasuredEpoch], place: int) -> str:
    """place: of the epoch from which on the batch passed the scale. Of those in which it did, the one with the median
    ratio speaks for them: its numbers belong together, and no single odd measurement is picked."""
    since, total = measured[place:], epochs_of(group)
    passed = [epoch for epoch in since if epoch.is_passed]
    typical = sorted(passed, key=lambda epoch: epoch.ratio)[len(passed) // 2]
    scale = Spread(typical.scale, typical.error, len(typical.scales))
    first, earlier = since[0].epoch, sum(epoch.is_passed for epoch in measured[:place])
    remarks = []
    if earlier:
        late = "all" if len(passed) == len(since) else f"{len(passed)} of the {len(since)}"
        which = f"epoch {first} among them" if len(since) == 1 else f"among them {late} from epoch {first} on"
        when = f"In {earlier + len(passed)} of {_epochs(measured, total)}, {which},"
    else:
        when = f"In epoch {first} of {total}" if len(since) == 1 else f"From epoch {first} of {total} on"
        if len(passed) < len(since):
            remarks.append(f"in {len(passed)} of {len(since)} epochs")
        if len(measured) < total:
            remarks.append(f"known in {len(measured)} of {total} epochs")
    how_far = " (" + "; ".join(remarks) + ")" if remarks else ""
    there = f" in epoch {typical.epoch}" if earlier or len(since) > 1 else ""
    one = ", a typical one" if len(passed) > 2 else ""
    return (
        f"{when} the batch of {group.label} was above the gradient noise scale that was measured{how_far}: "
        f"{typical.global_batch:,.0f} against {count(scale)} samples{there}{one}, so that an update went "
        f"{_percents(typical.worth)} as far as its samples would have gone in small batches."
        f"{_what_could_change(group, typical)}"
    )


def _what_could_change(group: Group, typical: MeasuredEpoch) -> str:
    """A limit at the scale; where the batch had grown also another lever. Nothing under AdaScale, whose lr has left the
    curve of the noise by what such an update is worth."""
    if group.runs[0].recipe.get("schedule.policy") == "adascale":
        return ""
    limit = max(1, int(float(f"{typical.scale:.2g}")))
    has_grown = typical.global_batch > group.runs[0].values(BATCH)[0]
    lever = ", or drops by lr from there on," if has_grown else ""
    return (
        f" With schedule.limits.max_global_batch={limit}{lever} lr would fall instead: the same SGD noise from as many "
        "samples, in more updates that are each worth more of their cost."
    )


def _not_passed(measured: Sequence[MeasuredEpoch], total: int) -> tuple[str, str]:
    """How the batch stood to the scale, and how far up it came. total: epochs, measured or not."""
    if passed := [epoch for epoch in measured if epoch.is_passed]:
        times = f"in {len(passed)} of {_epochs(measured, total)}"
        return "was at times above", f"{times}, last in epoch {passed[-1].epoch}"
    highest = max(epoch.ratio for epoch in measured)
    kind = "stayed below" if highest < 1 else "was never clearly above"
    known = f" in the {len(measured)} of {total} epochs measured" if len(measured) < total else ""
    return kind, f"at most {_percents(highest)} of it{known}"


def _epochs(measured: Sequence[MeasuredEpoch], total: int) -> str:
    """How many epochs are spoken of: "12 epochs", "7 measured epochs of 24"."""
    return f"{total} epochs" if len(measured) == total else f"{len(measured)} measured epochs of {total}"


def _percents(fraction: float) -> str:
    return f"{100 * fraction:.0f} %" if fraction >= 0.01 else f"{100 * fraction:.1g} %"
