"""Wide ResNet 16-4 on CIFAR-10 held on one GPU: seconds an epoch, the service's loop against a bare one.

python -m benchmarks.gpu_cifar [DATA] [--device cuda] [--batches 128 640 3200]            # prints a Markdown table

The batches of the paper's first three phases, each at once (no accumulation), ghost batch 128, bf16 autocast, flips and
padding by four: both loops read the project's stream of images held on the device. DATA: the folder of CIFAR-10;
without it 50,000 random images. Windows of --updates updates stand for the epoch, or all of it where that is shorter.

Imports torch, numpy and pydantic; DALI where DATA holds JPEG files. `--device cpu --network small-convnet --batches 16
--updates 3 --warm-up 1 --rounds 1` runs the same code in a minute.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
import torch

from benchmarks.gpu_chip import device_name, device_of, flops_per_image
from benchmarks.gpu_compare import COLUMNS, about_the_peak, cells_or_why_not, compare
from benchmarks.gpu_loops import Setting
from benchmarks.side_by_side import spread, table
from dali_pipelines.augmentation import Augmentation
from dali_pipelines.image_arrays import labelled_images
from dali_pipelines.pipeline import Dataset, open_dataset, open_pipeline

IMAGES, SIDE, GHOST_BATCH = 50_000, 32, 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="?", type=Path, help="folder of CIFAR-10 [random images]")
    parser.add_argument("--device", type=device_of, default="cuda", help="[%(default)s]")
    parser.add_argument("--network", default="wide-resnet-16-4", help="[%(default)s]")
    parser.add_argument("--batches", type=int, nargs="+", default=[128, 640, 3200], help="[%(default)s]")
    parser.add_argument("--updates", type=int, default=100, help="at most, that are measured at a time [%(default)s]")
    parser.add_argument("--warm-up", type=int, default=5, help="updates before these [%(default)s]")
    parser.add_argument("--rounds", type=int, default=3, help="[%(default)s]")
    arguments = parser.parse_args()
    device, network, largest = arguments.device, arguments.network, max(arguments.batches)
    dataset = random_images() if arguments.data is None else open_dataset("cifar10", arguments.data)
    images = open_pipeline(
        dataset,
        seed=1,
        image_size=SIDE,
        augmentation=Augmentation("pad", padding=4),
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        max_micro_batch=largest,
        device=device,
        memory_format=torch.channels_last,
        threads=len(os.sched_getaffinity(0)),
    )
    what = "random images" if arguments.data is None else arguments.data.name
    print(
        f"{device_name(device)}, torch {torch.__version__}; {network}, {what}, ghost batch {GHOST_BATCH}, "
        f"channels_last, bf16; an epoch is {dataset.train_size:,} images; {arguments.rounds} rounds, median (least to "
        f"most)\n"
    )
    flops = flops_per_image(network, 10, SIDE)

    def row(batch: int, compiled: bool) -> list[str]:
        ghost_batch = min(batch, GHOST_BATCH)
        setting = Setting(device, network, 10, SIDE, batch, ghost_batch, torch.channels_last, compiled)
        updates = min(arguments.updates, dataset.train_size // batch)

        def measured() -> list[str]:
            compared = compare(setting, images, arguments.warm_up, updates, arguments.rounds)
            per_epoch = dataset.train_size / batch
            epochs = [spread(compared.took[loop], 2, per_epoch) for loop in ("service", "bare")]
            return [*epochs, *compared.cells(flops)]

        return [str(batch), "yes" if compiled else "no", *cells_or_why_not(measured, len(headings) - 2)]

    headings = ("batch", "compiled", "service, s an epoch", "bare, s an epoch", *COLUMNS)
    table(headings, (row(batch, compiled) for batch in arguments.batches for compiled in (False, True)))
    print(about_the_peak(flops, device))
    images.close()


def random_images() -> Dataset:
    """As many images as CIFAR-10 has, of its size."""
    random = np.random.default_rng(0)
    names = tuple(map(str, range(10)))
    train, validation = (
        labelled_images(
            random.integers(256, size=(count, SIDE, SIDE, 3), dtype=np.uint8), random.integers(10, size=count), names
        )
        for count in (IMAGES, 100)
    )
    return Dataset(train, validation, in_memory=True)


if __name__ == "__main__":
    main()
