"""What each compute setting brings: whole updates of networks, against float32, contiguous, unfused and uncompiled.

usage: python -m benchmarks.compute [--device cpu] [--networks NAME,...] [--micro-batch N] [--only SETTING,...]
                                    [--rounds 7] [--threads 1] [--ghost-batch N] [--compile]

Each contestant is a process of its own, since memory that is kept and its peak belong to a process; they take turns
(an update each), and ratios are taken round by round. An update is forward, backward and a step of SGD with momentum on
random images that lie on the device. "kept" means that freed memory stays with the process (trainer.cli.freed_memory;
on a CPU the trainer does so), as in all rows but "none" and "huge pages", which is torch's own THP_MEM_ALLOC_ENABLE.
"weights too" gives the parameters the memory format of the images. --compile compares eager and compiled updates
instead, over three sizes of the micro-batch, and says how long compiling took; that takes minutes a network.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection

from benchmarks.side_by_side import in_turns, ratios, spread, table

# name: (micro-batch, pixels a side, classes, ghost batch)
NETWORKS = {
    "small-convnet": (64, 32, 10, None),
    "plain-convnet": (256, 32, 10, 128),
    "wide-resnet-16-4": (32, 32, 10, None),
    "resnet-50": (8, 112, 1000, None),
}


@dataclass(frozen=True, slots=True)
class Setting:
    keeps: bool = True
    huge_pages: bool = False
    channels_last: bool = False
    weights_too: bool = False
    fused: bool = False
    bfloat16: bool = False
    compiled: bool = False


START, KEPT = "none", "kept"
SETTINGS = {
    START: Setting(keeps=False),
    "huge pages": Setting(keeps=False, huge_pages=True),
    KEPT: Setting(),
    "channels_last": Setting(channels_last=True),
    "weights too": Setting(channels_last=True, weights_too=True),
    "fused": Setting(fused=True),
    "defaults": Setting(channels_last=True, fused=True),
    "bfloat16": Setting(bfloat16=True),
    "defaults, bfloat16": Setting(channels_last=True, fused=True, bfloat16=True),
}


@dataclass(frozen=True, slots=True)
class Work:
    network: str
    micro_batches: tuple[int, ...]
    size: int
    classes: int
    ghost_batch: int | None
    device: str
    threads: int


def serve(pipe: Connection, work: Work, setting: Setting) -> None:
    """A contestant: for every micro-batch that it is told, seconds of an update and its peak memory in MB."""
    if setting.huge_pages:
        os.environ["THP_MEM_ALLOC_ENABLE"] = "1"
    import torch
    from torch.nn import functional as F

    from trainer.cli.compiler import compiler
    from trainer.cli.freed_memory import keep_freed_memory
    from trainer.engine.optimizer import build_optimizer
    from trainer.engine.update import autocast
    from trainer.models import build_model
    from trainer.models.ghost_batch_norm import finish_update

    torch.set_num_threads(work.threads)
    device = torch.device(work.device)
    if setting.keeps and device.type == "cpu":
        keep_freed_memory()
    torch.manual_seed(0)
    model = build_model(work.network, work.classes, work.ghost_batch).to(device)
    memory_format = torch.channels_last if setting.channels_last else torch.contiguous_format
    if setting.weights_too:
        model = model.to(memory_format=memory_format)
    optimizer = build_optimizer("momentum", model, lr=0.0, momentum=0.9, weight_decay=1e-4, fused=setting.fused)
    module = compiler(setting.compiled, device)(model)
    autocast_to = torch.bfloat16 if setting.bfloat16 else None
    held = {}
    for samples in work.micro_batches:
        images = torch.randn(samples, 3, work.size, work.size, device=device).to(memory_format=memory_format)
        held[samples] = images, torch.randint(work.classes, (samples,), device=device)

    def update(samples: int) -> float:
        images, labels = held[samples]
        begin = time.perf_counter()
        with autocast(device, autocast_to):
            loss = F.cross_entropy(module(images), labels, reduction="sum") / samples
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        finish_update(model, samples)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - begin

    while (samples := pipe.recv()) is not None:
        seconds = update(samples)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        pipe.send((seconds, torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else peak))


class Contestant:
    """A process that makes updates when it is asked to."""

    def __init__(self, stack: ExitStack, work: Work, setting: Setting) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        process = context.Process(target=serve, args=(theirs, work, setting), daemon=True)
        process.start()
        self.peak_mb = 0.0
        stack.callback(process.join)
        stack.callback(self._pipe.send, None)

    def update(self, samples: int) -> float:
        self._pipe.send(samples)
        seconds, self.peak_mb = self._pipe.recv()
        return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--micro-batch", type=int, help="samples (default: another for each network)")
    parser.add_argument("--ghost-batch", type=int)
    parser.add_argument("--only", help="settings, by commas: " + "; ".join(SETTINGS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compile", action="store_true")
    arguments = parser.parse_args()
    for name in arguments.networks.split(","):
        micro_batch, size, classes, ghost_batch = NETWORKS[name]
        micro_batch = arguments.micro_batch or micro_batch
        sizes = (micro_batch, micro_batch // 2, micro_batch // 4) if arguments.compile else (micro_batch,)
        work = Work(
            name, sizes, size, classes, arguments.ghost_batch or ghost_batch, arguments.device, arguments.threads
        )
        print(f"\n{name}, {micro_batch} images of {size} x {size}, {arguments.device}, medians of {arguments.rounds}\n")
        (compare_compiled if arguments.compile else compare)(work, arguments.only, arguments.rounds)


def compare(work: Work, only: str | None, rounds: int) -> None:
    names = [START, *(name for name in only.split(",") if name != START)] if only else list(SETTINGS)
    if work.device != "cpu":
        names = [name for name in names if name not in (KEPT, "huge pages")]
    with ExitStack() as stack:
        contestants = {name: Contestant(stack, work, SETTINGS[name]) for name in names}
        measured = in_turns({name: bind(each, work.micro_batches[0]) for name, each in contestants.items()}, rounds)
        bases = [base for base in (START, KEPT) if base in names]
        rows = [
            (
                name,
                spread(measured[name], 1, 1000),
                *(spread(ratios(measured, name, base)) for base in bases),
                f"{contestants[name].peak_mb:.0f}",
            )
            for name in names
        ]
    table(("setting", "ms an update", *(f"of {base!r}" for base in bases), "peak MB"), rows)


def compare_compiled(work: Work, only: str | None, rounds: int) -> None:
    base = SETTINGS[only or "defaults"]
    rows = []
    with ExitStack() as stack:
        # What an earlier run has compiled would be taken from torch's cache.
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = stack.enter_context(tempfile.TemporaryDirectory())
        eager, compiled = (Contestant(stack, work, replace(base, compiled=compiled)) for compiled in (False, True))
        for samples in work.micro_batches:
            first_s = compiled.update(samples)
            measured = in_turns({"eager": bind(eager, samples), "compiled": bind(compiled, samples)}, rounds)
            times = (spread(measured[name], 1, 1000) for name in ("eager", "compiled"))
            rows.append((samples, f"{first_s:.1f}", *times, spread(ratios(measured, "compiled", "eager"))))
        table(("micro-batch", "first update, s", "eager, ms", "compiled, ms", "compiled / eager"), rows)


def bind(contestant: Contestant, samples: int) -> Callable[[], float]:
    return lambda: contestant.update(samples)


if __name__ == "__main__":
    main()
