"""The loop against a bare PyTorch loop that does the same work: same network, data, optimizer and evaluation.

    python -m benchmarks.loop_overhead [--rounds 20] [--device cuda]
    torchrun --standalone --nproc-per-node 2 -m benchmarks.loop_overhead --library ddp
    horovodrun -np 2 python -m benchmarks.loop_overhead --library horovod

What the loop adds: the decision and its digest, votes, the watchdog's marks, whether gradients are finite, the mean of
running statistics over workers, the bookkeeping of samples and seconds. The bare loop is in `bare_loops.py`. A round is
EPOCHS epochs after another that warms up. Updates alone are compared besides, one of each in turn: a machine whose
speed drifts disturbs that least. On a GPU it says besides how often an update's host waits for the device.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.bare_loops import bare_fleet, bare_loop, bare_update
from benchmarks.jobs import Digits, job
from benchmarks.side_by_side import in_turns, ratios, spread, table
from dali_pipelines.sample_order import Shard
from trainer.cli.fleet import open_collective
from trainer.collective.collective import Collective
from trainer.collective.leave import leave
from trainer.collective.watched import WatchedCollective
from trainer.collective.whereabouts import Whereabouts
from trainer.engine.ballot import Ballot
from trainer.engine.optimizer import apply_decision, build_optimizer
from trainer.engine.readings import Readings
from trainer.engine.train import train
from trainer.engine.update import run_update, seed_update
from trainer.environment import detect_launch
from trainer.models import build_model
from trainer.rule import EpochDecision, Limits, Reference, Schedule, decide
from trainer.tracking.progress import SilentProgress

MICRO_BATCH, IMAGE_SIZE, GHOST_BATCH, LR, EPOCHS = 64, 32, 32, 0.05, 2
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy")


class AfterTheFirst(SilentProgress):
    """Notes when the first epoch is over."""

    def __init__(self) -> None:
        self.began = 0.0

    def epoch_done(self, epoch: int, metrics: Mapping[str, float]) -> None:
        self.began = self.began or time.perf_counter()


class WithoutWaiting(SilentProgress):
    """Lets nothing in an epoch's updates wait for the device, but in the first: what does raises an error."""

    def epoch_started(self, decision: EpochDecision, samples_seen: int, updates: int) -> None:
        self._left = updates

    def update_done(self, samples: int, loss: float, lr: float) -> None:
        self._left -= 1
        torch.cuda.set_sync_debug_mode("error" if self._left > 0 else "default")


class Counting(SilentProgress):
    """Counts by name the calls that may wait, over the updates of the second epoch but its first."""

    def __init__(self) -> None:
        self._profile = profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA])
        self.per_update: dict[str, float] = {}

    def epoch_started(self, decision: EpochDecision, samples_seen: int, updates: int) -> None:
        self._epoch, self._left, self._counted = decision.epoch, updates, updates - 1

    def update_done(self, samples: int, loss: float, lr: float) -> None:
        self._left -= 1
        if self._epoch == 1 and self._left == self._counted:
            self._profile.start()
        if self._epoch == 1 and self._left == 0:
            self._profile.stop()
            calls = {event.key: event.count for event in self._profile.key_averages()}
            self.per_update = {name: calls.get(name, 0) / self._counted for name in WAITS}


class Loops:
    """Ours and the bare one, of one worker of a fleet."""

    def __init__(self, collective: Collective, device: torch.device) -> None:
        self._collective, self._device = collective, device
        self._digits = Digits(IMAGE_SIZE, device)
        self._batch = MICRO_BATCH * collective.world_size
        self._bare = bare_fleet(collective.name, collective.rank, collective.world_size)
        self.updates = EPOCHS * (self._digits.train_size // self._batch)

    def ours(self) -> float:
        """Seconds of EPOCHS epochs."""
        progress = AfterTheFirst()
        self.run(progress)
        return time.perf_counter() - progress.began

    def run(self, progress: SilentProgress) -> None:
        """EPOCHS epochs after the first."""
        schedule = Schedule(Reference(LR, self._batch), Limits(MICRO_BATCH), self._digits.train_size, 1 + EPOCHS)
        train(
            job(
                schedule,
                self._digits,
                self._model(),
                collective=self._collective,
                progress=progress,
                device=self._device,
            )
        )

    def bare(self) -> float:
        """The same."""
        return bare_loop(self._bare, self._model(), self._digits, MICRO_BATCH, LR, EPOCHS)

    def update_of_ours(self) -> Callable[[], float]:
        """Seconds of one update as train_epoch makes it, of images that are there."""
        collective, model = WatchedCollective(self._collective, Whereabouts()), self._model()
        module, optimizer = (
            collective.wrap(model),
            build_optimizer("momentum", model, lr=LR, momentum=0.9, weight_decay=5e-4),
        )
        readings, ballot = Readings(self._device), Ballot(collective, lambda: False, between_votes_s=0.1)
        schedule = Schedule(Reference(LR, self._batch), Limits(MICRO_BATCH), self._digits.train_size, 1)
        decision = decide(schedule, 0, collective.world_size)
        batch = next(iter(self._digits.batches(Shard(0, 1, MICRO_BATCH, 1, 0, MICRO_BATCH))))

        def update() -> float:
            begin = time.perf_counter()
            apply_decision(optimizer, decision, 1.0)
            seed_update(0, 0, collective.rank, self._device)
            note = partial(readings.note, where=str)
            run_update(module, optimizer, collective, iter([batch]), decision.plan, None, ballot.cast, note)
            ballot.count()
            self._rest()
            return time.perf_counter() - begin

        return update

    def update_of_bare(self) -> Callable[[], float]:
        """The same of the bare loop."""
        model = self._model()
        step = bare_update(self._bare, model, MICRO_BATCH, LR)
        images, labels = next(iter(self._digits.batches(Shard(0, 1, MICRO_BATCH, 1, 0, MICRO_BATCH))))

        def update() -> float:
            begin = time.perf_counter()
            step(images, labels)
            self._rest()
            return time.perf_counter() - begin

        return update

    def _rest(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def _model(self) -> torch.nn.Module:
        torch.manual_seed(0)
        return build_model("small-convnet", 10, GHOST_BATCH).to(self._device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--library", choices=["local", "ddp", "horovod"], default="local")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    collective = open_collective(arguments.library, detect_launch())
    device = torch.device("cpu") if arguments.device == "cpu" else torch.device("cuda", collective.local_rank)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    loops = Loops(collective, device)
    measured = in_turns({"trainer": loops.ours, "bare": loops.bare}, arguments.rounds)
    if collective.rank == 0:
        print(
            f"{collective.world_size} worker(s), {collective.name}, {device}: ms an update, {arguments.rounds} rounds\n"
        )
        each = [spread(measured[name], scale=1e3 / loops.updates) for name in ("trainer", "bare")]
        table(["trainer", "bare PyTorch", "ratio"], [[*each, spread(ratios(measured, "trainer", "bare"), 3)]])
    updates = in_turns({"trainer": loops.update_of_ours(), "bare": loops.update_of_bare()}, 20 * arguments.rounds)
    if collective.rank == 0:
        first, median, third = statistics.quantiles(ratios(updates, "trainer", "bare"), n=4)
        print(f"\nupdates alone, {20 * arguments.rounds} pairs: {median:.3f} (quartiles {first:.3f} to {third:.3f})")
    if device.type == "cuda":
        count_waits(loops, collective.rank)
    collective.close()
    leave(0)


def count_waits(loops: Loops, rank: int) -> None:
    """Whether an update waits for the device, by PyTorch's own watch and by a profile."""
    try:
        loops.run(WithoutWaiting())
        outcome = "nothing waited"
    except RuntimeError as error:
        torch.cuda.set_sync_debug_mode("default")
        outcome = str(error).splitlines()[0]
    counting = Counting()
    loops.run(counting)
    if rank == 0:
        print(f'\ntorch.cuda.set_sync_debug_mode("error") in updates: {outcome}\n')
        table(["call", "in an update"], [(name, f"{calls:.2f}") for name, calls in counting.per_update.items()])


if __name__ == "__main__":
    main()
