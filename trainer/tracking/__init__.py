"""The record of a run: a journal on disk first, an MLflow store when there is one."""

from __future__ import annotations

from trainer.passwords import without_password
from trainer.tracking.errors import TrackingError
from trainer.tracking.journal import Journal
from trainer.tracking.journal_reader import FILE_NAME, SWEEP_FILE_NAME, journals_in, read_journal, records_in
from trainer.tracking.mlflow_tracker import MlflowTracker
from trainer.tracking.run_log import RunLog
from trainer.tracking.tracker import (
    FAILED,
    FINISHED,
    KILLED,
    KIND,
    LOST_WORKER,
    PAUSED,
    RUNNING,
    STOOD_STILL,
    SWEEP,
    RunStart,
    Tracker,
    Trackers,
)
from trainer.tracking.tracking_uri import resolve_tracking_uri

__all__ = [
    "FAILED",
    "FILE_NAME",
    "FINISHED",
    "KILLED",
    "KIND",
    "LOST_WORKER",
    "PAUSED",
    "RUNNING",
    "STOOD_STILL",
    "SWEEP",
    "SWEEP_FILE_NAME",
    "Journal",
    "MlflowTracker",
    "RunLog",
    "RunStart",
    "Tracker",
    "Trackers",
    "TrackingError",
    "journals_in",
    "read_journal",
    "records_in",
    "resolve_tracking_uri",
    "without_password",
]
