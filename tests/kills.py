"""Runs that are killed at random moments, taken up again, and held against one that nobody touched."""

from __future__ import annotations

import math
import os
import random
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from tests.launching import Launcher
from tests.live_runs import LiveRun
from trainer.tracking import FINISHED, RunLog

# Three epochs of one batch that 1, 2 and 4 workers share in whole ghost batches, at an lr so low that rounding errors
# stay small; saved so often that kills hit saves.
RUN = [
    "train", "digits-decay-lr", "schedule.epochs=3", "schedule.reference={lr: 0.002, global_batch: 32, momentum: 0.9}",
    "schedule.curve={shape: constant}", "checkpoints.every_minutes=0.003", "tracking.mlflow=off", "--resume", "auto",
]  # fmt: skip
_LONGEST_S = 120.0
_COUNTS = ("samples_seen", "updates", "batch/global", "optim/lr", "noise/sgd")
_IMAGES = 357  # in the validation set


@dataclass(frozen=True, slots=True)
class Fleet:
    launcher: Launcher
    workers: int

    def __str__(self) -> str:
        return f"{self.launcher} x {self.workers}"


@dataclass(frozen=True, slots=True)
class Kill:
    """victim: a rank, or None for all at once. after_s: seconds from the launch. had_begun: there was a record."""

    fleet: Fleet
    victim: int | None
    after_s: float
    had_begun: bool


@dataclass(frozen=True, slots=True)
class Round:
    """What was done to a run, and what came of it. recovery_s: from each launch after a kill to its first decision."""

    kills: tuple[Kill, ...]
    recovery_s: tuple[float, ...]
    log: RunLog
    weights: dict[str, torch.Tensor]


def finish(folder: Path, fleet: Fleet) -> tuple[RunLog, dict[str, torch.Tensor], float]:
    """Lets a run go on to its end; returns its record, its weights and the seconds from the launch to its first
    decision."""
    launched = time.time()
    with LiveRun(folder, fleet.launcher, fleet.workers, RUN) as run:
        code = run.wait(_LONGEST_S)
        log = run.log()
        assert code == 0, run.said()[-3000:]
        assert log is not None, run.said()
    decided = [event.time_s for event in log.events if event.kind == "decision" and event.time_s > launched]
    return log, weights(folder), (decided[0] if decided else log.end_time_s) - launched


def kill_and_go_on(folder: Path, fleets: Sequence[Fleet], within_s: float, random: random.Random) -> Round:
    """Kills a run on each of the fleets but the last, at a random moment within so many seconds of its launch, and lets
    the last one end it."""
    kills, recovery_s = [], []
    *killed, last = fleets
    for fleet in killed:
        after_s = random.uniform(0, within_s)
        victim = random.choice([None, *range(fleet.workers)]) if fleet.workers > 1 else None
        with LiveRun(folder, fleet.launcher, fleet.workers, RUN) as run:
            end = time.monotonic() + after_s
            while time.monotonic() < end and run.process.poll() is None:
                time.sleep(0.01)
            if run.process.poll() is not None:
                continue  # it was faster
            had_begun = run.log() is not None
            if victim is None or not (pid := _worker(run, victim)):
                run.kill_all()
            else:
                os.kill(pid, signal.SIGKILL)
                assert run.wait(_LONGEST_S) != 0
                run.wait_until(lambda run=run: run.pids() == [])
        kills.append(Kill(fleet, victim, after_s, had_begun))
    log, ended_with, seconds = finish(folder, last)
    if kills:
        recovery_s.append(seconds)
    return Round(tuple(kills), tuple(recovery_s), log, ended_with)


def _worker(run: LiveRun, rank: int) -> int | None:
    """The rank's process, if it has been started."""
    try:
        return run.worker(rank)
    except ValueError:
        return None


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Of the run that finished."""
    newest = max(folder.glob("*/weights.pt"), key=lambda path: path.stat().st_mtime)
    return torch.load(newest, weights_only=True)


def difference(one: RunLog, other: RunLog) -> float:
    """The largest relative difference of the losses of two runs, epoch by epoch; infinite where they differ in their
    epochs, in a count, or in their guesses by more images than rounding can explain."""
    if (one.status, other.status) != (FINISHED, FINISHED) or len(one.epochs) != len(other.epochs):
        return math.inf
    largest = 0.0
    for mine, others in zip(one.epochs, other.epochs, strict=True):
        if any(mine.metrics[key] != others.metrics[key] for key in _COUNTS):
            return math.inf
        if any(abs(mine.metrics[key] - others.metrics[key]) * _IMAGES > 2.5 for key in ("val/top1", "val/top5")):
            return math.inf
        for key in ("train/loss", "val/loss"):
            largest = max(largest, abs(mine.metrics[key] / others.metrics[key] - 1))
    return largest
