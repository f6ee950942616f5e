"""One worker of the wire tests: updates of a small network for each case; what they sent, what their probes caught, and
what came of them.

usage: wire_worker.py ddp|horovod OUT_PREFIX WIRE:ACCUMULATION_STEPS[:apart]...

apart: the backward pauses between its two buckets, for longer than a cycle of Horovod's.
"""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import mean

import torch
from torch import nn
from torch.nn import functional as F

from trainer.cli.fleet import open_collective
from trainer.collective.collective import Collective
from trainer.collective.leave import leave
from trainer.engine.gradient_probe import ProbePlan, Probing
from trainer.engine.optimizer import build_optimizer
from trainer.engine.readings import Readings, norms
from trainer.engine.update import run_update
from trainer.environment import detect_launch
from trainer.rule import BatchPlan, NoiseAverages

WIDTH, LAYERS, UPDATES = 1024, 7, 3
GRADIENT_BYTES = 4 * (LAYERS * WIDTH**2 + 10 * WIDTH)  # two buckets: the first layer does not fit into the other's
CYCLE_S = 0.04
WIRES = {"float32": None, "float16": torch.float16}


def main(library: str, prefix: str, *cases: str) -> None:
    collective = open_collective(library, detect_launch())
    found: dict[str, object] = {case: make_updates(collective, *case.split(":")) for case in cases}
    found["arrives"] = [arrives(collective, of_the_largest) for of_the_largest in (0.99, 1.01)]
    torch.save(found, f"{prefix}{collective.rank}.pt")
    collective.all_reduce(torch.zeros(1))
    collective.close()
    leave(0)


def make_updates(collective: Collective, wire: str, accumulation_steps: str, pause: str = "") -> dict[str, object]:
    torch.manual_seed(0)
    layers = [nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(LAYERS)]
    if pause:
        layers[0].register_full_backward_pre_hook(lambda *_: time.sleep(3 * CYCLE_S))
    model = nn.Sequential(nn.Flatten(), *layers, nn.Linear(WIDTH, 10, bias=False))
    optimizer = build_optimizer("momentum", model, lr=0.1, momentum=0.9, weight_decay=0.0)
    module = collective.wrap(model, WIRES[wire])
    plan = BatchPlan(2, int(accumulation_steps), collective.world_size)
    probing = Probing.of(model, ProbePlan(1), plan, 1000, collective.gradient_divisor)
    readings = Readings(torch.device("cpu"))
    generator, labels = torch.Generator().manual_seed(collective.rank), torch.arange(2)
    images = torch.randn(plan.accumulation_steps, 2, 1, 32, 32, generator=generator)
    sent, probed_by_autograd = [], []
    for update in range(UPDATES):
        losses = [F.cross_entropy(model(part), labels) for part in images]
        gradients = [torch.autograd.grad(loss, list(model.parameters())) for loss in losses]
        probed_by_autograd.append(mean(sum(float(norm) ** 2 for norm in norms(gradient)) for gradient in gradients))
        probe = probing.probe(update)
        assert probe is not None, "all are probed"
        note = partial(readings.note, where=str, caught=probe.caught)
        collective.all_reduce(torch.zeros(1))  # nothing of what was before is on its way any more
        before = bytes_on_loopback()
        micro_batches = ((part, labels) for part in images)
        run_update(module, optimizer, collective, micro_batches, plan, note=note, probe=probe)
        collective.all_reduce(torch.zeros(1))
        sent.append(bytes_on_loopback() - before)
    squares = readings.take_squares()
    return {
        "state": model.state_dict(),
        "sent": sent,
        "probed": [small for small, _ in squares],
        "probed_by_autograd": probed_by_autograd,
        "noise": asdict(probing.add(NoiseAverages(), squares, collective)),
    }


def arrives(collective: Collective, of_the_largest: float) -> bool:
    """Whether a gradient of rank 0's, so much of what the collective lets through as float16, is there in the sum."""
    model = nn.Linear(1, 1, bias=False)
    module = collective.wrap(model, torch.float16)
    gradient = of_the_largest * collective.largest_gradient if collective.rank == 0 else 0.0
    with collective.micro_step(last=True):
        (module(torch.full((1, 1), gradient)).sum() * collective.gradient_divisor).backward()
    collective.finish_gradients()
    assert model.weight.grad is not None, "a backward leaves a gradient"
    return bool(torch.isfinite(model.weight.grad))


def bytes_on_loopback() -> int:
    lines = Path("/proc/net/dev").read_text().splitlines()
    return next(int(line.split(":")[1].split()[0]) for line in lines if line.strip().startswith("lo:"))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*sys.argv[1:])
