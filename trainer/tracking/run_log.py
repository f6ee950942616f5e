"""Everything that was recorded of one run, as a value: what a journal holds, and what an MLflow store gives back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trainer.tracking.tracker import KILLED, RUNNING, RunStart


@dataclass(frozen=True, slots=True)
class EpochMetrics:
    """The metrics logged after an epoch. time_s: seconds since 1970, when they were logged."""

    time_s: float
    epoch: int
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Event:
    """A decision, a target that was met, a warning."""

    time_s: float
    kind: str
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Close:
    """How a run ended."""

    time_s: float
    status: str
    summary: Mapping[str, float]
    error: str | None


@dataclass(frozen=True, slots=True)
class RunLog:
    """One run as far as it was recorded.

    source: where it was read: a journal's path, or words. run: as it was first started. epochs: ascending, one entry
    an epoch; where a run was taken up again from a checkpoint and repeated an epoch, the later entry. close: None while
    the run goes on, or when its process died without a word. is_being_written: its process lives. torn_line: number of
    an incomplete last line that was skipped. record_count: complete lines read.
    """

    source: str
    start_time_s: float
    run: RunStart
    epochs: tuple[EpochMetrics, ...]
    events: tuple[Event, ...]
    close: Close | None
    is_being_written: bool
    torn_line: int | None = None
    record_count: int = 0

    @property
    def status(self) -> str:
        """FINISHED, FAILED, KILLED, PAUSED or RUNNING; a run that nobody writes and nobody closed was killed."""
        if self.close is not None:
            return self.close.status
        return RUNNING if self.is_being_written else KILLED

    @property
    def error(self) -> str | None:
        """Why the run ended badly; None where it did not, or goes on."""
        if self.close is not None:
            return self.close.error
        return None if self.is_being_written else "the journal ends without a closing record: the process died"

    @property
    def end_time_s(self) -> float:
        """When it was last heard of, in seconds since 1970."""
        if self.close is not None:
            return self.close.time_s
        times = [self.start_time_s, *(e.time_s for e in self.epochs[-1:]), *(e.time_s for e in self.events[-1:])]
        return max(times)
