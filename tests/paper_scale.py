"""Journals as long as the paper's runs on CIFAR-10, with made-up accuracies and losses of the paper's shape."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from pathlib import Path

from trainer.tracking import FINISHED, Journal, RunStart

TRAIN_SIZE = 50_000
EPOCHS = 205
DROPS = (60, 120, 160)
Phases = Sequence[tuple[int, float]]

# The batch and lr from epochs 0, 60, 120 and 160; momentum; final top-1 (tables of sections 5.1 and 5.2).
SCHEDULES: dict[str, tuple[Phases, float, float]] = {
    "cifar10-decay-lr": (((128, 0.1), (128, 0.02), (128, 0.004), (128, 0.0008)), 0.9, 0.942),
    "cifar10-hybrid": (((128, 0.1), (640, 0.1), (640, 0.02), (640, 0.004)), 0.9, 0.944),
    "cifar10-increase-batch": (((128, 0.1), (640, 0.1), (3200, 0.1), (16_000, 0.1)), 0.9, 0.943),
    "cifar10-original": (((128, 0.1), (128, 0.02), (128, 0.004), (128, 0.0008)), 0.9, 0.943),
    "cifar10-increase-batch-capped": (((128, 0.1), (640, 0.1), (3200, 0.1), (5120, 0.032)), 0.9, 0.944),
    "cifar10-increased-initial-lr": (((640, 0.5), (3200, 0.5), (5120, 0.16), (5120, 0.032)), 0.9, 0.945),
    "cifar10-increased-momentum": (((3200, 0.5), (5120, 0.16), (5120, 0.032), (5120, 0.0064)), 0.98, 0.933),
}


def write_schedules(folder: Path, names: Iterable[str] = SCHEDULES, seeds: int = 3) -> None:
    """Runs of the paper's schedules by name."""
    for name in names:
        phases, momentum, final = SCHEDULES[name]
        for seed in range(seeds):
            write_run(folder, name, name, seed, phases, final, momentum, {"schedule.curve.drops": f"{phases}"})


def write_first_lr_sweep(folder: Path, finals: dict[float, float], seeds: int = 3) -> None:
    """Runs that differ in schedule.start.lr, each with its batch in proportion: 128 samples at 0.1."""
    for lr, final in finals.items():
        phases = [(round(1280 * lr), lr / 5**fallen) for fallen in range(4)]
        for seed in range(seeds):
            uid, params = f"cifar10-first-lr-{lr}", {"schedule.start.lr": str(lr)}
            write_run(folder, uid, "cifar10-first-lr", seed, phases, final, 0.9, params)


def write_run(
    folder: Path, uid: str, name: str, seed: int, phases: Phases, final: float, momentum: float, params: dict[str, str]
) -> None:
    """A finished run of 205 epochs that jumps at the drops and ends near `final`, a little apart from other seeds."""
    uid = f"{uid}-{seed}"
    journal = Journal(folder / uid / "journal.jsonl")
    named = {"name": name, "seed": str(seed), "target_top1": "0.93", **params}
    journal.start(RunStart(uid, name, "cifar10", named, {"world_size": "1"}, {}))
    noise = random.Random(uid)
    of_seed = noise.gauss(0, 0.002)
    updates = elapsed_s = 0.0
    for epoch in range(EPOCHS):
        fallen = sum(epoch >= drop for drop in DROPS)
        batch, lr = phases[fallen]
        updates += TRAIN_SIZE / batch
        elapsed_s += TRAIN_SIZE / 9000 + TRAIN_SIZE / batch * 0.01
        ramp = 1 - math.exp(-(epoch + 1) / 12)
        top1 = (0.1, 0.05, 0.012, 0.001)[fallen]
        jitter = (0.02, 0.006, 0.003, 0.001)[fallen]
        train_loss = (0.35, 0.11, 0.02, 0.01)[fallen] / ramp
        journal.log(
            epoch + 1,
            {
                "val/top1": (final - top1) * ramp + of_seed + noise.gauss(0, jitter),
                "val/loss": (0.5, 0.3, 0.24, 0.23)[fallen] / ramp * math.exp(noise.gauss(0, 4 * jitter)),
                "train/loss": train_loss * math.exp(noise.gauss(0, 0.03)),
                "updates": round(updates),
                "elapsed_s": elapsed_s * (1 + 0.02 * seed),
                "batch/global": batch,
                "optim/lr": lr,
                "optim/momentum": momentum,
            },
        )
    journal.close(FINISHED, {})
