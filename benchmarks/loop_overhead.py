"""The loop against a bare PyTorch loop that does the same work: same network, data, optimizer and evaluation.

usage: loop_overhead.py [--rounds 41] [--epochs 1]

What the loop adds: the decision and its digest, the finiteness of the gradient, the bookkeeping of samples and seconds.
Rounds are interleaved, and the ratio is taken round by round, so that a machine whose speed drifts does not decide.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch.nn import functional as F

from dali_pipelines.sample_order import Shard, evaluation_range, micro_batch_starts, sample_ids
from trainer.collective.local import LocalCollective
from trainer.engine.job import Job
from trainer.engine.optimizer import build_optimizer
from trainer.engine.train import train
from trainer.models import build_model
from trainer.rule import Limits, Reference, Schedule
from trainer.tracking import Trackers
from trainer.tracking.progress import SilentProgress

BATCH, IMAGE_SIZE, GHOST_BATCH, LR = 64, 32, 32, 0.05


class Digits:
    """Real images in memory, so that the input costs both loops the same next to nothing."""

    def __init__(self) -> None:
        bunch = load_digits()
        images = torch.from_numpy(bunch.images / 16.0).float()[:, None].expand(-1, 3, -1, -1)
        self.images = F.interpolate(images, size=IMAGE_SIZE, mode="bilinear").contiguous()
        self.labels = torch.from_numpy(bunch.target.astype(np.int64))
        self.train_size, self.validation_size, self.image_size = 1440, 357, IMAGE_SIZE

    def batches(self, shard: Shard):
        for start in micro_batch_starts(shard):
            ids = sample_ids(0, self.train_size, np.arange(start, start + shard.micro_batch))
            yield self.images[ids], self.labels[ids]

    def evaluation_batches(self, rank: int, world_size: int, micro_batch: int):
        first, last = evaluation_range(rank, world_size, len(self.labels) - self.train_size)
        chosen = slice(self.train_size + first, self.train_size + last)
        yield from zip(self.images[chosen].split(micro_batch), self.labels[chosen].split(micro_batch), strict=True)


def model_and_optimizer():
    torch.manual_seed(0)
    model = build_model("small-convnet", 10, GHOST_BATCH)
    return model, build_optimizer("momentum", model, lr=LR, momentum=0.9, weight_decay=5e-4)


def our_loop(digits: Digits, epochs: int) -> float:
    model, optimizer = model_and_optimizer()
    schedule = Schedule(Reference(LR, BATCH), Limits(BATCH), digits.train_size, epochs)
    job = Job(
        schedule=schedule,
        collective=LocalCollective(),
        model=model,
        optimizer=optimizer,
        pipeline=digits,
        tracker=Trackers(()),
        progress=SilentProgress(),
        device=torch.device("cpu"),
    )
    begin = time.perf_counter()
    train(job)
    return time.perf_counter() - begin


def bare_loop(digits: Digits, epochs: int) -> float:
    model, optimizer = model_and_optimizer()
    updates = epochs * digits.train_size // BATCH
    begin = time.perf_counter()
    for images, labels in digits.batches(Shard(0, 1, BATCH, 1, 0, updates * BATCH)):
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for _ in range(epochs):
        model.eval()
        loss_sum, top1, top5 = 0.0, 0, 0
        with torch.inference_mode():
            for images, labels in digits.evaluation_batches(0, 1, BATCH):
                logits = model(images)
                loss_sum += float(F.cross_entropy(logits, labels, reduction="sum"))
                guesses = logits.topk(5).indices == labels[:, None]
                top1, top5 = top1 + int(guesses[:, 0].sum()), top5 + int(guesses.sum())
        model.train()
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--epochs", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    digits = Digits()
    our_loop(digits, 1), bare_loop(digits, 1)
    ours, bare = [], []
    for round_number in range(arguments.rounds):
        loops = [(ours, our_loop), (bare, bare_loop)]
        for times, loop in loops if round_number % 2 else reversed(loops):
            times.append(loop(digits, arguments.epochs))
    ratios = [a / b for a, b in zip(ours, bare, strict=True)]
    updates = arguments.epochs * digits.train_size // BATCH
    print(f"| loop | ms an update (median of {arguments.rounds}) | min | max |")
    print("|---|---|---|---|")
    for name, times in (("trainer", ours), ("bare PyTorch", bare)):
        row = [1000 * value / updates for value in (statistics.median(times), min(times), max(times))]
        print(f"| {name} | " + " | ".join(f"{value:.2f}" for value in row) + " |")
    print(f"\nratio, round by round: median {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")


if __name__ == "__main__":
    main()
