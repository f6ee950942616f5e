"""What probing costs: updates of which one in ten is probed, against updates none of which is.

    python -m benchmarks.gradient_probe [--pairs 200] [--device cuda]
    python -m benchmarks.gradient_probe --networks wide-resnet-16-4 --pairs 12 --micro-batches 1 2
    torchrun --standalone --nproc-per-node 2 -m benchmarks.gradient_probe --library ddp
    horovodrun -np 2 python -m benchmarks.gradient_probe --library horovod

The updates are the loop's own (run_update, with readings that come as late as the device's do), on random images that
lie on the device; on a GPU in bfloat16 and channels_last. One worker has its batch as one micro-batch, which a probed
update cuts in two, as two, and as ten times as much in ten, where every update is probed; of several workers each has
one.

Probed and unprobed updates take turns, one by one (on a GPU twenty by twenty). The median of their differences, over
as many updates as one probe stands for, is what probing adds: measured in one update of ten it would be lost in a
machine's unrest. The spread is that of five lots of pairs. Seconds are the processor's on a CPU, where somebody else's
work does not count, and the clock's on a GPU. The norms of the whole gradient are in both: every update reads them.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from functools import partial
from itertools import repeat

import torch

from benchmarks.jobs import join
from benchmarks.side_by_side import in_turns, table
from trainer.collective.collective import Collective
from trainer.collective.leave import leave
from trainer.engine.gradient_probe import ProbePlan, Probing
from trainer.engine.optimizer import build_optimizer
from trainer.engine.readings import Readings
from trainer.engine.update import run_update
from trainer.models import build_model
from trainer.rule import BatchPlan

EVERY = 10
# name: (samples of a worker in an update, pixels a side, ghost batch)
NETWORKS = {"small-convnet": (128, 32, 32), "wide-resnet-16-4": (128, 32, 64)}
ON_A_GPU = 20  # updates of a turn
LOTS = 5


def contest(name: str, steps: int, collective: Collective, device: torch.device, pairs: int) -> tuple[str, ...]:
    """A row of the table: updates of one network whose batch is cut into so many micro-batches for each worker."""
    torch.manual_seed(0)
    samples, side, ghost_batch = NETWORKS[name]
    on_gpu = device.type == "cuda"
    updates = ON_A_GPU if on_gpu else 1
    model = build_model(name, 10, ghost_batch).to(device)
    module = collective.wrap(model)
    optimizer = build_optimizer("momentum", model, lr=0.0, momentum=0.9, weight_decay=5e-4)
    plan = BatchPlan(samples if steps == EVERY else samples // steps, steps, collective.world_size)
    images = torch.randn(plan.micro_batch, 3, side, side, device=device).to(memory_format=torch.channels_last)
    batches = repeat((images, torch.randint(10, (plan.micro_batch,), device=device)))
    readings = Readings(device)
    always = Probing.of(model, ProbePlan(1), plan, 50_000, collective.gradient_divisor)
    interval = Probing.of(model, ProbePlan(EVERY), plan, 50_000, collective.gradient_divisor).interval
    assert interval is not None, "these updates can be probed"
    autocast_to = torch.bfloat16 if on_gpu else None

    def now() -> float:
        if not on_gpu:
            return time.process_time()
        torch.cuda.synchronize(device)
        return time.perf_counter()

    def seconds(is_probed: bool) -> float:
        """Of an update, over a turn."""
        collective.all_reduce(torch.zeros(1))  # the workers begin together
        began = now()
        for number in range(updates):
            probe = always.probe(number) if is_probed else None
            note = partial(readings.note, where=str, caught=() if probe is None else probe.caught)
            run_update(module, optimizer, collective, batches, plan, autocast_to, note=note, probe=probe)
        return (now() - began) / updates

    measured = in_turns({"probed": partial(seconds, True), "not": partial(seconds, False)}, pairs)
    readings.settle()
    of = statistics.median(measured["not"])
    more = [a - b for a, b in zip(measured["probed"], measured["not"], strict=True)]
    cut = "one" if always.cut is None else "one, cut in two where it is probed"
    cut = cut if steps == 1 else f"{steps}"
    return name, cut, f"{1e3 * of:.2f}", of_lots(more, 1e3), f"one in {interval}", of_lots(more, 100 / of / interval)


def of_lots(values: Sequence[float], scale: float) -> str:
    """The median of all (the least to the most of lots)."""
    medians = [scale * statistics.median(values[i::LOTS]) for i in range(min(LOTS, len(values)))]
    return f"{scale * statistics.median(values):.2f} ({min(medians):.2f} to {max(medians):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--networks", default="small-convnet", help="minutes for a dozen pairs of the other")
    parser.add_argument(
        "--micro-batches", type=int, nargs="+", default=[1, 2, EVERY], help="of an update of one worker"
    )
    parser.add_argument("--library", choices=["local", "ddp", "horovod"], default="local")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    arguments = parser.parse_args()
    collective, device = join(arguments.library, arguments.device)
    clock = "clock" if device.type == "cuda" else "processor's"
    is_told = collective.rank == 0
    if is_told:
        print(
            f"{collective.world_size} worker(s), {collective.name}, {device}: {clock} time, {arguments.pairs} pairs\n"
        )
        table(["network", "micro-batches", "ms an update", "more where probed, ms", "probed", "more in all, %"], [])
    for name in arguments.networks.split(","):
        for steps in arguments.micro_batches if collective.world_size == 1 else (1,):
            row = contest(name, steps, collective, device, arguments.pairs)
            if is_told:
                print("| " + " | ".join(row) + " |", flush=True)
    collective.close()
    leave(0)


if __name__ == "__main__":
    main()
