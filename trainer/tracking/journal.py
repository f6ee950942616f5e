"""The journal: every record of a run in a file of its own, one JSON object a line, before it goes anywhere else.

Lines have a "type" (start, epoch, event, close) and a "time" (seconds since 1970). JSON has no nan and no infinity:
they are written as the strings "nan", "inf" and "-inf"; metrics that hold these strings are read back as numbers.
Passwords in addresses are blotted out here, in whatever text they stand: nothing goes elsewhere that is not read from
the journal.

A process that dies while writing leaves at most an incomplete last line. The reader skips it and says so; any other
damage is refused with file and line number. The writer holds a lock on the file while it lives, so that a reader can
tell a run that goes on from one whose process died without a word, and so that no two processes write one journal.
"""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.passwords import without_password
from trainer.tracking.errors import TrackingError
from trainer.tracking.journal_reader import read_journal
from trainer.tracking.tracker import CLOSED_STATUSES, RunStart


class Journal:
    """Writes one run's journal at `path`, whose folder is made if need be.

    Each record is one write of one line, so readers never see half of one; an epoch's is on disk for good when log
    returns, all are at close. A journal
    that is there already is continued, if it is of the same run. Raises TrackingError, at once or at any record, when
    the file cannot be written (read-only folder, full disk, another process writing it).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        except OSError as error:
            raise TrackingError(
                f"{path}: cannot write the journal of the run ({error.strerror}): choose another output folder"
            ) from error
        try:
            _lock(self._file, path)
            _drop_incomplete_line(self._file)
        except BaseException:
            os.close(self._file)
            raise

    def start(self, run: RunStart) -> None:
        if os.fstat(self._file).st_size > 0:
            written = read_journal(self.path).run.run_uid
            if written != run.run_uid:
                raise TrackingError(
                    f"{self.path}: is the journal of run {written}, not of {run.run_uid}: choose another output folder"
                )
        self._write(
            "start",
            run_uid=run.run_uid,
            name=run.name,
            experiment=run.experiment,
            params=dict(run.params),
            tags=dict(run.tags),
            artifacts=dict(run.artifacts),
            parent=run.parent,
        )

    def log(self, epoch: int, metrics: Mapping[str, float]) -> None:
        # On the disk before the epoch's checkpoint is: a run that goes on from that has all metrics until then.
        self._write("epoch", lasting=True, epoch=epoch, metrics=metrics)

    def event(self, kind: str, fields: Mapping[str, object]) -> None:
        self._write("event", kind=kind, fields=fields)

    def close(self, status: str, summary: Mapping[str, float], error: str | None = None) -> None:
        assert status in CLOSED_STATUSES, f"a run ends as one of {CLOSED_STATUSES}, not {status!r}"
        try:
            self._write("close", lasting=True, status=status, summary=summary, error=error)
        finally:
            os.close(self._file)

    def _write(self, record_type: str, lasting: bool = False, **fields: object) -> None:
        record = {"type": record_type, "time": round(time.time(), 3), **fields}
        line = json.dumps(_to_json(record), ensure_ascii=False, allow_nan=False).encode(errors="replace") + b"\n"
        end = os.lseek(self._file, 0, os.SEEK_END)
        try:
            if os.write(self._file, line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if lasting:
                os.fsync(self._file)
        except OSError as error:
            # Half a line in the middle would make the journal unreadable, should a later record fit.
            os.ftruncate(self._file, end)
            raise TrackingError(
                f"{self.path}: cannot write the journal of the run ({error.strerror}): make room, then resume"
            ) from error


def _to_json(value: Any) -> Any:
    """The value in JSON's types, texts without passwords: numbers that JSON cannot hold as strings, other libraries'
    scalars as Python's."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return without_password(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    if isinstance(value, Mapping):
        return {without_password(str(key)): _to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_to_json(item) for item in value]
    if hasattr(value, "item"):  # scalars of numpy and torch
        return _to_json(value.item())
    raise AssertionError(f"a journal holds JSON values, not {type(value).__name__}: {value!r}")


def _lock(file: int, path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise TrackingError(
            f"{path}: another process is writing this journal: wait for that run, or choose another output folder"
        ) from error
    except OSError as error:
        # A file system without locks: the journal is as good, but a reader takes an unclosed run for a dead one.
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            raise


def _drop_incomplete_line(file: int) -> None:
    """Cuts off what a process that died left unfinished, so that the next record starts a line of its own."""
    size = os.fstat(file).st_size
    content = os.pread(file, size, 0)
    complete = content.rfind(b"\n") + 1
    if complete < size:
        os.ftruncate(file, complete)
