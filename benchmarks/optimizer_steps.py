"""What an optimizer step costs: parameter by parameter, operation by operation (foreach), and fused.

usage: python -m benchmarks.optimizer_steps [--device cpu] [--networks NAME,...] [--rounds 9]

Steps on a network's parameters with random gradients, in turns; ratios to "loop" round by round. LARS is the trainer's.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch
from torch.optim import SGD, Adam, AdamW, Optimizer

from benchmarks.side_by_side import in_turns, ratios, spread, table
from trainer.engine.lars import Lars
from trainer.models import build_model

WAYS: Mapping[str, dict[str, bool]] = {
    "loop": {"foreach": False},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
}
OPTIMIZERS = {
    "SGD with momentum": partial(SGD, lr=1e-6, momentum=0.9, weight_decay=1e-4),
    "Adam": partial(Adam, lr=1e-6),
    "AdamW": partial(AdamW, lr=1e-6),
}


def stepping(optimizer: Optimizer, device: torch.device) -> Callable[[], float]:
    def step() -> float:
        begin = time.perf_counter()
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - begin

    return step


def rows(names: list[str], device: torch.device, rounds: int) -> Iterator[tuple[str, ...]]:
    for name in names:
        parameters = list(build_model(name, 1000, None).to(device).parameters())
        for parameter in parameters:
            parameter.grad = torch.randn_like(parameter) * 1e-3
        for kind, build in OPTIMIZERS.items():
            contestants = {way: stepping(build(parameters, **options), device) for way, options in WAYS.items()}
            measured = in_turns(contestants, rounds)
            others = (spread(ratios(measured, way, "loop")) for way in ("foreach", "fused"))
            yield name, kind, spread(measured["loop"], 2, 1000), *others
        lars = Lars(parameters, lr=1e-6, momentum=0.9, trust_coefficient=0.001, weight_decay=1e-4)
        measured = in_turns({"lars": stepping(lars, device)}, rounds)
        yield name, "LARS", "", f"{spread(measured['lars'], 2, 1000)} ms", ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", type=torch.device, default="cpu")
    parser.add_argument("--networks", default="small-convnet,wide-resnet-16-4,resnet-50")
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    headings = ("network", "optimizer", "loop, ms a step", "foreach / loop", "fused / loop")
    table(headings, rows(arguments.networks.split(","), arguments.device, arguments.rounds))


if __name__ == "__main__":
    main()
