"""Small journals for tests of reports: an epoch for each accuracy."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from trainer.report.report import Report, compare_runs
from trainer.report.runs import RunRecord, load_runs
from trainer.tracking import FINISHED, Journal, RunStart

Measured = Sequence[tuple[float, float] | None]  # the gradient noise scale and its error for each epoch, where measured

PLAN = {
    "phases": [
        {
            "first_epoch": 0,
            "last_epoch": 2,
            "global_batch": 1024,
            "micro_batch": 32,
            "accumulation_steps": 16,
            "world_size": 2,
            "lr": 0.05,
            "momentum": 0.9,
            "sgd_noise_scale": 45.0,
            "limited_by": "reference",
            "updates": 270,
        }
    ]
}


def record_run(
    folder: Path,
    name: str,
    seed: int,
    top1: Sequence[float],
    updates_per_epoch: int = 100,
    epoch_s: float = 2.0,
    status: str | None = FINISHED,
    target: str = "0.9",
    noise: Measured = (),
    **params: str,
) -> Path:
    """A journal with an epoch for each accuracy; batches (from 16) double and lr halves at each epoch."""
    journal = Journal(folder / f"{name}-{seed}-{len(params)}" / "journal.jsonl")
    recipe = {"name": name, "seed": str(seed), "target_top1": target, "schedule.epochs": str(len(top1)), **params}
    uid = re.sub(r"[^a-z0-9-]", "_", f"{folder.name}-{journal.path.parent.name}")
    journal.start(RunStart(uid, name, "first", recipe, {"world_size": "2"}, {"plan.json": json.dumps(PLAN)}))
    for epoch, value in enumerate(top1, 1):
        journal.log(
            epoch,
            {
                "val/top1": value,
                "val/loss": 2.0 / epoch,
                "train/loss": 1.0 / epoch,
                "updates": updates_per_epoch * epoch,
                "elapsed_s": epoch_s * epoch,
                "batch/global": 2 ** (3 + epoch),
                "optim/lr": 0.1 / 2**epoch,
                **(_noise(epoch, noise[epoch - 1]) if noise else {}),
            },
        )
    if status is not None:
        journal.close(status, {}, None if status == FINISHED else "loss is nan")
    return journal.path


def _noise(epoch: int, measured: tuple[float, float] | None) -> dict[str, float]:
    measurement = dict(zip(("noise/gradient", "noise/gradient_error"), measured, strict=True)) if measured else {}
    return {"noise/sgd": 100.0 / 4**epoch, **measurement}


def record_two_recipes(folder: Path) -> tuple[RunRecord, ...]:
    """Two seeds of a slow schedule, two of one with half the updates in three quarters of the time."""
    record_run(folder, "decay-lr", 0, [0.5, 0.90, 0.94])
    record_run(folder, "decay-lr", 1, [0.5, 0.80, 0.96])
    record_run(folder, "grow", 0, [0.4, 0.91, 0.95], updates_per_epoch=50, epoch_s=1.5, policy="batch")
    record_run(folder, "grow", 1, [0.4, 0.92, 0.95], updates_per_epoch=50, epoch_s=1.5, policy="batch")
    return load_runs([str(folder)], None, None)


def compare_measured(folder: Path, runs: Mapping[str, Sequence[Measured]], **params: str) -> Report:
    """The comparison of a schedule for each name, with a seed for each list of measurements."""
    for name, seeds in runs.items():
        for seed, noise in enumerate(seeds):
            tops = [0.5 + 0.1 * epoch for epoch in range(len(noise))]
            record_run(folder / name, name, seed, tops, noise=noise, target="null", **params)
    return compare_runs(load_runs([str(folder / name) for name in runs], None, None))
