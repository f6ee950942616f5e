"""The loop against a bare PyTorch loop that does the same work: same network, data, optimizer and evaluation.

    python -m benchmarks.loop_overhead [--rounds 30] [--network wide-resnet-16-4] [--device cuda]
    torchrun --standalone --nproc-per-node 2 -m benchmarks.loop_overhead --library ddp
    horovodrun -np 2 python -m benchmarks.loop_overhead --library horovod

What the loop adds: the decision and its digest, votes, the watchdog's marks, whether gradients are finite, the mean of
running statistics over workers, the bookkeeping of samples and seconds. The bare loop is in `bare_loops.py`. A round is
an epoch of each: its updates, the evaluation before them, and what lies between. Both loops run at the same time and
take turns, update by update, since a machine whose speed drifts disturbs that least; on a GPU epoch by epoch, so that
the device is at rest between turns alone. There it says besides how often an update's host waits for the device.

The ratio is of updates, each the median over epochs, of pairs; its spread that of six lots of epochs. What lies between
two updates of two epochs (the evaluation, the decision, the record) is told by itself.
Tiny updates show best what is added to each: a machine's unrest is a share of an update, and
what the loop adds is not.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
from collections.abc import Callable, Sequence

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.bare_loops import bare_fleet, bare_loop
from benchmarks.jobs import Digits, job, join
from benchmarks.side_by_side import spread, table, turn_about
from trainer.collective.collective import Collective
from trainer.collective.leave import leave
from trainer.engine.train import train
from trainer.models import build_model
from trainer.rule import EpochDecision, Limits, Reference, Schedule
from trainer.tracking.progress import SilentProgress

GHOST_BATCH, LR = 32, 0.05
# network: (images of a micro-batch, their size, share of the rounds): an update as small runs have, and one that is
# hardly more than the loop; one as the paper's network has
SIZES = {"small-convnet": ((64, 32, 1 / 2), (4, 8, 1 / 4)), "wide-resnet-16-4": ((32, 32, 1 / 8),)}
LOTS = 3  # of the epochs in each order, for the spread of the ratio
Epochs = dict[str, list[list[float]]]  # seconds of each turn of each
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy")


class Updates(SilentProgress):
    """Tells of every update."""

    def __init__(self, update_done: Callable[[], None]) -> None:
        self._told = update_done

    def update_done(self, samples: int, loss: float, lr: float) -> None:
        self._told()


class WithoutWaiting(SilentProgress):
    """Lets nothing in an epoch's updates wait for the device, but in the first: what does raises an error."""

    def epoch_started(self, decision: EpochDecision, on_schedule: float, advance: float, updates: int) -> None:
        self._left = updates

    def update_done(self, samples: int, loss: float, lr: float) -> None:
        self._left -= 1
        torch.cuda.set_sync_debug_mode("error" if self._left > 0 else "default")


class Counting(SilentProgress):
    """Counts by name the calls that may wait, over the updates of the second epoch but its first."""

    def __init__(self) -> None:
        self._profile = profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA])
        self.per_update: dict[str, float] = {}

    def epoch_started(self, decision: EpochDecision, on_schedule: float, advance: float, updates: int) -> None:
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

    def __init__(
        self, collective: Collective, device: torch.device, network: str, micro_batch: int, image_size: int
    ) -> None:
        self._collective, self._device, self._network, self._micro_batch = collective, device, network, micro_batch
        self._digits = Digits(image_size, device)
        self._batch = micro_batch * collective.world_size
        self._bare = bare_fleet(collective.name, collective.rank, collective.world_size)
        self.updates = self._digits.train_size // self._batch

    def measure(self, rounds: int) -> list[Epochs]:
        """Seconds of the turns of epochs of both, after an epoch that warms up: with one of them first, then the other,
        since where a thread's tensors come to lie in memory makes a hundredth."""
        on_gpu = self._device.type == "cuda"
        turns = 1 if on_gpu else self.updates  # of an epoch

        def ours(end_of_turn: Callable[[], None]) -> None:
            self.run(Updates(self._turn(end_of_turn)), 1 + rounds)

        def bare(end_of_turn: Callable[[], None]) -> None:
            if on_gpu:
                torch.cuda.set_device(self._device)  # each thread has its own
            update_done = self._turn(end_of_turn)
            bare_loop(self._bare, self._model(), self._digits, self._micro_batch, LR, 1 + rounds, update_done)

        loops, starts = {"trainer": ours, "bare": bare}, range(turns, turns * (1 + rounds), turns)
        in_both_orders = turn_about(loops), turn_about(dict(reversed(loops.items())))
        return [{name: [turn[i : i + turns] for i in starts] for name, turn in each.items()} for each in in_both_orders]

    def _turn(self, end_of_turn: Callable[[], None]) -> Callable[[], None]:
        """What is told of every update."""
        torch.set_num_threads(1)  # each thread has its own number
        if self._device.type != "cuda":
            return end_of_turn
        done = itertools.count(1)

        def update_done() -> None:
            if next(done) % self.updates == 0:
                torch.cuda.synchronize(self._device)
                end_of_turn()

        return update_done

    def run(self, progress: SilentProgress, epochs: int) -> None:
        """The service's own loop."""
        if self._device.type == "cuda":
            torch.cuda.set_device(self._device)
        schedule = Schedule(Reference(LR, self._batch), Limits(self._micro_batch), self._digits.train_size, epochs)
        ours = job(
            schedule, self._digits, self._model(), collective=self._collective, progress=progress, device=self._device
        )
        train(ours)

    def _model(self) -> torch.nn.Module:
        torch.manual_seed(0)
        return build_model(self._network, 10, GHOST_BATCH).to(self._device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--network", choices=list(SIZES), default="small-convnet")
    parser.add_argument("--library", choices=["local", "ddp", "horovod"], default="local")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    arguments = parser.parse_args()
    rounds = arguments.rounds
    collective, device = join(arguments.library, arguments.device)
    if collective.rank == 0:
        print(f"{collective.world_size} worker(s), {collective.name}, {device}: ms an update, {rounds} epochs")
        print()
        table(["network", "micro-batch", "trainer", "bare PyTorch", "more, an update", "ratio", "more, a border"], [])
    for images, size, share in SIZES[arguments.network]:
        loops = Loops(collective, device, arguments.network, images, size)
        measured = loops.measure(math.ceil(rounds * share))
        if collective.rank == 0:
            cells = [arguments.network, f"{images} at {size} x {size}", *compared(measured, loops.updates)]
            print("| " + " | ".join(cells) + " |", flush=True)
    if device.type == "cuda":
        images, size, _ = SIZES[arguments.network][0]
        count_waits(Loops(collective, device, arguments.network, images, size), collective.rank)
    collective.close()
    leave(0)


def compared(measured: Sequence[Epochs], updates: int) -> list[str]:
    """Milliseconds an update of epochs of so many; what ours has more, and the ratio, of all and of lots of them; and
    what it has more at an epoch's border."""
    sums = {name: [sum(epoch) for each in measured for epoch in each[name]] for name in ("trainer", "bare")}
    lots = [
        typical(**{name: epochs[i::LOTS] for name, epochs in each.items()})
        for each in measured
        for i in range(min(LOTS, len(each["bare"])))
    ]
    more, of, at_border = (
        statistics.mean(all_orders) for all_orders in zip(*(typical(**each) for each in measured), strict=True)
    )
    least, most = (pick(1 + a / b for a, b, _ in lots) for pick in (min, max))
    ms_an_update = [spread(epochs, scale=1e3 / updates) for epochs in sums.values()]
    turns = updates / len(measured[0]["bare"][0])  # 1, or on a GPU an epoch's updates
    ratio = f"{1 + more / of:.3f} ({least:.3f} to {most:.3f})"
    return [*ms_an_update, f"{1e3 * more / turns:.2f}", ratio, f"{1e3 * at_border:.1f}" if turns == 1 else ""]


def typical(trainer: Sequence[Sequence[float]], bare: Sequence[Sequence[float]]) -> tuple[float, float, float]:
    """Of an epoch each turn of which is as in most epochs, in seconds: (what ours takes more in a turn, a turn of the
    bare loop, what ours takes more in the first turn than in another).

    The first, which has the evaluation and the border before it, is no part of the others unless there is no other.
    """
    pairs = [
        list(zip(*turn, strict=True)) for turn in zip(zip(*trainer, strict=True), zip(*bare, strict=True), strict=True)
    ]
    more = [statistics.median(a - b for a, b in turn) for turn in pairs]
    inside = slice(1 if len(pairs) > 1 else 0, None)
    of = statistics.mean(statistics.median(b for _, b in turn) for turn in pairs[inside])
    return statistics.mean(more[inside]), of, more[0] - statistics.mean(more[inside])


def count_waits(loops: Loops, rank: int) -> None:
    """Whether an update waits for the device, by PyTorch's own watch and by a profile."""
    try:
        loops.run(WithoutWaiting(), 2)
        outcome = "nothing waited"
    except RuntimeError as error:
        torch.cuda.set_sync_debug_mode("default")
        outcome = str(error).splitlines()[0]
    counting = Counting()
    loops.run(counting, 2)
    if rank == 0:
        print(f'\ntorch.cuda.set_sync_debug_mode("error") in updates: {outcome}\n')
        table(["call", "in an update"], [(name, f"{calls:.2f}") for name, calls in counting.per_update.items()])


if __name__ == "__main__":
    main()
