"""What a photo costs in our training stream: beside DALI's own reader, a torch DataLoader with PIL, and decoding alone.

All read the same files and cut out windows by the same recipe, resize them to 224 x 224, flip, normalise and deliver
float32 batches on the device. This project, the DataLoader and the decoder take the same windows; fn.readers.file draws
its own. Decoding alone is the floor. Processor time counts all threads and worker processes.

python -m benchmarks.input_pipeline PHOTOS [--workers 2] [--rounds 9] [--images 1280] [--device cuda]
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nvidia.dali import fn, types
from nvidia.dali.pipeline import Pipeline
from PIL import Image, ImageOps

from benchmarks.side_by_side import in_turns, ratios, spread, table
from dali_pipelines.augmentation import Augmentation, crop_windows, draws_at, flips
from dali_pipelines.dataset_index import DatasetIndex
from dali_pipelines.normalisation import Normalisation
from dali_pipelines.pipeline import Dataset, open_dataset, open_pipeline
from dali_pipelines.resizing import Resizer
from dali_pipelines.sample_order import Shard

SEED, SIDE, BATCH, PREFETCH = 1, 224, 64, 2
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
AUGMENTATION = Augmentation()
OURS, THEIRS, DATALOADER, FLOOR = "this project", "fn.readers.file", "torch DataLoader, PIL", "decoding alone"

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


def our_stream(
    dataset: Dataset, options: argparse.Namespace, memory_format: torch.memory_format = torch.contiguous_format
) -> Contestant:
    pipeline = open_pipeline(
        dataset,
        seed=SEED,
        image_size=SIDE,
        augmentation=AUGMENTATION,
        mean=MEAN,
        std=STD,
        max_micro_batch=BATCH,
        device=options.device,
        memory_format=memory_format,
        hw_decoder_load=options.hw_decoder_load,
        threads=options.workers,
        prefetch=PREFETCH,
    )

    def batches(start: int) -> Iterator[torch.Tensor]:
        for pixels, _ in pipeline.batches(Shard(0, 1, BATCH, 1, start, start + options.images)):
            yield pixels

    return batches


def pil_stream(dataset: Dataset, options: argparse.Namespace) -> Contestant:
    positions: list[int] = []  # read when an epoch of the loader begins
    loader = torch.utils.data.DataLoader(
        PilStream(dataset.train),
        BATCH,
        sampler=positions,
        num_workers=options.workers,
        persistent_workers=True,
        pin_memory=options.device.type == "cuda",
    )

    def batches(start: int) -> Iterator[torch.Tensor]:
        positions[:] = range(start, start + options.images)
        for pixels in loader:
            yield pixels.to(options.device, non_blocking=True)

    return batches


def dali_reader(dataset: Dataset, options: argparse.Namespace) -> Contestant:
    """DALI as its examples use it: its own reader, random crops, resize and normalisation."""
    on_gpu = options.device.type == "cuda"
    engine = {} if options.hw_decoder_load is None else {"hw_decoder_load": options.hw_decoder_load}
    pipeline = Pipeline(BATCH, options.workers, options.device.index, seed=SEED, prefetch_queue_depth=PREFETCH)
    with pipeline:
        files, _ = fn.readers.file(file_root=str(dataset.train.root), random_shuffle=True)
        images = fn.decoders.image_random_crop(
            files,
            device="mixed" if on_gpu else "cpu",
            random_area=(AUGMENTATION.min_area, 1.0),
            random_aspect_ratio=(AUGMENTATION.min_ratio, AUGMENTATION.max_ratio),
            num_attempts=10,
            **engine,
        )
        images = fn.resize(images, size=(SIDE, SIDE), interp_type=types.INTERP_LINEAR, antialias=True)
        mirror = fn.random.coin_flip()
        mean, std = ([255 * value for value in values] for values in (MEAN, STD))
        pipeline.set_outputs(
            fn.crop_mirror_normalize(images, mirror=mirror, mean=mean, std=std, dtype=types.FLOAT, output_layout="CHW")
        )
    pipeline.build()

    def batches(start: int) -> Iterator[torch.Tensor]:
        for _ in range(options.images // BATCH):
            (pixels,) = pipeline.run()
            yield torch.from_dlpack(pixels.as_tensor())

    return batches


def decoder_alone(dataset: Dataset, options: argparse.Namespace) -> Contestant:
    index = dataset.train
    starts: Iterator[int] = iter(())

    def inputs() -> tuple[object, ...]:
        first = next(starts)
        draws = draws_at(SEED, len(index), np.arange(first, first + BATCH))
        paths = [np.frombuffer(path, dtype=np.uint8) for path in index.paths_bytes(draws.ids)]
        return paths, *crop_windows(draws, index.sizes[draws.ids], AUGMENTATION)

    device = "mixed" if options.device.type == "cuda" else "cpu"
    pipeline = Pipeline(BATCH, options.workers, options.device.index, prefetch_queue_depth=PREFETCH)
    with pipeline:
        paths, corners, shapes = fn.external_source(source=inputs, num_outputs=3, batch=True)
        files = fn.io.file.read(paths)
        pipeline.set_outputs(fn.decoders.image_slice(files, start=corners, shape=shapes, axes=(0, 1), device=device))
    pipeline.build()

    def batches(start: int) -> Iterator[None]:
        nonlocal starts
        starts = iter(range(start, start + options.images, BATCH))
        for _ in range(options.images // BATCH):
            pipeline.run()
            yield None
        try:
            pipeline.run()  # meets the end, after which a new stream can begin
        except StopIteration:
            pipeline.reset()

    return batches


def processor_s() -> float:
    """Processor seconds of this process and of the workers it has."""
    children = 0
    for child in multiprocessing.active_children():
        fields = Path(f"/proc/{child.pid}/stat").read_text().rsplit(")", 1)[1].split()
        children += int(fields[11]) + int(fields[12])  # utime and stime, proc(5)
    return time.process_time() + children / os.sysconf("SC_CLK_TCK")


def timed(batches: Contestant, options: argparse.Namespace, processor: list[float]) -> Callable[[], float]:
    """Reads a round and returns milliseconds an image; its processor time goes on the list."""
    starts = itertools.count(0, options.images)

    def read() -> float:
        began, began_processor = time.perf_counter(), processor_s()
        count = sum(1 for _ in batches(next(starts)))
        if options.device.type == "cuda":
            torch.cuda.synchronize(options.device)
        assert count == options.images // BATCH, "every contestant delivers the whole round"
        processor.append(1e3 * (processor_s() - began_processor) / options.images)
        return 1e3 * (time.perf_counter() - began) / options.images

    return read


def our_parts(dataset: Dataset) -> dict[str, Callable[[], object]]:
    """What our stream does on the CPU beside decoding, each step by itself on the first micro-batch."""
    index = dataset.train

    def drawn() -> tuple[Any, ...]:
        draws = draws_at(SEED, len(index), np.arange(BATCH))
        corners, shapes = crop_windows(draws, index.sizes[draws.ids], AUGMENTATION)
        return index.paths_bytes(draws.ids), corners, shapes, flips(draws).astype(np.int32)

    paths, corners, shapes, mirrored = drawn()
    windows = []
    for path, (top, left), (height, width) in zip(paths, corners.tolist(), shapes.tolist(), strict=True):
        pixels = np.array(ImageOps.exif_transpose(Image.open(os.fsdecode(path))).convert("RGB"))
        windows.append(pixels[top : top + height, left : left + width].copy())
    columns = {"resized": np.full_like(shapes, SIDE), "centres": np.zeros_like(corners), "mirrored": mirrored}
    resizer = Resizer(SIDE, threads=1)
    shown = resizer(windows, columns).clone()
    contiguous, channels_last = (
        Normalisation(MEAN, STD, SIDE, torch.device("cpu"), memory_format)
        for memory_format in (torch.contiguous_format, torch.channels_last)
    )
    return {
        "draw windows and flips, find paths": drawn,
        "resize, flip half of them": lambda: resizer(windows, columns),
        "normalise, contiguous": lambda: contiguous(shown),
        "normalise, channels_last": lambda: channels_last(shown),
    }


def processor_ms(step: Callable[[], object]) -> float:
    """Processor milliseconds an image, over ten micro-batches."""
    began = time.process_time()
    for _ in range(10):
        step()
    return 1e3 * (time.process_time() - began) / (10 * BATCH)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path, help="folder with train and val folders of class folders")
    parser.add_argument("--workers", type=int, default=2, help="threads, or processes of the DataLoader [%(default)s]")
    parser.add_argument("--rounds", type=int, default=9, help="rounds, each contestant once in each [%(default)s]")
    parser.add_argument("--images", type=int, default=1280, help="a round, rounded down to batches [%(default)s]")
    parser.add_argument("--device", type=torch.device, default="cpu", help="cpu, or cuda: decoded there [%(default)s]")
    parser.add_argument("--hw-decoder-load", type=float, help="share of a batch for a GPU's JPEG engines [DALI's own]")
    options = parser.parse_args()
    options.images = options.images // BATCH * BATCH
    if options.device.type == "cuda":
        options.device = torch.device("cuda", options.device.index or 0)
    dataset = open_dataset("folder", options.photos)
    torch.set_num_threads(1)
    streams = {
        OURS: our_stream(dataset, options),
        f"{OURS}, channels_last": our_stream(dataset, options, torch.channels_last),
        THEIRS: dali_reader(dataset, options),
        DATALOADER: pil_stream(dataset, options),
        FLOOR: decoder_alone(dataset, options),
    }
    difference = (
        (next(streams[OURS](0)) - next(streams[DATALOADER](0))).abs().mean().item() * 255 * statistics.mean(STD)
    )
    processor: dict[str, list[float]] = {name: [] for name in streams}
    wall = in_turns({name: timed(one, options, processor[name]) for name, one in streams.items()}, options.rounds)
    processor = {name: values[1:] for name, values in processor.items()}  # the first round warms up
    kilobytes = sum(dataset.train.path(sample).stat().st_size for sample in range(len(dataset.train))) / 1e3
    print(
        f"Python {platform.python_version()}, torch {torch.__version__}, {options.device}, "
        f"{len(os.sched_getaffinity(0))} cores, {options.workers} threads or workers, {options.rounds} rounds of "
        f"{options.images} images to {SIDE} x {SIDE}; files of {kilobytes / len(dataset.train):.0f} kB and "
        f"{' x '.join(map(str, dataset.mean_size))} pixels on average; this project and PIL differ by {difference:.2f} "
        f"grey levels on average\n"
    )
    table(
        ("stream", "processor ms an image", "over readers.file", "images/s", "over the DataLoader's"),
        (
            (
                name,
                spread(processor[name]),
                spread(ratios(processor, name, THEIRS)),
                spread([1e3 / ms for ms in wall[name]], 0),
                spread([1 / ratio for ratio in ratios(wall, name, DATALOADER)]),
            )
            for name in streams
        ),
    )
    above = {name: [a - b for a, b in zip(processor[name], processor[FLOOR], strict=True)] for name in (OURS, THEIRS)}
    print(
        f"\nAbove the floor: {spread(above[OURS])} ms an image, {spread(ratios(above, OURS, THEIRS))} of what "
        f"fn.readers.file takes above it.\n"
    )
    if options.device.type == "cpu":
        parts = in_turns({name: lambda step=step: processor_ms(step) for name, step in our_parts(dataset).items()}, 9)
        table(("part, on one core", "processor ms an image"), ((name, spread(ms, 3)) for name, ms in parts.items()))


if __name__ == "__main__":
    main()
