"""What a change of the batch costs: time between two epochs; memory before, during and after a run; growth over fifty.

    python -m benchmarks.batch_change [--rounds 3] [--photos DIR] [--device cuda]

The loop itself with a small network on digits, read from image files through DALI or held in memory; with --photos also
on photos in class folders (train/, val/) at 64 x 64. Batches are a sixty-fourth of the paper's 8,192 to 65,536, in
micro-batches of at most 64, so that a phase differs from the one before by its accumulation, as on a full fleet.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.jobs import job
from benchmarks.side_by_side import spread, table
from dali_pipelines.augmentation import Augmentation
from dali_pipelines.pipeline import Dataset, InputPipeline, open_dataset, open_pipeline
from trainer.cli.freed_memory import keep_freed_memory
from trainer.engine.train import train
from trainer.models import build_model
from trainer.rule import EpochDecision, Limits, NoiseCurve, NoiseDrop, Reference, Schedule
from trainer.tracking.progress import SilentProgress

LR, MICRO_BATCH, GHOST_BATCH = 0.02, 64, 16
GROWING, EPOCHS_EACH = (128, 256, 512, 1024), 2
CHANGES, COMPARED_WITH = 50, 10
# what changes from one epoch to the next: two batches in turn, two epochs each
CHANGING = {"accumulation": (64, 128), "micro-batch": (32, 64)}
LARGE = 2000  # images; more of them take long


class Borders(SilentProgress):
    """Seconds of the first update of every epoch, from the end of the record before it, and of every other update."""

    def __init__(self) -> None:
        self._first: dict[str, list[tuple[int, float]]] = defaultdict(list)
        self._others: dict[int, list[float]] = defaultdict(list)
        self._batch, self._last = 0, 0.0

    def epoch_started(self, decision: EpochDecision, on_schedule: float, advance: float, updates: int) -> None:
        before, self._batch = self._batch, decision.plan.global_batch
        self._border = "start" if on_schedule == 0 else "as before" if before == self._batch else "changed"

    def update_done(self, samples: int, loss: float, lr: float) -> None:
        now = time.perf_counter()
        if self._border:
            self._first[self._border].append((samples, now - self._last))
        else:
            self._others[samples].append(now - self._last)
        self._border, self._last = "", now

    def epoch_done(self, epoch: int, metrics: Mapping[str, float]) -> None:
        self._last = time.perf_counter()

    def lost_s(self, border: str) -> list[float]:
        """What first updates took beyond an ordinary one of their batch."""
        ordinary = {batch: statistics.median(times) for batch, times in self._others.items()}
        return [seconds - ordinary[batch] for batch, seconds in self._first[border]]

    def ordinary_s(self, batch: int) -> list[float]:
        return self._others[batch]


class Memory(SilentProgress):
    """The process's memory in MB after every epoch, and at its highest since the epoch began; `batches` beside it."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.batches: list[int] = []
        self.after: list[tuple[float, ...]] = []

    def epoch_started(self, decision: EpochDecision, on_schedule: float, advance: float, updates: int) -> None:
        self.batches.append(decision.plan.global_batch)
        forget_peak(self._device)

    def epoch_done(self, epoch: int, metrics: Mapping[str, float]) -> None:
        self.after.append(memory_mb(self._device))


def memory_mb(device: torch.device) -> tuple[float, ...]:
    """Resident now, resident at most; on a GPU also allocated there now, and at most."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    resident = tuple(int(fields[name].split()[0]) / 1000 for name in ("VmRSS", "VmHWM"))  # of 1,024 bytes, nearly
    if device.type != "cuda":
        return resident
    return *resident, torch.cuda.memory_allocated(device) / 1e6, torch.cuda.max_memory_allocated(device) / 1e6


def forget_peak(device: torch.device) -> None:
    """What is highest is counted from here on."""
    Path("/proc/self/clear_refs").write_text("5")
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def growing(dataset_size: int) -> Schedule:
    """Batches of GROWING, EPOCHS_EACH of each."""
    drops = tuple(NoiseDrop(EPOCHS_EACH * i, 2.0) for i in range(1, len(GROWING)))
    limits = Limits(MICRO_BATCH, max_global_batch=GROWING[-1])
    epochs = float(EPOCHS_EACH * len(GROWING))
    return Schedule(Reference(LR, GROWING[0]), limits, dataset_size, epochs, NoiseCurve("steps", "batch", drops))


def in_turns(batches: tuple[int, int], epochs_each: int, changes: int, dataset_size: int) -> Schedule:
    """The larger batch first, then the smaller one, and so on."""
    small, large = batches
    drops = tuple(NoiseDrop(epochs_each * i, small / large if i % 2 else large / small) for i in range(1, changes + 1))
    limits, epochs = Limits(MICRO_BATCH, max_global_batch=large), float(epochs_each * (changes + 1))
    return Schedule(Reference(LR, large), limits, dataset_size, epochs, NoiseCurve("steps", "batch", drops))


def run(
    pipeline: InputPipeline, classes: int, schedule: Schedule, progress: SilentProgress, device: torch.device
) -> None:
    """Trains a small network by the schedule."""
    model = build_model("small-convnet", classes, GHOST_BATCH).to(device)
    train(job(schedule, pipeline, model, progress=progress, device=device))


@contextlib.contextmanager
def opened(dataset: Dataset, image_size: int, device: torch.device) -> Iterator[InputPipeline]:
    """The data set's stream."""
    pipeline = open_pipeline(
        dataset,
        seed=0,
        image_size=image_size,
        augmentation=Augmentation(crop="pad" if dataset.in_memory else "random_resized", min_area=0.6, flip=False),
        mean=(0.3, 0.3, 0.3),
        std=(0.4, 0.4, 0.4),
        max_micro_batch=MICRO_BATCH,
        device=device,
        threads=1,
    )
    with contextlib.closing(pipeline):
        yield pipeline


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device(arguments.device)
    if device.type == "cpu":
        keep_freed_memory()  # as a run does
    digits = open_dataset("digits")
    small = {"digits, files": (digits, 16), "digits, in memory": (replace(digits, in_memory=True), 10)}
    inputs = dict(small)
    if arguments.photos is not None:
        inputs["photos, files"] = (open_dataset("folder", arguments.photos), 64)
    report_memory(inputs, device)
    print()
    report_growth(small, device)
    print()
    report_borders(inputs, device, arguments.rounds)


def report_memory(inputs: Mapping[str, tuple[Dataset, int]], device: torch.device) -> None:
    """Before a run, after each of its phases, and after it."""
    units = ["MB", "at most"] + (["MB on the GPU", "at most"] if device.type == "cuda" else [])
    rows = []
    for name, (dataset, image_size) in inputs.items():
        forget_peak(device)
        rows.append((name, "before", memory_mb(device)))
        with opened(dataset, image_size, device) as pipeline:
            memory = Memory(device)
            run(pipeline, len(dataset.class_names), growing(dataset.train_size), memory, device)
        last_of_phase = dict(zip(memory.batches, memory.after, strict=True))
        rows += [(name, f"batch {batch}", after) for batch, after in last_of_phase.items()]
        forget_peak(device)
        rows.append((name, "after", memory_mb(device)))
    table(["input", "when", *units], ((name, when, *(f"{each:.0f}" for each in mb)) for name, when, mb in rows))


def report_growth(inputs: Mapping[str, tuple[Dataset, int]], device: torch.device) -> None:
    """Memory after COMPARED_WITH changes of the batch, and after CHANGES."""
    rows = []
    for name, (dataset, image_size) in inputs.items():
        with opened(dataset, image_size, device) as pipeline:
            memory = Memory(device)
            schedule = in_turns((48, 192), 1, CHANGES, dataset.train_size)
            run(pipeline, len(dataset.class_names), schedule, memory, device)
        changes = sum(a != b for a, b in zip(memory.batches, memory.batches[1:], strict=False))
        assert changes == CHANGES, "every epoch changes the batch"
        early, late = memory.after[COMPARED_WITH], memory.after[CHANGES]
        rows.append([name, *(f"{a:.1f} / {b:.1f}" for a, b in zip(early[::2], late[::2], strict=True))])
    units = ["MB"] + (["MB on the GPU"] if device.type == "cuda" else [])
    table([f"input, after {COMPARED_WITH} / {CHANGES} changes", *units], rows)


def report_borders(inputs: Mapping[str, tuple[Dataset, int]], device: torch.device, rounds: int) -> None:
    """Milliseconds that a border costs: one where the batch changes, and one where it does not. Photos, which take
    long, go one round, and change their accumulation alone."""

    def rows() -> Iterator[list[str]]:
        for name, (dataset, image_size) in inputs.items():
            is_large = dataset.train_size > LARGE
            for what, batches in list(CHANGING.items())[: 1 if is_large else None]:
                with opened(dataset, image_size, device) as pipeline:
                    borders = Borders()
                    for _ in range(1 if is_large else rounds):
                        schedule = in_turns(batches, 2, 5, dataset.train_size)
                        run(pipeline, len(dataset.class_names), schedule, borders, device)
                ordinary = [spread(borders.ordinary_s(batch), 1, 1e3) for batch in batches]
                lost = [borders.lost_s(border) for border in ("as before", "changed")]
                yield [name, f"{what}, {batches[0]} and {batches[1]}", *ordinary] + [
                    f"{spread(each, 1, 1e3)}, n {len(each)}" for each in lost
                ]

    table(["input", "what changes", "update of the smaller, ms", "of the larger", "lost at a border without change, ms",
           "with"], rows())  # fmt: skip


if __name__ == "__main__":
    main()
