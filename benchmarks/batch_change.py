"""What a change of the batch costs: the first update after it, against an ordinary update of the same size.

usage: batch_change.py [--rounds 7]

The real job on the digits, read from image files through DALI. Every epoch begins with a decision and an empty input
queue, whether its batch is new or not, so both kinds of border are shown: what a change costs is their difference.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor

from dali_pipelines.augmentation import Augmentation
from dali_pipelines.pipeline import open_dataset, open_pipeline
from trainer.collective.local import LocalCollective
from trainer.engine.job import Job
from trainer.engine.optimizer import build_optimizer
from trainer.engine.train import train
from trainer.models import build_model
from trainer.rule import EpochDecision, Limits, NoiseCurve, NoiseDrop, Reference, Schedule
from trainer.tracking import Trackers

SMALL, LARGE, CHANGES = 72, 144, 6


class Stopwatch:
    """Notes how long the first update of every epoch took, counted from the decision, and every other update."""

    def __init__(self) -> None:
        self.first: dict[tuple[str, int], list[float]] = defaultdict(list)
        self.others: dict[int, list[float]] = defaultdict(list)
        self._batch = 0

    def epoch_started(self, decision: EpochDecision, samples_seen: int, updates: int) -> None:
        batch = decision.plan.global_batch
        self._border = "start" if self._batch == 0 else "same" if batch == self._batch else "change"
        self._batch, self._is_first, self._last = batch, True, time.perf_counter()

    def update_done(self, samples: int, loss: Tensor, lr: float) -> None:
        now = time.perf_counter()
        if self._is_first:
            self.first[self._border, samples].append(now - self._last)
        else:
            self.others[samples].append(now - self._last)
        self._is_first, self._last = False, now

    def epoch_done(self, epoch: int, metrics: Mapping[str, float]) -> None:
        return None


def run(stopwatch: Stopwatch, seed: int) -> None:
    """A job whose batch goes up and down: two epochs of each size in turn."""
    drops = tuple(NoiseDrop(2 * i, 0.5 if i % 2 else 2.0) for i in range(1, CHANGES + 1))
    schedule = Schedule(
        Reference(0.02, LARGE), Limits(LARGE, LARGE), 1440, 2.0 * (CHANGES + 1), NoiseCurve("steps", "batch", drops)
    )
    dataset = open_dataset("digits")
    pipeline = open_pipeline(
        dataset,
        seed=seed,
        image_size=16,
        augmentation=Augmentation(min_area=0.6, flip=False),
        mean=(0.3, 0.3, 0.3),
        std=(0.4, 0.4, 0.4),
        max_micro_batch=LARGE,
        device=torch.device("cpu"),
        threads=1,
    )
    model = build_model("small-convnet", 10, 24)
    optimizer = build_optimizer("momentum", model, lr=0.02, momentum=0.9, weight_decay=0.0)
    train(
        Job(
            schedule=schedule,
            collective=LocalCollective(),
            model=model,
            optimizer=optimizer,
            pipeline=pipeline,
            tracker=Trackers(()),
            progress=stopwatch,
            device=torch.device("cpu"),
        )
    )
    pipeline.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    stopwatch = Stopwatch()
    for seed in range(rounds):
        run(stopwatch, seed)
    print("| update | batch | n | median ms | min | max | in ordinary updates |")
    print("|---|---|---|---|---|---|---|")
    for batch in (SMALL, LARGE):
        ordinary = statistics.median(stopwatch.others[batch])
        rows = {
            "ordinary": stopwatch.others[batch],
            "first of an epoch, batch as before": stopwatch.first["same", batch],
            "first of an epoch, batch changed": stopwatch.first["change", batch],
        }
        for name, times in rows.items():
            median, least, most = (1000 * f(times) for f in (statistics.median, min, max))
            print(
                f"| {name} | {batch} | {len(times)} | {median:.1f} | {least:.1f} | {most:.1f} | "
                f"{median / 1000 / ordinary:.2f} |"
            )


if __name__ == "__main__":
    main()
