"""The stream on a GPU by itself: decoded on the device by threads and load of its JPEG engines, and on the CPU.

python -m benchmarks.gpu_input PHOTOS [--device cuda] [--batch 256] [--seconds 0.6]         # prints Markdown tables

First images/s of the stream for each number of threads and each hw_decoder_load, then decoded on the CPU with the copy.
Then the decoder alone, cutting regions out while it decodes (as the stream does) and decoding whole images of which the
resize takes the region; both with none and with all of the images given to the JPEG engine, and how busy nvidia-smi
found that engine. Where the engine is idle at load 1, that way of decoding does not use it.

Every table comes from a process of its own: a decoder that ends its process costs the rest of its rows, no more.
Imports torch, numpy and DALI. `--device cpu --batch 8 --seconds 0.2 --threads 1 2` runs the same code in a minute.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.apart import EndedEarly, apart
from benchmarks.gpu_chip import device_name, device_of, jpeg_engine_use
from benchmarks.gpu_stream import open_stream
from benchmarks.side_by_side import spread, table
from dali_pipelines.augmentation import Augmentation, crop_windows, draws_at
from dali_pipelines.graphs import Decoder
from dali_pipelines.pipeline import open_dataset
from dali_pipelines.sample_order import Shard

SEED, SIDE, WINDOWS = 1, 224, 3
LOADS = (0.0, 0.25, 0.5, 0.65, 0.8, 1.0)
Row = tuple[object, ...]


def main() -> None:
    cores = len(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path, help="folder with train and val folders of class folders")
    parser.add_argument("--device", type=device_of, default="cuda", help="[%(default)s]")
    parser.add_argument("--batch", type=int, default=256, help="[%(default)s]")
    parser.add_argument("--seconds", type=float, default=0.6, help=f"each of {WINDOWS} readings takes [%(default)s]")
    parser.add_argument(
        "--threads", type=int, nargs="+", default=[n for n in (1, 2, 4, 8, 16) if n <= cores], help="%(default)s"
    )
    arguments = parser.parse_args()
    photos, device, batch, seconds = arguments.photos, arguments.device, arguments.batch, arguments.seconds
    dataset = open_dataset("folder", photos)
    print(
        f"{device_name(device)}, {cores} cores, torch {torch.__version__}; {photos.name}: {dataset.train_size} files "
        f"of {' x '.join(map(str, dataset.mean_size))} pixels on average, again and again; batch {batch}; images/s, "
        f"median of {WINDOWS} readings of {seconds:g} s (least to most)\n"
    )
    sweep = photos, device, batch, seconds, arguments.threads
    loads = LOADS if device.type == "cuda" else (None,)
    columns = ("the stream, decoded on", "threads", "hw_decoder_load", "images/s", "JPEG engine busy")
    table(columns, rows_of(columns, stream_rows, *sweep, "auto", loads))
    if device.type == "cuda":
        print()
        table(columns, rows_of(columns, stream_rows, *sweep, "cpu", (None,)))
    for whole in (False, True):
        print()
        columns = ("the decoder alone", "threads", "hw_decoder_load", "images/s", "JPEG engine busy")
        table(columns, rows_of(columns, decoder_rows, *sweep, whole))


def rows_of(columns: Row, work: Callable[..., Iterator[Row]], *settings: object) -> Iterator[Row]:
    """The rows from a process apart, and one that says so where it ended before the last."""
    try:
        yield from apart(work, *settings)
    except EndedEarly as error:
        yield (f"the next one {error}", *("-" for _ in columns[1:]))


def stream_rows(
    photos: Path,
    device: torch.device,
    batch: int,
    seconds: float,
    threads: list[int],
    decoder: Decoder,
    loads: tuple[float | None, ...],
) -> Iterator[Row]:
    """Rows of the table of the stream."""
    for number in threads:
        for load in loads:
            options = {"decoder": decoder, "hw_decoder_load": load, "threads": number}
            with closing(open_stream(photos, device, batch, **options)) as stream:
                batches = stream.batches(Shard(0, 1, batch, 1, 0, 1_000_000 * batch))
                where = "cpu" if decoder == "cpu" or device.type == "cpu" else "gpu"
                yield where, number, "-" if load is None else load, *measured(batches, batch, seconds, device)


def decoder_rows(
    photos: Path, device: torch.device, batch: int, seconds: float, threads: list[int], whole: bool
) -> Iterator[Row]:
    """Rows of the table of the decoder alone, with as many threads as the stream's last."""
    for load in (0.0, 1.0) if device.type == "cuda" else (None,):
        batches = windows(photos, device, batch, threads[-1], load, whole)
        name = "whole image, region in the resize" if whole else "region"
        yield name, threads[-1], "-" if load is None else load, *measured(batches, batch, seconds, device)


def measured(batches: Iterator[object], batch: int, seconds: float, device: torch.device) -> tuple[str, str]:
    """images/s of the batches, and how busy the JPEG engine was, as cells."""

    def reading(at_least_s: float) -> float:
        began, count = time.perf_counter(), 0
        while time.perf_counter() - began < at_least_s or count < 2:
            next(batches)
            count += 1
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return count * batch / (time.perf_counter() - began)

    reading(seconds / 2)  # files come into the cache, memory is taken
    with jpeg_engine_use(device) as busy:
        rates = [reading(seconds) for _ in range(WINDOWS)]
    return spread(rates, 0), spread(busy, 0) + " %" if busy else "-"


def windows(
    photos: Path, device: torch.device, batch: int, threads: int, load: float | None, whole: bool
) -> Iterator[Any]:
    """Endless batches of random windows, resized, from a pipeline that does nothing else."""
    from nvidia.dali import fn, types
    from nvidia.dali.pipeline import Pipeline

    index = open_dataset("folder", photos).train
    starts = iter(range(0, 1_000_000 * batch, batch))

    def inputs() -> tuple[object, ...]:
        draws = draws_at(SEED, len(index), np.arange(first := next(starts), first + batch))
        paths = [np.frombuffer(path, dtype=np.uint8) for path in index.paths_bytes(draws.ids)]
        corners, shapes = crop_windows(draws, index.sizes[draws.ids], Augmentation())
        return paths, corners, corners + shapes

    on_gpu = device.type == "cuda"
    options = {"device": "mixed", "hw_decoder_load": load} if on_gpu else {"device": "cpu"}
    pipeline = Pipeline(batch, threads, device.index if on_gpu else None, prefetch_queue_depth=2)
    with pipeline:
        paths, begins, ends = fn.external_source(source=inputs, num_outputs=3, batch=True)
        files = fn.io.file.read(paths)
        if whole:
            images = fn.decoders.image(files, **options)
            roi = {"roi_start": fn.cast(begins, dtype=types.FLOAT), "roi_end": fn.cast(ends, dtype=types.FLOAT)}
        else:
            images, roi = fn.decoders.image_slice(files, start=begins, end=ends, axes=(0, 1), **options), {}
        pipeline.set_outputs(fn.resize(images, size=(SIDE, SIDE), antialias=True, **roi))
    pipeline.build()
    while True:
        (shown,) = pipeline.run()
        yield torch.from_dlpack(shown.as_tensor())


if __name__ == "__main__":
    main()
