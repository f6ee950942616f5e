"""What ghost batch norm costs: against plain batch norm over the whole batch, and over each ghost batch alone.

usage: python -m benchmarks.ghost_batch_norm [--rounds 7] [--device cpu] [--threads 1] [--only layers | networks]
                                             [--format NCHW | NHWC]

Forward and backward of one layer, and of whole networks with their loss, in float32 and bfloat16 (autocast) and both
memory formats. Plain batch norm over each ghost batch alone is what ghost batch norm computes, without cutting and
joining: for a layer it gets separate tensors, for a network the batch goes through in as many parts. "Cut and joined"
is a layer made of split, batch norm and cat. Contestants take turns, and ratios are taken round by round. On a CPU
freed memory stays with the process, as in training.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.side_by_side import in_turns, ratios, spread, table
from trainer.cli.freed_memory import keep_freed_memory
from trainer.models import build_model
from trainer.models.ghost_batch_norm import GhostBatchNorm

# samples, channels, side, ghost batch: the layers of wide-resnet-16-4 at 256, and the first of plain-convnet at 512
LAYERS = [(256, 64, 32, 64), (256, 128, 16, 64), (256, 256, 8, 64), (640, 256, 8, 128), (512, 16, 32, 128)]
NETWORKS = [("wide-resnet-16-4", 128, 32), ("plain-convnet", 512, 128)]
FORMATS = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}
TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
Step = Callable[[], None]


class CutAndJoined(nn.BatchNorm2d):
    """Ghost batch norm as torch's operations make it: a copy of the batch forward, and another one backward."""

    def __init__(self, channels: int, ghost_batch: int) -> None:
        super().__init__(channels)
        self.ghost_batch = ghost_batch

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([super(CutAndJoined, self).forward(part) for part in x.split(self.ghost_batch)])


def layer_steps(samples: int, channels: int, side: int, ghost_batch: int, x: Tensor, gradient: Tensor) -> list[Step]:
    """Plain over the whole batch, ghost, plain over each ghost batch, cut and joined."""
    plain = nn.BatchNorm2d(channels).to(x.device)
    joined = CutAndJoined(channels, ghost_batch).to(x.device)
    ghost = GhostBatchNorm(channels, ghost_batch).to(x.device)
    whole = x.detach().requires_grad_()
    parts = [part.detach().requires_grad_() for part in x.split(ghost_batch)]

    def through(norm: nn.Module, pairs: list[tuple[Tensor, Tensor]]) -> Step:
        def step() -> None:
            for leaf, _ in pairs:
                leaf.grad = None
            for leaf, upstream in pairs:
                norm(leaf).backward(upstream)

        return step

    each = list(zip(parts, gradient.split(ghost_batch), strict=True))
    steps = [through(norm, [(whole, gradient)]) for norm in (plain, ghost, joined)]
    return [*steps[:2], through(plain, each), steps[2]]


def network_steps(name: str, ghost_batch: int, images: Tensor, labels: Tensor, to: torch.dtype) -> list[Step]:
    """Plain over the whole batch, ghost, plain over each ghost batch."""
    models = [build_model(name, 10, ghost).to(images.device) for ghost in (None, ghost_batch)]

    def through(model: nn.Module, size: int) -> Step:
        def step() -> None:
            for x, y in zip(images.split(size), labels.split(size), strict=True):
                with torch.autocast(images.device.type, dtype=to, enabled=to is not torch.float32):
                    loss = F.cross_entropy(model(x), y, reduction="sum")
                loss.backward()

        return step

    plain, ghost = models
    return [through(plain, len(images)), through(ghost, len(images)), through(plain, ghost_batch)]


def row(what: str, steps: list[Step], rounds: int, device: torch.device) -> tuple[str, ...]:
    """Milliseconds of the first step, and the others' ratios to it (networks have no fourth)."""

    def timed(step: Step) -> Callable[[], float]:
        def run() -> float:
            begin = time.perf_counter()
            step()
            if device.type == "cuda":
                torch.cuda.synchronize()
            return time.perf_counter() - begin

        return run

    names = ("plain", "ghost", "each", "joined")[: len(steps)]
    measured = in_turns({name: timed(step) for name, step in zip(names, steps, strict=True)}, rounds)
    others = (spread(ratios(measured, name, "plain")) for name in names[1:])
    return (what, spread(measured["plain"], 1, 1000), *others, *[""] * (4 - len(steps)))


def rows(only: str | None, chosen: str | None, rounds: int, device: torch.device) -> Iterator[tuple[str, ...]]:
    for kind, dtype in TYPES.items():
        for layout, memory_format in FORMATS.items() if chosen is None else [(chosen, FORMATS[chosen])]:
            for samples, channels, side, ghost_batch in LAYERS if only != "networks" else []:
                shape = (samples, channels, side, side)
                x, gradient = (torch.randn(shape, dtype=dtype, device=device) for _ in range(2))
                x, gradient = (tensor.to(memory_format=memory_format) for tensor in (x, gradient))
                steps = layer_steps(samples, channels, side, ghost_batch, x, gradient)
                what = f"{samples} x {channels} x {side} x {side} in {ghost_batch}s, {layout}, {kind}"
                yield row(what, steps, rounds, device)
            for name, samples, ghost_batch in NETWORKS if only != "layers" else []:
                images = torch.randn(samples, 3, 32, 32, device=device).to(memory_format=memory_format)
                labels = torch.randint(10, (samples,), device=device)
                steps = network_steps(name, ghost_batch, images, labels, dtype)
                yield row(f"{name}, {samples} in {ghost_batch}s, {layout}, {kind}", steps, rounds, device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", type=torch.device, default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", choices=["layers", "networks"])
    parser.add_argument("--format", choices=list(FORMATS), help="default: both")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    if arguments.device.type == "cpu":
        keep_freed_memory()
    headings = (
        "forward and backward",
        "plain, ms",
        "ghost / plain",
        "plain on each ghost batch / plain",
        "cut and joined / plain",
    )
    table(headings, rows(arguments.only, arguments.format, arguments.rounds, arguments.device))


if __name__ == "__main__":
    main()
