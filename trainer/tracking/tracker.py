"""Where the numbers of a run go: the seam between the training loop and whatever keeps its records.

The loop knows `Tracker` and nothing else. What it is given is a `Trackers`: first the journal, which must not fail,
then the others, which must not get in the way.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

FINISHED: Final = "FINISHED"
FAILED: Final = "FAILED"
KILLED: Final = "KILLED"
RUNNING: Final = "RUNNING"
PAUSED: Final = "PAUSED"  # to be started again, with another number of workers
CLOSED_STATUSES: Final = (FINISHED, FAILED, KILLED, PAUSED)

STOOD_STILL: Final = "nothing moved"  # how it begins where a watchdog ended the run
LOST_WORKER: Final = "another worker has ended"  # how the error begins of a run whose other workers left it

RUN_UID: Final = re.compile(r"[A-Za-z0-9._-]{1,200}")
KIND: Final = "kind"  # the tag that tells a sweep from a run; a run has none
SWEEP: Final = "sweep"


@dataclass(frozen=True, slots=True)
class RunStart:
    """What is known of a run before its first update.

    run_uid: unique for all time, of letters, digits, `.`, `_` and `-`; how a run is found again in an MLflow store.
    params: the whole configuration, flattened to dotted keys. tags: what it ran on (`git_commit`, `host`, `world_size`,
    `collective`). artifacts: file name -> text, `plan.json` (as `trainer plan --json` prints it) and `config.yaml`.
    parent: the run_uid of the sweep that it belongs to.
    """

    run_uid: str
    name: str
    experiment: str
    params: Mapping[str, str]
    tags: Mapping[str, str]
    artifacts: Mapping[str, str]
    parent: str | None = None

    def __post_init__(self) -> None:
        for uid in (self.run_uid, *([] if self.parent is None else [self.parent])):
            assert RUN_UID.fullmatch(uid), f"a run_uid is letters, digits and . _ -, not {uid!r}"


class Tracker(Protocol):
    """Keeps the record of one run: start once, log once an epoch, close once."""

    def start(self, run: RunStart) -> None: ...

    def log(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Metrics after epoch number `epoch` (1 = after the first); a value may be nan or infinite."""

    def event(self, kind: str, fields: Mapping[str, object]) -> None:
        """Something worth keeping that is no curve: "decision", "target", "fleet", "stop", "resume", "unreadable".

        fields: JSON values.
        """

    def close(self, status: str, summary: Mapping[str, float], error: str | None = None) -> None:
        """End of the run, or of its part on one fleet. status: FINISHED, FAILED, KILLED or PAUSED; error: one line that
        says why, where it went badly."""


@dataclass(frozen=True, slots=True)
class Trackers:
    """Several trackers as one, told in order: the journal goes first, so that nothing is elsewhere that it lacks."""

    trackers: Sequence[Tracker]

    def start(self, run: RunStart) -> None:
        for tracker in self.trackers:
            tracker.start(run)

    def log(self, epoch: int, metrics: Mapping[str, float]) -> None:
        for tracker in self.trackers:
            tracker.log(epoch, metrics)

    def event(self, kind: str, fields: Mapping[str, object]) -> None:
        for tracker in self.trackers:
            tracker.event(kind, fields)

    def close(self, status: str, summary: Mapping[str, float], error: str | None = None) -> None:
        with contextlib.ExitStack() as stack:  # everyone is closed, in order, also where one of them raises
            for tracker in reversed(self.trackers):
                stack.callback(tracker.close, status, summary, error)
