"""Gets runs back from an MLflow store, as the same values that their journals would give."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.passwords import without_password
from trainer.tracking.errors import TrackingError
from trainer.tracking.mlflow_sender import CLOSING_STEP, ERROR_TAG, PARENT_UID_TAG, RUN_UID_TAG, STATUS_NAMES
from trainer.tracking.mlflow_store import MOST_RUNS, artifact_names, errors_of, open_client
from trainer.tracking.run_log import Close, EpochMetrics, RunLog
from trainer.tracking.tracker import CLOSED_STATUSES, KIND, RUN_UID, SWEEP, RunStart

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_AT_A_TIME = 8  # below the ten connections that MLflow keeps open
_ARTIFACTS_READ_BACK = ("plan.json", "config.yaml")
_LARGEST_FLOAT = 1.7976931348623157e308  # what MLflow's SQL store makes of infinity


def load_run_logs(uri: str, run_ids: Sequence[str] = (), experiment: str | None = None) -> list[RunLog]:
    """The runs with these MLflow run ids, or all of an experiment's that this program logged, oldest first.

    A sweep is no run: an experiment's are left out.

    Raises TrackingError where the store cannot be read or the runs are not there.
    """
    with errors_of(uri):
        client = open_client(uri)
        if experiment is None:
            return _run_logs(client, uri, [client.get_run(run_id) for run_id in run_ids])
        found = client.get_experiment_by_name(experiment)
        if found is None:
            known = ", ".join(sorted(e.name for e in client.search_experiments())) or "none"
            raise TrackingError(f"experiment {experiment!r}: is not in {without_password(uri)}; it has: {known}")
        runs = client.search_runs([found.experiment_id], order_by=["attributes.start_time ASC"], max_results=MOST_RUNS)
        ours = [run for run in runs if _is_ours(run) and not _is_sweep(run)]
        if not ours:
            raise TrackingError(f"experiment {experiment!r} in {without_password(uri)}: has no runs of this program")
        return _run_logs(client, uri, ours)


def _run_logs(client: MlflowClient, uri: str, runs: Sequence[Run]) -> list[RunLog]:
    """Several at a time: a server is asked for each curve by itself, and its answers take a while, however short."""
    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        return list(pool.map(lambda run: _run_log(client, uri, run), runs))


def _run_log(client: MlflowClient, uri: str, run: Run) -> RunLog:
    run_id = run.info.run_id
    tags = run.data.tags
    if not _is_ours(run):
        raise TrackingError(f"run {run_id} in {without_password(uri)}: was not logged by this program")
    if _is_sweep(run):
        raise TrackingError(f"run {run_id} in {without_password(uri)}: is a sweep: name its folder, or its runs")
    epochs: dict[int, dict[str, float]] = {}
    times: dict[int, float] = {}
    for key in run.data.metrics:
        for metric in client.get_metric_history(run_id, key):
            if metric.step == CLOSING_STEP:
                continue
            epochs.setdefault(metric.step, {})[key] = _unclipped(metric.value)
            times[metric.step] = metric.timestamp / 1000
    close = None
    status = next((ours for ours, theirs in STATUS_NAMES.items() if theirs == run.info.status), run.info.status)
    if status in CLOSED_STATUSES:
        end_time = run.info.end_time or run.info.start_time
        close = Close(end_time / 1000, status, dict(run.data.metrics), tags.get(ERROR_TAG))
    return RunLog(
        source=f"MLflow run {run_id}",
        start_time_s=run.info.start_time / 1000,
        run=RunStart(
            run_uid=tags[RUN_UID_TAG],
            name=run.info.run_name,
            experiment=client.get_experiment(run.info.experiment_id).name,
            params=dict(run.data.params),
            tags={key: value for key, value in tags.items() if not key.startswith("mlflow.")},
            artifacts=_download(client, run_id),
            parent=tags.get(PARENT_UID_TAG),
        ),
        epochs=tuple(EpochMetrics(times[epoch], epoch, epochs[epoch]) for epoch in sorted(epochs)),
        events=(),
        close=close,
        is_being_written=close is None,
    )


def _is_ours(run: Run) -> bool:
    return RUN_UID.fullmatch(run.data.tags.get(RUN_UID_TAG, "")) is not None


def _is_sweep(run: Run) -> bool:
    return bool(run.data.tags.get(KIND) == SWEEP)


def _download(client: MlflowClient, run_id: str) -> dict[str, str]:
    there = artifact_names(client, run_id)
    with tempfile.TemporaryDirectory() as folder:
        return {
            name: Path(client.download_artifacts(run_id, name, folder)).read_text("utf-8")
            for name in _ARTIFACTS_READ_BACK
            if name in there
        }


def _unclipped(value: float) -> float:
    if abs(value) >= _LARGEST_FLOAT:
        return math.copysign(math.inf, value)
    return value
