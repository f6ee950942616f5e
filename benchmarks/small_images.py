"""What an image of CIFAR-10's size costs where the set is held in memory: our stream beside plainer ways to a batch.

50,000 images of 32 x 32 (random bytes: their values change nothing), float32 batches out. The floor is one gather from
normalised floats, without augmentation. "Image by image" is the same crops and flips written the first way that comes
to mind: with slices, then normalised as a batch. The DataLoader's set does per sample what torchvision's
RandomCrop(32, padding=4), flip and Normalize do. With a GPU all but the DataLoader hold the set there.

python -m benchmarks.small_images [--batch 128] [--rounds 9] [--batches 40] [--device cuda]
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch

from benchmarks.side_by_side import in_turns, ratios, spread, table
from dali_pipelines.augmentation import Augmentation, draws_at, flips, pad_offsets
from dali_pipelines.image_arrays import LabelledImages, labelled_images
from dali_pipelines.pipeline import Dataset, open_pipeline
from dali_pipelines.sample_order import Shard, sample_ids

SEED, N, SIDE, PADDING = 1, 50_000, 32, 4
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)
OURS, FLOOR, ONE_BY_ONE = "this project", "one gather of floats, nothing else", "crops and flips, image by image"
LOADER = "torch DataLoader, {} workers"

Batches = Callable[[int], Iterator[tuple[torch.Tensor, torch.Tensor]]]  # first position -> batches


def constants(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    mean, std = (255 * torch.tensor(values, device=device).view(3, 1, 1) for values in (MEAN, STD))
    return mean, std


class Samples(torch.utils.data.Dataset):
    """Sample -> padded, cut, flipped and normalised image, with the label: tensors in memory, nothing to decode."""

    def __init__(self, images: LabelledImages) -> None:
        self.images = torch.from_numpy(images.images).permute(0, 3, 1, 2).contiguous()
        self.labels = torch.from_numpy(images.labels)
        self.mean, self.std = constants(torch.device("cpu"))

    def __len__(self) -> int:
        return N

    def __getitem__(self, sample: int) -> tuple[torch.Tensor, torch.Tensor]:
        padded = torch.nn.functional.pad(self.images[sample], (PADDING,) * 4)
        top, left, mirrored = (int(torch.randint(sides, ())) for sides in (2 * PADDING + 1, 2 * PADDING + 1, 2))
        window = padded[:, top : top + SIDE, left : left + SIDE]
        return ((window.flip(2) if mirrored else window) - self.mean) / self.std, self.labels[sample]


def our_stream(dataset: Dataset, options: argparse.Namespace, memory_format: torch.memory_format) -> Batches:
    pipeline = open_pipeline(
        dataset,
        seed=SEED,
        image_size=SIDE,
        augmentation=Augmentation(crop="pad", padding=PADDING),
        mean=MEAN,
        std=STD,
        max_micro_batch=options.batch,
        device=options.device,
        memory_format=memory_format,
    )
    images = options.batch * options.batches
    return lambda start: pipeline.batches(Shard(0, 1, options.batch, 1, start, start + images))


def gather(images: LabelledImages, options: argparse.Namespace) -> Batches:
    mean, std = constants(options.device)
    pixels = (torch.from_numpy(images.images).to(options.device).permute(0, 3, 1, 2) - mean) / std
    pixels, labels = pixels.contiguous(), torch.from_numpy(images.labels).to(options.device)

    def batches(start: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for first in range(start, start + options.batch * options.batches, options.batch):
            positions = np.arange(first, first + options.batch)
            chosen = torch.from_numpy(sample_ids(SEED, N, positions)).to(options.device)
            yield pixels.index_select(0, chosen), labels.index_select(0, chosen)

    return batches


def one_by_one(images: LabelledImages, options: argparse.Namespace) -> Batches:
    mean, std = constants(options.device)
    planes = torch.from_numpy(images.images).permute(0, 3, 1, 2)
    padded = torch.nn.functional.pad(planes, (PADDING,) * 4).to(options.device)
    labels = torch.from_numpy(images.labels).to(options.device)

    def batches(start: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for first in range(start, start + options.batch * options.batches, options.batch):
            draws = draws_at(SEED, N, np.arange(first, first + options.batch))
            windows = []
            corners, mirrored = pad_offsets(draws, PADDING).tolist(), flips(draws).tolist()
            for sample, (top, left), is_mirrored in zip(draws.ids.tolist(), corners, mirrored, strict=True):
                window = padded[sample, :, top : top + SIDE, left : left + SIDE]
                windows.append(window.flip(2) if is_mirrored else window)
            chosen = torch.from_numpy(draws.ids).to(options.device)
            yield (torch.stack(windows).float() - mean) / std, labels[chosen]

    return batches


def data_loader(images: LabelledImages, options: argparse.Namespace, workers: int) -> Batches:
    loader = torch.utils.data.DataLoader(
        Samples(images),
        options.batch,
        sampler=torch.utils.data.RandomSampler(range(N), num_samples=options.batch * options.batches),
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=options.device.type == "cuda",
    )

    def batches(start: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for pixels, labels in loader:
            yield pixels.to(options.device, non_blocking=True), labels.to(options.device, non_blocking=True)

    return batches


def timed(batches: Batches, options: argparse.Namespace) -> Callable[[], float]:
    """Reads a round and returns milliseconds an image."""
    images = options.batch * options.batches
    starts = itertools.count(0, images)

    def read() -> float:
        began = time.perf_counter()
        count = sum(len(labels) for _, labels in batches(next(starts)))
        if options.device.type == "cuda":
            torch.cuda.synchronize(options.device)
        assert count == images, "every contestant delivers the whole round"
        return 1e3 * (time.perf_counter() - began) / images

    return read


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=128, help="images [%(default)s]")
    parser.add_argument("--batches", type=int, default=40, help="a round [%(default)s]")
    parser.add_argument("--rounds", type=int, default=9, help="rounds, each contestant once in each [%(default)s]")
    parser.add_argument("--device", type=torch.device, default="cpu", help="cpu or cuda [%(default)s]")
    options = parser.parse_args()
    if options.device.type == "cuda":
        options.device = torch.device("cuda", options.device.index or 0)
    torch.set_num_threads(1)
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (N, SIDE, SIDE, 3), dtype=np.uint8)
    images = labelled_images(pixels, generator.integers(0, 10, N), tuple("abcdefghij"))
    dataset = Dataset(images, images, in_memory=True)
    ways = {
        OURS: our_stream(dataset, options, torch.contiguous_format),
        f"{OURS}, channels_last": our_stream(dataset, options, torch.channels_last),
        FLOOR: gather(images, options),
        ONE_BY_ONE: one_by_one(images, options),
        **{LOADER.format(workers): data_loader(images, options, workers) for workers in (0, 2)},
    }
    difference = next(ways[OURS](0))[0] - next(ways[ONE_BY_ONE](0))[0]
    assert difference.abs().max() < 1e-5, "the same crops and flips"
    measured = in_turns({name: timed(way, options) for name, way in ways.items()}, options.rounds)
    print(
        f"Python {platform.python_version()}, torch {torch.__version__}, {options.device}, "
        f"{len(os.sched_getaffinity(0))} cores, one thread; {options.rounds} rounds of {options.batches} batches of "
        f"{options.batch}\n"
    )
    table(
        ("way", "microseconds an image", "over the floor's", "times as fast as the DataLoader, 0 workers"),
        (
            (
                name,
                spread(measured[name], 1, 1e3),
                spread(ratios(measured, name, FLOOR), 1),
                spread(ratios(measured, LOADER.format(0), name), 1),
            )
            for name in ways
        ),
    )


if __name__ == "__main__":
    main()
