"""Reads a journal back, strictly: a report made from half-understood records would be worse than none."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from trainer.tracking.errors import TrackingError
from trainer.tracking.run_log import Close, EpochMetrics, Event, RunLog
from trainer.tracking.tracker import CLOSED_STATUSES, RUN_UID, RunStart

FILE_NAME = "journal.jsonl"
SWEEP_FILE_NAME = "sweep.jsonl"  # a sweep's own, in the folder that holds its runs' folders
_NOT_IN_JSON = {"nan": float("nan"), "inf": float("inf"), "-inf": float("-inf")}
_YEAR_10000_S = 253_402_300_800.0


def read_journal(path: Path) -> RunLog:
    """All that the journal at `path` says; an incomplete last line is skipped and named in `torn_line`.

    Raises TrackingError when the file cannot be read, is no journal, or is damaged elsewhere (with the line number).
    """
    try:
        with open(path, "rb") as file:
            # Asked before reading: a run that closes in between is then read with its closing record.
            is_being_written = _is_locked(file.fileno())
            *lines, tail = file.read().split(b"\n")
    except OSError as error:
        raise TrackingError(f"{path}: cannot read this journal ({error.strerror})") from error

    starts: list[tuple[float, RunStart]] = []
    epochs: dict[int, EpochMetrics] = {}
    events: list[Event] = []
    close: Close | None = None
    for number, line in enumerate(lines, 1):
        try:
            record = _parse(line)
            time_s = _time(record)
            kind = _text(record, "type")
            if kind == "start":
                run = _run_start(record)
                if starts and run.run_uid != starts[0][1].run_uid:
                    raise _Damage(f"is of run {run.run_uid}, the lines before of {starts[0][1].run_uid}")
                starts.append((time_s, run))
                close = None
            elif not starts:
                raise _Damage("comes before the start of a run")
            elif kind == "epoch":
                epoch = _count(record, "epoch")
                epochs[epoch] = EpochMetrics(time_s, epoch, _metrics(record, "metrics"))
            elif kind == "event":
                events.append(Event(time_s, _text(record, "kind"), _mapping(record, "fields")))
            elif kind == "close":
                close = _close(time_s, record)
            else:
                raise _Damage(f"has an unknown type {kind[:40]!r}")
        except (_Damage, ValueError, RecursionError, OverflowError) as error:
            raise TrackingError(
                f"{path}, line {number}: is no record of a journal ({_reason(error)}): "
                "restore the file, or remove this line if you know what it was"
            ) from error
    if not starts:
        raise TrackingError(f"{path}: holds no run: its process ended before the first record, or this is no journal")
    return RunLog(
        source=str(path),
        start_time_s=starts[0][0],
        run=starts[0][1],
        epochs=tuple(epochs[epoch] for epoch in sorted(epochs)),
        events=tuple(events),
        close=close,
        is_being_written=is_being_written,
        torn_line=len(lines) + 1 if tail else None,
        record_count=len(lines),
    )


def journals_in(place: Path) -> list[Path]:
    """The journals of runs that a path means: a journal, the folder of a run, or a folder of such folders (by name).

    A sweep's journal is none of a run: it means those of the sweep's runs. Raises TrackingError when there is none.
    """
    if place.name == SWEEP_FILE_NAME:
        place = place.parent
    if place.is_file():
        return [place]
    if (place / FILE_NAME).is_file():
        return [place / FILE_NAME]
    if journals := sorted(place.glob(f"*/{FILE_NAME}")):
        return journals
    raise TrackingError(f"{place}: is no journal, and no folder with a {FILE_NAME} in it: name the folder of a run")


def records_in(place: Path) -> list[Path]:
    """As journals_in, and where the path means a sweep also the sweep's own journal, before those of its runs."""
    sweep = place if place.name == SWEEP_FILE_NAME else place / SWEEP_FILE_NAME
    if not sweep.is_file():
        return journals_in(place)
    return [sweep, *sorted(sweep.parent.glob(f"*/{FILE_NAME}"))]


class _Damage(Exception):
    """What is wrong with a line; becomes a TrackingError with file and line number."""


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, _Damage) else f"{type(error).__name__}: {error}"[:120]


def _is_locked(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        fcntl.flock(file, fcntl.LOCK_UN)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        return False
    return False


def _parse(line: bytes) -> dict[str, Any]:
    def refuse(constant: str) -> NoReturn:
        raise _Damage(f"{constant} is not JSON")

    record = json.loads(line, parse_constant=refuse)
    if not isinstance(record, dict):
        raise _Damage("is not a JSON object")
    if b"\\u" in line:
        json.dumps(record, ensure_ascii=False).encode()  # half a surrogate pair could be read, but never printed
    return record


def _run_start(record: Mapping[str, Any]) -> RunStart:
    parent = record.get("parent")  # journals of older versions have none
    return RunStart(
        run_uid=_run_uid(record, "run_uid"),
        name=_text(record, "name"),
        experiment=_text(record, "experiment"),
        params=_texts(record, "params"),
        tags=_texts(record, "tags"),
        artifacts=_texts(record, "artifacts"),
        parent=None if parent is None else _run_uid(record, "parent"),
    )


def _run_uid(record: Mapping[str, Any], key: str) -> str:
    run_uid = _text(record, key)
    if not RUN_UID.fullmatch(run_uid):
        raise _Damage(f"{key!r} may hold letters, digits and . _ - only")
    return run_uid


def _close(time_s: float, record: Mapping[str, Any]) -> Close:
    status = _text(record, "status")
    if status not in CLOSED_STATUSES:
        raise _Damage(f"'status' is none of {', '.join(CLOSED_STATUSES)}")
    error = record.get("error")
    if error is not None and not isinstance(error, str):
        raise _Damage("'error' is no text")
    return Close(time_s, status, _metrics(record, "summary"), error)


def _text(record: Mapping[str, Any], key: str) -> str:
    value = record.get(key)
    if not isinstance(value, str):
        raise _Damage(f"{key[:40]!r} is missing or no text")
    return value


def _number(record: Mapping[str, Any], key: str) -> float:
    value = record.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _Damage(f"{key[:40]!r} is missing or no number")
    return float(value)


def _time(record: Mapping[str, Any]) -> float:
    time_s = _number(record, "time")
    if not 0 <= time_s < _YEAR_10000_S:
        raise _Damage("'time' is no time")
    return time_s


def _count(record: Mapping[str, Any], key: str) -> int:
    value = record.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise _Damage(f"{key[:40]!r} is missing or no count")
    return value


def _mapping(record: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = record.get(key)
    if not isinstance(value, dict):
        raise _Damage(f"{key[:40]!r} is missing or no object")
    return value


def _texts(record: Mapping[str, Any], key: str) -> dict[str, str]:
    return {name: _text(_mapping(record, key), name) for name in _mapping(record, key)}


def _metrics(record: Mapping[str, Any], key: str) -> dict[str, float]:
    metrics = _mapping(record, key)
    return {
        name: _NOT_IN_JSON[value] if isinstance(value, str) and value in _NOT_IN_JSON else _number(metrics, name)
        for name, value in metrics.items()
    }
