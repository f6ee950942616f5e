"""All benchmarks of one GPU in one go, into one Markdown file; one that fails or takes too long stops no other.

python -m benchmarks.gpu_all PHOTOS [--data CIFAR10] [--make 4000] [--out FILE] [--only training input ...]

About ten minutes on a data centre's GPU; no part longer than its limit. PHOTOS: train and val folders of class folders;
--make writes files of ImageNet's size out of them into a temporary folder first, for where there are few. Several GPUs
also measure the sum of gradients. Ends with a table of how each part ended, and exit code 1 if one did not end well.

Where there is no network and no virtual environment, run it in a checkout with an interpreter that has

    training, input, cifar  torch with CUDA, Triton and a C compiler for it, numpy, pydantic, and DALI with its needs:
                            nvidia-dali-cuda130 nvidia-nvimgcodec-cu13 nvidia-libnvcomp-cu13 nvidia-nvjpeg
                            nvidia-nvjpeg2k-cu13 nvidia-nvtiff-cu13 nvtx optree astunparse gast makefun libcst six
    loop                    torch, numpy, pydantic, scikit-learn, rich
    probe                   as loop
    compute, ghosts         torch, numpy
    gradients               torch, numpy, pydantic
    --make                  Pillow

pydantic needs pydantic-core, annotated-types, typing-inspection. `--device cpu` runs all in small, to try the code.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import torch

from benchmarks.gpu_chip import device_of

COMPUTE = "--networks resnet-50 --micro-batch 128 --rounds 5"
GRADIENTS = "--launchers torchrun --image-size 224 --micro-batch 64"
SMALL = "--network small-convnet --updates 2 --warm-up 1 --rounds 1"


@dataclass(frozen=True, slots=True)
class Part:
    """A benchmark with its arguments, and how long it may take."""

    name: str
    arguments: tuple[str, ...]
    limit_s: float


def parts(photos: Path, data: Path | None, gpus: int) -> list[Part]:
    """What there is to run, the most important first; without a GPU in small."""

    def part(name: str, limit_s: float, module: str, on_gpu: str, in_small: str, *folders: Path | None) -> Part:
        options = f"--device cuda {on_gpu}" if gpus else f"--device cpu {in_small}"
        return Part(name, (module, *map(str, filter(None, folders)), *options.split()), limit_s)

    everything = [
        part("training", 600, "gpu_training", "", f"{SMALL} --image-size 32 --batch 4", photos),
        part("input", 240, "gpu_input", "", "--batch 4 --seconds 0.1 --threads 1 2", photos),
        part("cifar", 300, "gpu_cifar", "", f"{SMALL} --batches 16", data),
        part("loop", 60, "loop_overhead", "--rounds 10", "--rounds 1"),
        part("probe", 90, "gradient_probe", "--networks small-convnet,wide-resnet-16-4 --pairs 40", "--pairs 2"),
        part("compute", 150, "compute", COMPUTE, "--networks small-convnet --micro-batch 4 --rounds 1"),
        part("ghosts", 90, "ghost_batch_norm", "--only networks --rounds 5", "--only layers --rounds 1"),
    ]
    if gpus > 1:
        everything.append(part("gradients", 120, "gradients", GRADIENTS, ""))
    return everything


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("--data", type=Path, help="folder of CIFAR-10 [random images]")
    parser.add_argument("--make", type=int, help="files of ImageNet's size to make of the photos")
    parser.add_argument("--out", type=Path, help="file for the tables, beside standard output")
    parser.add_argument("--only", nargs="+", help="parts by name")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    arguments = parser.parse_args()
    device = device_of(arguments.device)
    with contextlib.ExitStack() as stack:
        out = stack.enter_context(open(arguments.out or os.devnull, "w", encoding="utf-8"))
        photos = arguments.photos
        if arguments.make:
            from benchmarks.imagenet_like import make

            photos = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "imagenet-like"
            told(make(arguments.photos, photos, arguments.make) + "\n", out)
        everything = parts(photos, arguments.data, torch.cuda.device_count() if device.type == "cuda" else 0)
        known = [part.name for part in everything]
        if unknown := sorted(set(arguments.only or ()) - set(known)):
            parser.error(f"--only {' '.join(unknown)}: there is no such part: choose from {', '.join(known)}")
        chosen = [part for part in everything if arguments.only is None or part.name in arguments.only]
        sys.exit(run(chosen, out))


def run(chosen: Sequence[Part], out: TextIO) -> int:
    """Runs the parts, and says how they ended; the exit code."""
    ended = []
    for part in chosen:
        command = " ".join(["python -m", f"benchmarks.{part.arguments[0]}", *part.arguments[1:]])
        told(f"\n## {part.name}\n\n`{command}`\n\n", out)
        began = time.monotonic()
        how = run_part(part, out)
        ended.append((part.name, f"{time.monotonic() - began:.0f} s", how))
    told("\n## How they ended\n\n", out)
    rows = [("part", "took", "ended"), ("---", "---", "---"), *ended]
    told("".join(f"| {' | '.join(row)} |\n" for row in rows), out)
    return 0 if all(how == "well" for _, _, how in ended) else 1


def run_part(part: Part, out: TextIO) -> str:
    """Runs one; what it prints goes out as it comes. Says how it ended."""
    module, *arguments = part.arguments
    process = subprocess.Popen(
        [sys.executable, "-m", f"benchmarks.{module}", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # so that what it started ends with it
    )
    too_long = threading.Event()

    def end() -> None:
        too_long.set()
        os.killpg(process.pid, signal.SIGKILL)

    timer = threading.Timer(part.limit_s, end)
    timer.start()
    assert process.stdout is not None, "its output is a pipe"
    for line in process.stdout:
        told(line, out)
    code = process.wait()
    timer.cancel()
    if too_long.is_set():
        return f"ended after its limit of {part.limit_s:g} s"
    return "well" if code == 0 else f"with exit code {code}"


def told(text: str, out: TextIO) -> None:
    """Writes to standard output and to the file, at once."""
    for stream in (sys.stdout, out):
        stream.write(text)
        stream.flush()


if __name__ == "__main__":
    main()
