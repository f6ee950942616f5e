"""Sends a run's log to an MLflow store.

A run is found again by its tag `run_uid`. Whatever the store holds already is not sent again, so one and the same code
serves the running job, a job whose server came back, and `trainer sync`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.tracking.mlflow_notes import NOTE_TAG, run_note
from trainer.tracking.mlflow_store import MOST_RUNS, artifact_names, errors_of, experiment_id, open_client
from trainer.tracking.run_log import RunLog
from trainer.tracking.tracker import FINISHED, KIND, PAUSED, RUNNING, SWEEP

if TYPE_CHECKING:
    from mlflow.entities import Metric

RUN_UID_TAG = "run_uid"
PARENT_UID_TAG = "parent_run_uid"
_PARENT_ID_TAG = "mlflow.parentRunId"  # what MLflow's pages nest runs by
ERROR_TAG = "error"
STATUS_NAMES = {PAUSED: "SCHEDULED"}  # what MLflow calls a run's status, where it has another name for it
CLOSING_STEP = 0
_MAX_METRICS_PER_BATCH = 1000  # MLflow's limits for one request
_MAX_PARAMS_PER_BATCH = 100


@dataclass(slots=True)
class _StoredRun:
    """What the store is known to hold of the run. has_error: it says why the run ended badly. has_note: somebody has
    described it. is_nested: its place among sweeps and their runs is seen to. latest: the value of each metric that
    MLflow shows for the run."""

    run_id: str
    status: str
    has_error: bool
    has_note: bool
    is_nested: bool
    points: set[tuple[str, int]]
    latest: dict[str, float]
    params: set[str]
    artifacts: set[str]


class RunSender:
    """Sends one run's log to an MLflow store, as often as the log has grown; only what the store lacks.

    Any exception may come out of `send`: the next call then asks the store afresh what it holds. Of an epoch that was
    repeated after a restart the store keeps what it got first: MLflow cannot take a point back.
    """

    def __init__(self, uri: str) -> None:
        self.client = open_client(uri)
        self._uri = uri
        self._stored: _StoredRun | None = None

    def send(self, log: RunLog) -> int:
        """Brings the store up to the log; returns how many points of curves were missing there."""
        stored, self._stored = self._stored, None
        stored = stored or self._find(log) or self._create(log)
        sent = self._send_points(log, stored)
        self._nest(log, stored)
        self._send_status(log, stored, has_news=sent > 0)
        # Last: a server whose artifact folder cannot be reached from here still gets every number.
        self._send_artifacts(log, stored)
        self._stored = stored
        return sent

    def _find(self, log: RunLog) -> _StoredRun | None:
        experiment_id = self._experiment_id(log.run.experiment)
        found = self.client.search_runs([experiment_id], f"tags.{RUN_UID_TAG} = '{log.run.run_uid}'", max_results=1)
        if not found:
            return None
        (run,) = found
        run_id = run.info.run_id
        return _StoredRun(
            run_id=run_id,
            status=run.info.status,
            has_error=ERROR_TAG in run.data.tags,
            has_note=NOTE_TAG in run.data.tags,
            is_nested=_PARENT_ID_TAG in run.data.tags,
            points={(key, m.step) for key in run.data.metrics for m in self.client.get_metric_history(run_id, key)},
            latest=dict(run.data.metrics),
            params=set(run.data.params),
            artifacts=artifact_names(self.client, run_id),
        )

    def _create(self, log: RunLog) -> _StoredRun:
        ours = {RUN_UID_TAG: log.run.run_uid} | ({PARENT_UID_TAG: log.run.parent} if log.run.parent else {})
        run = self.client.create_run(
            self._experiment_id(log.run.experiment),
            start_time=_milliseconds(log.start_time_s),
            tags={**ours, **{_name(key): value for key, value in log.run.tags.items()}},
            run_name=log.run.name,
        )
        return _StoredRun(
            run_id=run.info.run_id,
            status=run.info.status,
            has_error=False,
            has_note=False,
            is_nested=False,
            points=set(),
            latest={},
            params=set(),
            artifacts=set(),
        )

    def _experiment_id(self, name: str) -> str:
        return experiment_id(self.client, self._uri, name)

    def _send_points(self, log: RunLog, stored: _StoredRun) -> int:
        from mlflow.entities import Metric, Param

        params = [Param(_name(key), value) for key, value in log.run.params.items() if _name(key) not in stored.params]
        for part in _batches(params, _MAX_PARAMS_PER_BATCH):
            self.client.log_batch(stored.run_id, params=part)
            stored.params.update(param.key for param in part)
        points = {
            (_name(key), entry.epoch): Metric(_name(key), value, _milliseconds(entry.time_s), entry.epoch)
            for entry in log.epochs
            for key, value in entry.metrics.items()
            if (_name(key), entry.epoch) not in stored.points
        }
        closing = [metric for metric in _closing(log) if repr(stored.latest.get(metric.key)) != repr(metric.value)]
        for part in _batches([*points.values(), *closing], _MAX_METRICS_PER_BATCH):
            self.client.log_batch(stored.run_id, metrics=part)
        stored.points.update(points)
        stored.latest.update((metric.key, metric.value) for metric in closing)
        return len(points) + len(closing)

    def _nest(self, log: RunLog, stored: _StoredRun) -> None:
        """Puts a sweep's runs under it. Each is stored before it looks, so whichever comes second finds the other."""
        if stored.is_nested:
            return
        if log.run.parent is not None:
            for sweep in self._tagged(RUN_UID_TAG, log.run.parent):
                self.client.set_tag(stored.run_id, _PARENT_ID_TAG, sweep.info.run_id)
                stored.is_nested = True
            return
        if log.run.tags.get(KIND) == SWEEP:
            for run in self._tagged(PARENT_UID_TAG, log.run.run_uid):
                if _PARENT_ID_TAG not in run.data.tags:
                    self.client.set_tag(run.info.run_id, _PARENT_ID_TAG, stored.run_id)
        stored.is_nested = True

    def _tagged(self, tag: str, run_uid: str) -> Sequence[Any]:
        """The runs with this tag, in whatever experiment: those of one sweep may belong to several."""
        everywhere = [experiment.experiment_id for experiment in self.client.search_experiments()]
        return list(self.client.search_runs(everywhere, f"tags.{tag} = '{run_uid}'", max_results=MOST_RUNS))

    def _send_status(self, log: RunLog, stored: _StoredRun, has_news: bool) -> None:
        status = STATUS_NAMES.get(log.status, log.status)
        # A run that was taken up may have ended again as it did before: with another error, at another time.
        if status == stored.status and (log.status == RUNNING or not has_news):
            return
        if log.error is not None:
            self.client.set_tag(stored.run_id, ERROR_TAG, log.error)
        elif stored.has_error:  # of what was taken up again
            self.client.delete_tag(stored.run_id, ERROR_TAG)
        stored.has_error = log.error is not None
        if log.status == FINISHED and not stored.has_note and (note := run_note(log)) is not None:
            self.client.set_tag(stored.run_id, NOTE_TAG, note)
            stored.has_note = True
        if log.status in (RUNNING, PAUSED):
            self.client.update_run(stored.run_id, status=status)
        else:
            self.client.set_terminated(stored.run_id, status, end_time=_milliseconds(log.end_time_s))
        stored.status = status
        stored.artifacts.discard(Path(log.source).name)  # the journal there is an earlier one

    def _send_artifacts(self, log: RunLog, stored: _StoredRun) -> None:
        for name, text in log.run.artifacts.items():
            if name not in stored.artifacts:
                self.client.log_text(stored.run_id, text, name)
                stored.artifacts.add(name)
        journal = Path(log.source)
        if log.status != RUNNING and journal.name not in stored.artifacts:
            self.client.log_artifact(stored.run_id, str(journal))
            stored.artifacts.add(journal.name)


def send_journal(uri: str, log: RunLog) -> int:
    """Sends a journal to the store; returns how many points of curves were missing there. Raises TrackingError."""
    with errors_of(uri):
        return RunSender(uri).send(log)


def _closing(log: RunLog) -> list[Metric]:
    """The closing numbers, where they do not repeat what was logged after the last epoch.

    At step 0, where no epoch is: MLflow draws bars for what has no other step, a bar a run. A run that ended more than
    once has several there; the latest counts.
    """
    from mlflow.entities import Metric

    if log.close is None:
        return []
    curves = log.epochs[-1].metrics if log.epochs else {}
    time = _milliseconds(log.close.time_s)
    return [
        Metric(_name(key), float(value), time, CLOSING_STEP)
        for key, value in log.close.summary.items()
        if key not in curves
    ]


def _name(key: str) -> str:
    """The key in the characters that MLflow allows."""
    return re.sub(r"[^\w\-. :/]", "_", key)


def _milliseconds(time_s: float) -> int:
    return round(time_s * 1000)


def _batches(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
