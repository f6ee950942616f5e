"""An MLflow store: opening it, its experiments, and what is said where it fails.

MLflow takes two seconds to import, so it is imported when a store is opened. It is kept quiet and to itself: no usage
statistics, no waiting for minutes on a server that is gone (`_SETTINGS`).
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.passwords import without_password, without_secrets
from trainer.tracking.errors import TrackingError
from trainer.tracking.mlflow_notes import EXPERIMENT_NOTE, NOTE_TAG
from trainer.tracking.tracking_uri import sqlite_path

if TYPE_CHECKING:
    from mlflow import MlflowClient

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


def experiment_id(client: MlflowClient, uri: str, name: str) -> str:
    """The experiment of this name, made if need be, with a description; an SQLite store keeps its artifacts in a folder
    beside the file."""
    from mlflow import MlflowException

    if (experiment := client.get_experiment_by_name(name)) is not None:
        return str(experiment.experiment_id)
    path = sqlite_path(uri)
    artifacts = None if path is None else (path.absolute().parent / "mlartifacts").as_uri()
    try:
        return str(client.create_experiment(name, artifacts, tags={NOTE_TAG: EXPERIMENT_NOTE}))
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


def artifact_names(client: MlflowClient, run_id: str) -> set[str]:
    """The files that the store keeps with a run."""
    return {artifact.path for artifact in client.list_artifacts(run_id)}


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
