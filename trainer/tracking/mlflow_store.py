"""Sends a run's log to an MLflow store. The one file that imports MLflow.

MLflow takes two seconds to import, so it is imported when a store is opened. It is kept quiet and to itself: no usage
statistics, no waiting for minutes on a server that is gone (`_SETTINGS`).

A run is found again by its tag `run_uid`. Whatever the store holds already is not sent again, so one and the same code
serves the running job, a job whose server came back, and `trainer sync`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.passwords import without_password, without_secrets
from trainer.tracking.errors import TrackingError
from trainer.tracking.run_log import EpochMetrics, RunLog
from trainer.tracking.tracker import KIND, PAUSED, RUNNING, SWEEP
from trainer.tracking.tracking_uri import sqlite_path

if TYPE_CHECKING:
    from mlflow import MlflowClient

RUN_UID_TAG = "run_uid"
PARENT_UID_TAG = "parent_run_uid"
_PARENT_ID_TAG = "mlflow.parentRunId"  # what MLflow's pages nest runs by
ERROR_TAG = "error"
STATUS_NAMES = {PAUSED: "SCHEDULED"}  # what MLflow calls a run's status, where it has another name for it
_MAX_METRICS_PER_BATCH = 1000  # MLflow's limits for one request
_MAX_PARAMS_PER_BATCH = 100
MOST_RUNS = 50_000  # the most that MLflow gives at once

# MLflow looks its settings up in the environment at every use; these stand where the user has set nothing.
_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": True,
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": 0,  # ours are spaced better: MLflow's own take minutes and cannot be stopped
    "MLFLOW_HTTP_REQUEST_TIMEOUT": 10,
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": True,
}


def open_client(uri: str) -> MlflowClient:
    """A client for the store. Raises TrackingError where MLflow is not installed or an SQLite file cannot be used."""
    if (path := sqlite_path(uri)) is not None:
        _check_sqlite(path)
    try:
        with _no_telemetry_while_importing():
            import mlflow
            from mlflow import environment_variables
    except ImportError as error:
        raise TrackingError(
            f"MLflow cannot be imported ({error}): install mlflow, or set tracking.mlflow=off; "
            "`trainer sync` sends a journal later"
        ) from error
    for name, value in _SETTINGS.items():
        if hasattr(environment_variables, name):  # the first MLflow 3 had no usage statistics
            getattr(environment_variables, name).default = value
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    return mlflow.MlflowClient(tracking_uri=uri)


@dataclass(slots=True)
class _StoredRun:
    """What the store is known to hold of the run. has_error: it says why the run ended badly. is_nested: its place
    among sweeps and their runs is seen to."""

    run_id: str
    status: str
    has_error: bool
    is_nested: bool
    points: set[tuple[str, int]]
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
            is_nested=_PARENT_ID_TAG in run.data.tags,
            points={(key, m.step) for key in run.data.metrics for m in self.client.get_metric_history(run_id, key)},
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
        return _StoredRun(run.info.run_id, run.info.status, False, False, points=set(), params=set(), artifacts=set())

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
            for entry in (*log.epochs, *_summary_as_epoch(log))
            for key, value in entry.metrics.items()
            if (_name(key), entry.epoch) not in stored.points
        }
        for part in _batches(list(points.values()), _MAX_METRICS_PER_BATCH):
            self.client.log_batch(stored.run_id, metrics=part)
        stored.points.update(points)
        return len(points)

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


def experiment_id(client: MlflowClient, uri: str, name: str) -> str:
    """The experiment of this name, made if need be; an SQLite store keeps its artifacts in a folder beside the file."""
    from mlflow import MlflowException

    if (experiment := client.get_experiment_by_name(name)) is not None:
        return str(experiment.experiment_id)
    path = sqlite_path(uri)
    artifacts = None if path is None else (path.absolute().parent / "mlartifacts").as_uri()
    try:
        return str(client.create_experiment(name, artifact_location=artifacts))
    except MlflowException:
        # Another run may have made it in between.
        if (experiment := client.get_experiment_by_name(name)) is None:
            raise
        return str(experiment.experiment_id)


def store_comparison(uri: str, experiment: str, run_uids: Sequence[str], files: Sequence[Path]) -> str:
    """Keeps a comparison's files as a finished run named "comparison" in the experiment; returns its run id."""
    with errors_of(uri):
        client = open_client(uri)
        tags = {"kind": "comparison", "compared_runs": ", ".join(run_uids)}
        run = client.create_run(experiment_id(client, uri, experiment), tags=tags, run_name="comparison")
        for file in files:
            client.log_artifact(run.info.run_id, str(file))
        client.set_terminated(run.info.run_id)
        return str(run.info.run_id)


def send_journal(uri: str, log: RunLog) -> int:
    """Sends a journal to the store; returns how many points of curves were missing there. Raises TrackingError."""
    with errors_of(uri):
        return RunSender(uri).send(log)


def artifact_names(client: MlflowClient, run_id: str) -> set[str]:
    """The files that the store keeps with a run."""
    return {artifact.path for artifact in client.list_artifacts(run_id)}


def _summary_as_epoch(log: RunLog) -> Iterator[EpochMetrics]:
    """The closing numbers as points at the last epoch, where they do not repeat what was logged there."""
    if log.close is not None:
        yield EpochMetrics(log.close.time_s, log.epochs[-1].epoch if log.epochs else 0, log.close.summary)


def _name(key: str) -> str:
    """The key in the characters that MLflow allows."""
    return re.sub(r"[^\w\-. :/]", "_", key)


def _milliseconds(time_s: float) -> int:
    return round(time_s * 1000)


def _batches(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _check_sqlite(path: Path) -> None:
    """Refuses at once what MLflow would try again and again for minutes."""
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=10)) as database:
            database.execute("select count(*) from sqlite_master").fetchone()
    except sqlite3.Error as error:
        raise TrackingError(f"{path}: cannot be used as MLflow's database ({error}): name another file") from error


@contextlib.contextmanager
def _no_telemetry_while_importing() -> Iterator[None]:
    """MLflow makes an installation id in the user's home as it is imported, unless its environment says not to."""
    name = "MLFLOW_DISABLE_TELEMETRY"
    if name in os.environ:
        yield
        return
    os.environ[name] = "true"
    try:
        yield
    finally:
        del os.environ[name]


@contextlib.contextmanager
def errors_of(uri: str) -> Iterator[None]:
    """Whatever goes wrong with a store (of many libraries' exceptions) as one line for the user.

    Without the original exception: its text may hold the password of the URI.
    """
    try:
        yield
    except TrackingError:
        raise
    except Exception as error:
        raise TrackingError(f"MLflow store {without_password(uri)}: {reason_of(error)}") from None


def reason_of(error: BaseException) -> str:
    """Why a store failed, in a line without secrets: the system's own words where it was the system that refused.

    requests puts a token that cannot be sent (with a line break at its end, from a file) into its message.
    """
    text, cause = str(error).strip() or type(error).__name__, error.__cause__ or error.__context__
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            text = cause.strerror
        cause = cause.__cause__ or cause.__context__
    line = without_secrets(text, os.environ).splitlines()[0]
    return line if len(line) <= 200 else f"{line[:200]}..."
