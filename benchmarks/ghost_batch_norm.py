"""What ghost batch norm costs: against plain batch norm over the whole batch, and over each ghost batch alone.

usage: ghost_batch_norm.py [--rounds 15] [--device cpu] [--threads 1] [--only layers | networks]

Forward and backward of one layer, and of whole networks with their loss, in float32 and bfloat16 (autocast) and both
memory formats. Plain batch norm over each ghost batch alone is what ghost batch norm computes, without cutting and
joining: for a layer it gets separate tensors, for a network the batch goes through in as many parts. Rounds are
interleaved, and ratios are taken round by round, so that a machine whose speed drifts does not decide.

On a CPU glibc takes every tensor above 32 MB fresh from the system, page by page, which costs plain batch norm over the
whole batch as much as the work: with MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=1000000000000 it keeps the memory.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainer.models import build_model
from trainer.models.ghost_batch_norm import GhostBatchNorm

# samples, channels, side, ghost batch: the layers of wide-resnet-16-4 at 256, and the first of plain-convnet at 512
LAYERS = [(256, 64, 32, 64), (256, 128, 16, 64), (256, 256, 8, 64), (640, 256, 8, 128), (512, 16, 32, 128)]
NETWORKS = [("wide-resnet-16-4", 256, 64), ("plain-convnet", 512, 128)]
FORMATS = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}
TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
Step = Callable[[], None]


def layer_steps(samples: int, channels: int, side: int, ghost_batch: int, x: Tensor, gradient: Tensor) -> list[Step]:
    """Plain over the whole batch, ghost, plain over each ghost batch."""
    plain = nn.BatchNorm2d(channels).to(x.device)
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
    return [through(plain, [(whole, gradient)]), through(ghost, [(whole, gradient)]), through(plain, each)]


def network_steps(name: str, ghost_batch: int, images: Tensor, labels: Tensor, to: torch.dtype) -> list[Step]:
    """Plain over the whole batch, ghost, plain over each ghost batch."""
    models = [build_model(name, 10, ghost).to(images.device) for ghost in (None, ghost_batch)]
    if images.is_contiguous(memory_format=torch.channels_last):
        models = [model.to(memory_format=torch.channels_last) for model in models]

    def through(model: nn.Module, size: int) -> Step:
        def step() -> None:
            for x, y in zip(images.split(size), labels.split(size), strict=True):
                with torch.autocast(images.device.type, dtype=to, enabled=to is not torch.float32):
                    loss = F.cross_entropy(model(x), y, reduction="sum")
                loss.backward()

        return step

    plain, ghost = models
    return [through(plain, len(images)), through(ghost, len(images)), through(plain, ghost_batch)]


def compare(what: str, steps: list[Step], rounds: int, device: torch.device) -> None:
    """Prints one row: milliseconds of the first step, and the others' ratios to it."""
    times: list[list[float]] = [[] for _ in steps]
    for round_number in range(rounds + 1):  # the first warms up
        order = list(enumerate(steps))
        for index, step in order if round_number % 2 else reversed(order):
            begin = time.perf_counter()
            step()
            if device.type == "cuda":
                torch.cuda.synchronize()
            times[index].append(time.perf_counter() - begin)
    plain, *others = (measured[1:] for measured in times)
    cells = [f"{1000 * statistics.median(plain):.1f}"]
    for other in others:
        ratios = [a / b for a, b in zip(other, plain, strict=True)]
        cells.append(f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    print(f"| {what} | " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", type=torch.device, default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", choices=["layers", "networks"])
    arguments = parser.parse_args()
    rounds, device = arguments.rounds, arguments.device
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    print(
        f"| forward and backward | plain, ms (median of {rounds}) | ghost / plain | plain on each ghost batch / plain |"
    )
    print("|---|---|---|---|")
    for kind, dtype in TYPES.items():
        for layout, memory_format in FORMATS.items():
            if arguments.only != "networks":
                for samples, channels, side, ghost_batch in LAYERS:
                    shape = (samples, channels, side, side)
                    x, gradient = (torch.randn(shape, dtype=dtype, device=device) for _ in range(2))
                    x, gradient = (tensor.to(memory_format=memory_format) for tensor in (x, gradient))
                    steps = layer_steps(*(samples, channels, side, ghost_batch), x, gradient)
                    what = f"{samples} x {channels} x {side} x {side} in {ghost_batch}s, {layout}, {kind}"
                    compare(what, steps, rounds, device)
            if arguments.only != "layers":
                for name, samples, ghost_batch in NETWORKS:
                    images = torch.randn(samples, 3, 32, 32, device=device).to(memory_format=memory_format)
                    labels = torch.randint(10, (samples,), device=device)
                    steps = network_steps(name, ghost_batch, images, labels, dtype)
                    compare(f"{name}, {samples} in {ghost_batch}s, {layout}, {kind}", steps, rounds, device)


if __name__ == "__main__":
    main()
