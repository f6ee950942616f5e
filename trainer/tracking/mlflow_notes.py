"""What MLflow's pages say in words: above an experiment, and at the head of a finished run.

The table of runs shows no metrics until they are chosen, and a run's page lists them all alike.
"""

from __future__ import annotations

from collections.abc import Mapping

from trainer.tracking.run_log import RunLog

NOTE_TAG = "mlflow.note.content"  # Markdown; what MLflow calls a description

EXPERIMENT_NOTE = """\
Schedules compared by the wall-clock time to a target accuracy.

- **Curves**: the chart view, or tick runs and press Compare. A step is an epoch.
- **Time to target**: `time_to_<percent>_s`, beside `train_time_to_`, `updates_to_` and `epochs_to_`; runs that did not
  reach it have none. Choose them in Columns.
- **What a schedule did**: `noise/sgd`, `batch/global`, `optim/lr`, `optim/momentum`; **what was measured of it**:
  `noise/gradient`; **what came of it**: `val/top1`.
- **Seeds taken together, and tested**: `trainer compare --experiment NAME`; its page is in the run `comparison`.
"""


def run_note(log: RunLog) -> str | None:
    """The result of a finished run in a sentence or two; None for what has none, as a sweep."""
    if log.close is None or "final_top1" not in log.close.summary:
        return None
    figures = log.close.summary
    end = (
        f"Top-1 {figures['final_top1']:.2%} (best {figures['best_top1']:.2%}) after {figures['updates']:,.0f} updates "
        f"and {figures['total_s']:,.1f} s."
    )
    return " ".join([*_target(figures, log.run.params.get("target_top1", "null")), end])


def _target(figures: Mapping[str, float], target_top1: str) -> list[str]:
    reached = [key.removeprefix("time_to_").removesuffix("_s") for key in figures if key.startswith("time_to_")]
    if reached:
        return [
            f"**{percent} % after {figures[f'time_to_{percent}_s']:,.1f} s**, "
            f"{figures[f'updates_to_{percent}']:,.0f} updates, {figures[f'epochs_to_{percent}']:g} epochs."
            for percent in reached
        ]
    return [] if target_top1 == "null" else [f"Did not reach {100 * float(target_top1):.10g} %."]
