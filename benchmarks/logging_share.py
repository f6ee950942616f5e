"""What a run's record costs it: the journal and the progress on the screen, and MLflow with a store in a local file.

    python -m benchmarks.logging_share [--rounds 3]

The same small run each way, in turns. The loop stands still while it records, which its clock counts, and while it
tells of an update's progress; threads of MLflow and of the bar take processor time meanwhile: what the process takes
outside of its main thread. Journal and MLflow take the same of an epoch of any length above a second (shorter ones are
sent together), the bar's thread the same of a second. An epoch is about one here.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from rich.console import Console

from benchmarks.jobs import Digits, job
from benchmarks.side_by_side import spread, table
from trainer.cli.freed_memory import keep_freed_memory
from trainer.engine.train import train
from trainer.models import build_model
from trainer.rule import EpochDecision, Limits, Reference, Schedule
from trainer.tracking import FILE_NAME, FINISHED, Journal, MlflowTracker, RunStart, Tracker, Trackers
from trainer.tracking.progress import BarProgress, LineProgress, RunProgress, SilentProgress
from trainer.tracking.tracking_uri import sqlite_uri

BATCH, EPOCHS, IMAGE_SIZE = 64, 6, 40
RUN = RunStart("logging-share", "logging-share", "benchmarks", {"model.name": "small-convnet"}, {}, {})


class Timed:
    """Another progress, with the seconds that its calls take during updates."""

    def __init__(self, progress: RunProgress) -> None:
        self._progress, self.seconds = progress, 0.0

    def epoch_started(self, decision: EpochDecision, on_schedule: float, advance: float, updates: int) -> None:
        self._progress.epoch_started(decision, on_schedule, advance, updates)

    def update_done(self, samples: int, loss: float, lr: float) -> None:
        begin = time.perf_counter()
        self._progress.update_done(samples, loss, lr)
        self.seconds += time.perf_counter() - begin

    def epoch_done(self, epoch: int, metrics: Mapping[str, float]) -> None:
        self._progress.epoch_done(epoch, metrics)


def seconds(digits: Digits, trackers: list[Tracker], progress: RunProgress) -> tuple[float, float, float]:
    """(the loop's for its record and progress, the processor's in other threads, all), each per epoch."""
    torch.manual_seed(0)
    schedule = Schedule(Reference(0.05, BATCH), Limits(BATCH), digits.train_size, EPOCHS)
    tracker, timed = Trackers(trackers), Timed(progress)
    tracker.start(RUN)
    main, everywhere, begin = time.thread_time(), time.process_time(), time.perf_counter()
    _, clock = train(job(schedule, digits, build_model("small-convnet", 10, 32), tracker=tracker, progress=timed))
    passed = time.perf_counter() - begin
    others = (time.process_time() - everywhere) - (time.thread_time() - main)
    progress.close()
    tracker.close(FINISHED, {})
    return (clock.seconds["record"] + timed.seconds) / EPOCHS, others / EPOCHS, passed / EPOCHS


def ways(folder: Path) -> dict[str, Callable[[], tuple[list[Tracker], RunProgress]]]:
    """Where a run is recorded, each with files of its own."""

    def journal() -> Journal:
        return Journal(Path(tempfile.mkdtemp(dir=folder)) / FILE_NAME)

    def lines(terminal: bool) -> Console:
        return Console(file=io.StringIO(), force_terminal=terminal, width=160)

    def with_mlflow() -> tuple[list[Tracker], RunProgress]:
        written = journal()
        store = MlflowTracker(written.path, sqlite_uri(written.path.parent), warn=print)
        return [written, store], LineProgress(lines(False), EPOCHS)

    return {
        "nothing": lambda: ([], SilentProgress()),
        "journal, a line an epoch": lambda: ([journal()], LineProgress(lines(False), EPOCHS)),
        "journal, a bar on a terminal": lambda: (
            [journal()],
            BarProgress(lines(True), EPOCHS, Digits.train_size * EPOCHS),
        ),
        "journal, lines, MLflow": with_mlflow,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    keep_freed_memory()  # as a run does
    digits = Digits(IMAGE_SIZE)
    with tempfile.TemporaryDirectory() as folder:
        records = ways(Path(folder))
        measured: dict[str, list[tuple[float, float, float]]] = {name: [] for name in records}
        for number in range(rounds + 1):  # the first of each imports what it needs
            for name, opened in records.items() if number % 2 else reversed(records.items()):
                measured[name].append(seconds(digits, *opened()))
    print(f"{EPOCHS} epochs of {digits.train_size // BATCH} updates, {rounds} rounds: ms an epoch\n")
    rows = []
    for name, figures in measured.items():
        stands, others, epoch = zip(*figures[1:], strict=True)
        shares = [(a + b) / all_of_it for a, b, all_of_it in figures[1:]]
        rows.append((name, *(spread(each, 2, 1e3) for each in (stands, others, epoch)), spread(shares, 2, 100)))
    table(["record", "loop stands still", "processor, other threads", "epoch", "% of the epoch"], rows)


if __name__ == "__main__":
    main()
