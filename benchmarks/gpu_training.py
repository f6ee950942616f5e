"""ResNet-50 training on one GPU: the service's loop against a bare one, the chip's peak, and fed from JPEG files.

python -m benchmarks.gpu_training [PHOTOS] [--device cuda] [--batch 256] [--rounds 3]     # prints Markdown tables

bf16 autocast. First with images that lie on the device: images/s of both loops in turns, the share of the chip's bf16
peak that the network's convolutions and products reach (FLOPs counted over forward and backward), and from a profile
of each loop the share of time in which no kernel ran and how often the host waited for the device. Then the fastest of
these settings fed by the stream from PHOTOS (train and val folders of class folders), decoded on the device and on the
CPU, as a share of what it did without input: from 1 on the input does not bound it.

Imports torch, numpy and pydantic; with PHOTOS DALI. `--device cpu --network small-convnet --image-size 32 --batch 4
--updates 2 --warm-up 1 --rounds 1` runs the same code in a minute; share of peak, idle and waits are then empty.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.apart import EndedEarly, apart
from benchmarks.gpu_chip import device_name, device_of, flops_per_image
from benchmarks.gpu_compare import COLUMNS, about_the_peak, cells_or_why_not, compare, let_go
from benchmarks.gpu_loops import Setting, Synthetic, prepare, seconds, service
from benchmarks.side_by_side import spread, table

# batch norm's ghosts, memory format, torch.compile
SETTINGS = (
    (None, torch.contiguous_format, False),
    (None, torch.channels_last, False),
    (None, torch.channels_last, True),
    (32, torch.channels_last, False),
    (32, torch.channels_last, True),
)
PUBLISHED = """
For orientation, on other hardware or with other software: 2,470 images/s on an A100 (NVIDIA, PyTorch, AMP); about
6,900 on an H100 as MLPerf training v3.0 implies, decoding included."""


def main() -> None:
    cores = len(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", nargs="?", type=Path, help="folder with train and val folders of class folders")
    parser.add_argument("--device", type=device_of, default="cuda", help="[%(default)s]")
    parser.add_argument("--network", default="resnet-50", help="[%(default)s]")
    parser.add_argument("--image-size", type=int, default=224, help="pixels a side [%(default)s]")
    parser.add_argument("--batch", type=int, default=256, help="samples, a multiple of 32 or below 32 [%(default)s]")
    parser.add_argument("--updates", type=int, default=20, help="that are measured at a time [%(default)s]")
    parser.add_argument("--warm-up", type=int, default=5, help="updates before these [%(default)s]")
    parser.add_argument("--rounds", type=int, default=3, help="[%(default)s]")
    parser.add_argument("--threads", type=int, default=min(8, cores), help="of DALI [%(default)s]")
    arguments = parser.parse_args()
    size = arguments.image_size
    first = Setting(arguments.device, network=arguments.network, image_size=size, batch=arguments.batch)
    print(
        f"{device_name(first.device)}, {cores} cores, torch {torch.__version__}; {first.network}, batch {first.batch}, "
        f"{size} x {size}, bf16; {arguments.updates} updates in each of {arguments.rounds} rounds; median (least to "
        f"most)\n"
    )
    times = arguments.warm_up, arguments.updates, arguments.rounds
    rates = without_input(first, *times)
    print(PUBLISHED)
    if arguments.photos is None:
        print("\nFed from files: no PHOTOS were named.")
        return
    if not rates:
        raise SystemExit("Fed from files: no setting trained without input.")
    let_go()
    fastest = max(rates, key=rates.__getitem__)
    norm, layout, compiled = fastest.words()
    print(f"\nFed from {arguments.photos.name}: batch norm {norm}, {layout}, compiled: {compiled}.\n")
    on_gpu = [("gpu", None), ("gpu", 0.0), ("gpu", 1.0)] if first.device.type == "cuda" else []
    table(
        ("decoded on", "threads", "hw_decoder_load", "images/s", "of what it is without input"),
        (
            fed_row(fastest, arguments.photos, decoder, load, arguments.threads, times, rates[fastest])
            for decoder, load in [*on_gpu, ("cpu", None)]
        ),
    )


def without_input(first: Setting, warm_up: int, updates: int, rounds: int) -> dict[Setting, float]:
    """Prints the table of SETTINGS, and returns the service's images/s (medians)."""
    rates: dict[Setting, float] = {}
    flops = flops_per_image(first.network, first.classes, first.image_size)

    def row(ghost: int | None, layout: torch.memory_format, compiled: bool) -> list[str]:
        ghost_batch = None if ghost is None else min(ghost, first.batch)
        setting = replace(first, ghost_batch=ghost_batch, memory_format=layout, compile=compiled)

        def measured() -> list[str]:
            compared = compare(setting, Synthetic(setting), warm_up, updates, rounds)
            rates[setting] = statistics.median(compared.images_per_s("service"))
            each = [spread(compared.images_per_s(loop), 0) for loop in ("service", "bare")]
            return [*each, *compared.cells(flops)]

        return [*setting.words(), *cells_or_why_not(measured, len(headings) - 3)]

    headings = ("batch norm", "format", "compiled", "service, images/s", "bare, images/s", *COLUMNS)
    table(headings, (row(*one) for one in SETTINGS))
    print(about_the_peak(flops, first.device))
    return rates


def fed_row(
    setting: Setting,
    photos: Path,
    decoder: str,
    load: float | None,
    threads: int,
    times: tuple[int, int, int],
    rate_without: float,
) -> list[str]:
    """One row, from a process apart: where a decoder ends it, the row says so."""
    try:
        rates = [setting.batch / each for each in apart(fed, setting, photos, decoder, load, threads, *times)]
        cells = [spread(rates, 0), spread(rates, 3, 1 / rate_without)]
    except EndedEarly as error:
        cells = [str(error), "-"]
    return [decoder, str(threads), "default" if load is None else f"{load:g}", *cells]


def fed(
    setting: Setting,
    photos: Path,
    decoder: str,
    load: float | None,
    threads: int,
    warm_up: int,
    updates: int,
    rounds: int,
) -> Iterator[float]:
    """Seconds an update of the service, round by round, with images from files."""
    from benchmarks.gpu_stream import open_stream

    size, layout = setting.image_size, setting.memory_format
    options = {"decoder": decoder, "hw_decoder_load": load, "threads": threads}
    stream = open_stream(photos, setting.device, setting.batch, image_size=size, memory_format=layout, **options)
    with closing(stream):
        trained = prepare(setting, stream)
        for number in range(rounds + 1):
            took = seconds(service, trained, warm_up, updates)
            if number:  # the first one finds cold files
                yield took


if __name__ == "__main__":
    main()
