"""Images per second of our training stream beside a torch DataLoader whose workers do the same with PIL.

Both read the same files, cut the same windows, resize to the same size, flip, normalise and deliver float32 batches;
the third row is DALI's decoder alone on the same windows, below which no stream through it can go.

python benchmarks/input_pipeline.py PHOTOS [--workers 2] [--rounds 11] [--images 1920]     # prints a Markdown table
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from nvidia.dali import fn
from nvidia.dali.pipeline import Pipeline
from PIL import Image, ImageOps

from dali_pipelines.augmentation import Augmentation, crop_windows, draws_at, flips
from dali_pipelines.dataset_index import DatasetIndex
from dali_pipelines.pipeline import Dataset, open_dataset, open_pipeline
from dali_pipelines.sample_order import Shard

SEED, SIDE, BATCH = 1, 224, 64
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
AUGMENTATION = Augmentation()

Contestant = Callable[[int], Iterator[torch.Tensor | None]]  # first position -> batches


class PilStream(torch.utils.data.Dataset):
    """Position of the stream -> normalised image, as a worker of a DataLoader makes it."""

    def __init__(self, index: DatasetIndex) -> None:
        self.index = index

    def __getitem__(self, position: int) -> torch.Tensor:
        draws = draws_at(SEED, len(self.index), np.array([position]))
        (sample,) = draws.ids.tolist()
        (corner,), (shape,) = crop_windows(draws, self.index.sizes[draws.ids], AUGMENTATION)
        (top, left), (height, width) = corner.tolist(), shape.tolist()
        image = ImageOps.exif_transpose(Image.open(self.index.path(sample))).convert("RGB")
        image = image.resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=(left, top, left + width, top + height))
        if flips(draws)[0]:
            image = ImageOps.mirror(image)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float()
        mean, std = (255 * torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
        return pixels.sub_(mean).div_(std)


def our_stream(dataset: Dataset, workers: int, images: int) -> Contestant:
    pipeline = open_pipeline(
        dataset,
        seed=SEED,
        image_size=SIDE,
        augmentation=AUGMENTATION,
        mean=MEAN,
        std=STD,
        max_micro_batch=BATCH,
        device=torch.device("cpu"),
        threads=workers,
    )

    def batches(start: int) -> Iterator[torch.Tensor]:
        for pixels, _ in pipeline.batches(Shard(0, 1, BATCH, 1, start, start + images)):
            yield pixels

    return batches


def pil_stream(dataset: Dataset, workers: int, images: int) -> Contestant:
    positions: list[int] = []  # read when an epoch of the loader begins
    loader = torch.utils.data.DataLoader(
        PilStream(dataset.train), BATCH, sampler=positions, num_workers=workers, persistent_workers=True
    )

    def batches(start: int) -> Iterator[torch.Tensor]:
        positions[:] = range(start, start + images)
        yield from loader

    return batches


def decoder_alone(dataset: Dataset, workers: int, images: int) -> Contestant:
    index = dataset.train
    starts: Iterator[int] = iter(())

    def inputs() -> tuple[object, ...]:
        first = next(starts)
        draws = draws_at(SEED, len(index), np.arange(first, first + BATCH))
        paths = [np.frombuffer(index.path_bytes(sample), dtype=np.uint8) for sample in draws.ids]
        return paths, *crop_windows(draws, index.sizes[draws.ids], AUGMENTATION)

    pipeline = Pipeline(BATCH, workers, None)
    with pipeline:
        paths, corners, shapes = fn.external_source(source=inputs, num_outputs=3, batch=True)
        pipeline.set_outputs(fn.decoders.image_slice(fn.io.file.read(paths), start=corners, shape=shapes, axes=(0, 1)))
    pipeline.build()

    def batches(start: int) -> Iterator[None]:
        nonlocal starts
        starts = iter(range(start, start + images, BATCH))
        for _ in range(images // BATCH):
            pipeline.run()
            yield None
        try:
            pipeline.run()  # meets the end, after which a new stream can begin
        except StopIteration:
            pipeline.reset()

    return batches


def images_per_second(batches: Iterator[object], images: int) -> float:
    started = time.perf_counter()
    count = sum(1 for _ in batches)
    assert count == images // BATCH, "every contestant delivers the whole round"
    return images / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path, help="folder with train and val folders of class folders")
    parser.add_argument("--workers", type=int, default=2, help="threads, or processes of the DataLoader [%(default)s]")
    parser.add_argument("--rounds", type=int, default=11, help="rounds, each contestant once in each [%(default)s]")
    parser.add_argument(
        "--images", type=int, default=1920, help="images a round, rounded down to batches [%(default)s]"
    )
    arguments = parser.parse_args()
    images = arguments.images // BATCH * BATCH
    dataset = open_dataset("folder", arguments.photos)
    torch.set_num_threads(1)
    contestants = {
        "this project (DALI)": our_stream(dataset, arguments.workers, images),
        "torch DataLoader (PIL)": pil_stream(dataset, arguments.workers, images),
        "DALI's decoder alone": decoder_alone(dataset, arguments.workers, images),
    }
    ours, theirs = (next(batches(0)) for batches in list(contestants.values())[:2])
    difference = (ours - theirs).abs().mean().item() * 255 * statistics.mean(STD)
    for batches in contestants.values():
        images_per_second(batches(0), images)  # files come into the cache, workers start
    # Interleaved, so that a busy moment of the machine meets every row; each round reads other positions.
    measured = [
        [images_per_second(batches(number * images), images) for batches in contestants.values()]
        for number in range(arguments.rounds)
    ]
    kilobytes = sum(dataset.train.path(sample).stat().st_size for sample in range(len(dataset.train))) / 1e3
    print(
        f"Python {platform.python_version()}, torch {torch.__version__}, {len(os.sched_getaffinity(0))} cores, "
        f"{arguments.workers} threads or workers, {arguments.rounds} rounds of {images} images to {SIDE} x {SIDE}; "
        f"files of {kilobytes / len(dataset.train):.0f} kB and {' x '.join(map(str, dataset.mean_size))} pixels on "
        f"average; the two streams differ by {difference:.2f} grey levels on average\n"
    )
    print("| stream | median images/s | least | most | ms a core and image | median ratio to PIL | least | most |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for place, (name, rates) in enumerate(zip(contestants, zip(*measured, strict=True), strict=True)):
        ratios = [one[place] / one[1] for one in measured]
        median = statistics.median(rates)
        print(
            f"| {name} | {median:.0f} | {min(rates):.0f} | {max(rates):.0f} | {1e3 * arguments.workers / median:.2f} "
            f"| {statistics.median(ratios):.2f} | {min(ratios):.2f} | {max(ratios):.2f} |"
        )


if __name__ == "__main__":
    main()
