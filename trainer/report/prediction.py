"""What was predicted of a run before it started, beside what it took."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from trainer.report.groups import Group
from trainer.report.outcome import ELAPSED_S, Spread, spread
from trainer.report.runs import RunRecord
from trainer.report.table import Table
from trainer.report.units import UNKNOWN, duration, signed_percent_of, time_unit

PREDICTION_NOTE = (
    "Predicted from a calibration when the run started; the difference is that of the measured time from it. Between "
    "epochs: evaluation, saving and recording; by the prediction also starting the stream, which was measured as "
    "training. A run under a policy that listens is held against its plan as far as the schedule goes."
)
_TRAIN_S = "time/train_s"
INDENT = "\N{NO-BREAK SPACE}" * 2  # before a part of the row above

# Of one run: seconds predicted and measured, nan where one is not known.
Pair = tuple[float, float]


def prediction_table(groups: Sequence[Group]) -> Table | None:
    """For each schedule that has a prediction: the whole run and its parts. None where no run has one.

    A part counts where the run got to its end: a whole run where it came to its last epoch.
    """
    rows = []
    for group in groups:
        if not any(run.predicted_s is not None for run in group.runs):
            continue
        rows.append((group.label, *_cells([_whole(run) for run in group.runs])))
        for place, phase in enumerate(group.runs[0].phases):
            training = [_training(run, place) for run in group.runs]
            rows.append((f"{INDENT}training, {_span(phase)}", *_cells(training)))
        rows.append((f"{INDENT}between epochs", *_cells([_between_epochs(run) for run in group.runs])))
    return Table(("schedule", "predicted", "measured", "difference"), tuple(rows)) if rows else None


def _cells(pairs: Sequence[Pair]) -> tuple[str, str, str]:
    both = [pair for pair in pairs if all(map(math.isfinite, pair)) and min(pair) > 0]
    predicted, measured = (spread(side) for side in zip(*pairs, strict=True))
    unit = time_unit([side.mean for side in (predicted, measured) if side is not None])
    difference = UNKNOWN
    if both:
        difference = signed_percent_of(sum(after for _, after in both) / sum(before for before, _ in both) - 1)
    return duration(_alike(predicted), unit), duration(measured, unit), difference


def _alike(predicted: Spread | None) -> Spread | None:
    """Seeds share one prediction as a rule: its spread of zero would say nothing."""
    return predicted if predicted is None or predicted.sd > 0 else Spread(predicted.mean, math.nan, predicted.n)


def _whole(run: RunRecord) -> Pair:
    return run.predicted_s if run.predicted_s is not None else math.nan, _at_the_end(run, ELAPSED_S)


def _training(run: RunRecord, place: int) -> Pair:
    phase = run.phases[place] if place < len(run.phases) else {}
    updates, update_s = phase.get("updates"), _part(phase, "update_s")
    predicted = updates * update_s if isinstance(updates, int) else math.nan
    first, last = phase.get("first_epoch"), phase.get("last_epoch")
    if not isinstance(first, int) or not isinstance(last, int) or last + 1 not in run.epochs:
        return predicted, math.nan
    # Epochs are numbered from 1 where they are logged: epoch `first` of the plan comes after number `first`.
    seconds = dict(zip(run.epochs, run.values(_TRAIN_S), strict=True))
    before = max((epoch for epoch in run.epochs if epoch <= first), default=None)
    return predicted, seconds[last + 1] - (0.0 if before is None else seconds[before])


def _between_epochs(run: RunRecord) -> Pair:
    predicted = sum(_part(phase, "evaluation_s") + _part(phase, "epochs_s") for phase in run.phases)
    return predicted, _at_the_end(run, ELAPSED_S) - _at_the_end(run, _TRAIN_S)


def _part(phase: Mapping[str, Any], part: str) -> float:
    """Seconds that a phase's prediction names; nan where there is none."""
    predicted = phase.get("predicted")
    seconds = predicted.get(part) if isinstance(predicted, dict) else None
    return float(seconds) if isinstance(seconds, (int, float)) and not isinstance(seconds, bool) else math.nan


def _at_the_end(run: RunRecord, metric: str) -> float:
    """The metric at the end of a run that came to the plan's last epoch, or beyond it as under AdaScale; else nan."""
    last = run.phases[-1].get("last_epoch") if run.phases else None
    is_there = isinstance(last, int) and run.epochs and run.epochs[-1] > last
    return run.values(metric)[-1] if is_there else math.nan


def _span(phase: Mapping[str, Any]) -> str:
    first, last = phase.get("first_epoch"), phase.get("last_epoch")
    return f"epoch {first}" if first == last else f"epochs {first}-{last}"
