"""The runs to compare, wherever they were recorded, as values of one kind."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.tracking.errors import TrackingError
from trainer.tracking.journal_reader import journals_in, read_journal
from trainer.tracking.mlflow_reader import load_run_logs
from trainer.tracking.run_log import RunLog
from trainer.tracking.tracker import FAILED

_MLFLOW_RUN_ID = re.compile(r"[0-9a-f]{32}")
# Two runs that differ in nothing else are the same experiment done twice.
_NOT_PART_OF_THE_RECIPE = (
    "name",
    "experiment",
    "seed",
    "target_top1",
    "output",
    "calibration",
    "checkpoints.every_epochs",
    "checkpoints.every_minutes",
    "checkpoints.keep",
    "data.max_unreadable",
    "hang_timeout_s",
    "tracking.mlflow",
    "tracking.parent",
)
# Settings that came with 0.6.0 and 0.7.0, as they are where nobody chooses: runs of older versions belong with those.
_UNLESS_RECORDED = {
    "memory_format": "auto",
    "compile": "false",
    "gradients.wire": "float32",
    "schedule.policy": "planned",
    "schedule.growth.factor": "2.0",
    "schedule.growth.share": "1.0",
}
# Where the plan does not listen, measuring more or less of the gradient noise does not make another experiment.
_PROBE = {"gradient_probe.every": "10", "gradient_probe.memory_epochs": "1.0"}
EPOCHS_SEEN = "epochs_seen"
_TAGS_OF_THE_FLEET = ("world_size", "collective")


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run, ready to be compared.

    recipe: what it was to do and on which fleet, apart from its name and its seed. epochs: the numbers of the epochs
    that were logged; series: for each metric a value at each of them, nan where it was not logged, and EPOCHS_SEEN,
    samples in units of the dataset: 10.24 where the last epoch was not whole. phases: of the plan, as `trainer plan
    --json` prints them, and predicted_s what the whole run was predicted to take, if it was. source: where the run was
    read; torn_line: the number of an incomplete last line that was skipped there.
    """

    run_uid: str
    name: str
    experiment: str
    seed: str
    target_top1: float | None
    recipe: Mapping[str, str]
    status: str
    error: str | None
    start_time_s: float
    epochs: tuple[int, ...]
    series: Mapping[str, tuple[float, ...]]
    phases: tuple[Mapping[str, Any], ...]
    predicted_s: float | None
    source: str
    torn_line: int | None

    def values(self, metric: str) -> tuple[float, ...]:
        """The metric at each epoch; nan throughout where it was never logged."""
        return self.series.get(metric, (math.nan,) * len(self.epochs))


def load_runs(sources: Sequence[str], experiment: str | None, tracking_uri: str | None) -> tuple[RunRecord, ...]:
    """The named runs in the order given, or those of an experiment in MLflow, oldest first.

    A source is a journal, the folder of a run, a folder of such folders (a sweep's too), or an MLflow run id. Raises
    TrackingError for a source that is none of these, cannot be read, or has no finished epoch yet; among others of a
    folder or an experiment such a run is left out, unless it failed: that it did is a result.
    """
    if experiment is not None:
        logs = load_run_logs(_store(tracking_uri, f"experiment {experiment!r}"), experiment=experiment)
    else:
        logs = [log for source in sources for log in _load(source, tracking_uri)]
    runs = {log.run.run_uid: record_of(log) for log in logs}
    begun = [run for run in runs.values() if run.epochs]
    fresh = [run for run in runs.values() if not run.epochs and run.status != FAILED]
    if fresh and (experiment is None or not begun):
        raise TrackingError(f"{fresh[0].source}: has no finished epoch yet: let it go on, or leave this run out")
    if not begun and runs:
        run = next(iter(runs.values()))
        raise TrackingError(f"{run.source}: failed in its first epoch ({run.error}): there is nothing to compare")
    return tuple(run for run in runs.values() if run.epochs or run.status == FAILED)


def record_of(log: RunLog) -> RunRecord:
    """What a report needs of a run's log."""
    metrics = sorted({metric for entry in log.epochs for metric in entry.metrics})
    settings = {**_UNLESS_RECORDED, **log.run.params}
    not_heard = _PROBE if settings["schedule.policy"] == "planned" else ()
    recipe = {
        key: value
        for key, value in settings.items()
        # A setting that is null says what a version that did not have it yet did.
        if key not in _NOT_PART_OF_THE_RECIPE and key not in not_heard and value != _PROBE.get(key, "null")
    }
    plan = _plan(log.run.artifacts.get("plan.json"))
    recipe |= {tag: log.run.tags[tag] for tag in _TAGS_OF_THE_FLEET if tag in log.run.tags}
    return RunRecord(
        run_uid=log.run.run_uid,
        name=log.run.name,
        experiment=log.run.experiment,
        seed=log.run.params.get("seed", "?"),
        target_top1=_fraction(log.run.params.get("target_top1")),
        recipe=recipe,
        status=log.status,
        error=log.error,
        start_time_s=log.start_time_s,
        epochs=tuple(entry.epoch for entry in log.epochs),
        series={
            **{metric: tuple(entry.metrics.get(metric, math.nan) for entry in log.epochs) for metric in metrics},
            EPOCHS_SEEN: _epochs_seen(log, plan),
        },
        phases=_phases(plan),
        predicted_s=_seconds(plan.get("predicted_seconds")),
        source=log.source,
        torn_line=log.torn_line,
    )


def _load(source: str, tracking_uri: str | None) -> list[RunLog]:
    if Path(source).exists():
        logs = [read_journal(journal) for journal in journals_in(Path(source))]
        return [log for log in logs if log.epochs or log.status == FAILED] or logs
    if _MLFLOW_RUN_ID.fullmatch(source):
        return load_run_logs(_store(tracking_uri, f"run {source}"), [source])
    raise TrackingError(f"{source}: no such journal or folder, and no MLflow run id: name one of these")


def _store(tracking_uri: str | None, wanted: str) -> str:
    if tracking_uri is None:
        raise TrackingError(f"{wanted}: there is no MLflow store to look in: give --tracking URI, or name run folders")
    return tracking_uri


def _fraction(text: str | None) -> float | None:
    try:
        value = float(text) if text is not None else math.nan
    except ValueError:  # "null": the run had no target
        return None
    return value if 0 < value <= 1 else None


def _plan(text: str | None) -> Mapping[str, Any]:
    """The plan; empty where it is missing or of a kind that this version does not know."""
    try:
        plan = json.loads(text or "{}")
    except ValueError:
        return {}
    return plan if isinstance(plan, dict) else {}


def _phases(plan: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    phases = plan.get("phases")
    return tuple(phase for phase in phases if isinstance(phase, dict)) if isinstance(phases, list) else ()


def _seconds(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _epochs_seen(log: RunLog, plan: Mapping[str, Any]) -> tuple[float, ...]:
    size = plan.get("dataset_size")
    if not isinstance(size, int) or size < 1:
        return tuple(float(entry.epoch) for entry in log.epochs)
    return tuple(entry.metrics.get("samples_seen", entry.epoch * size) / size for entry in log.epochs)
