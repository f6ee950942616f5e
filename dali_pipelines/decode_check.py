"""Which files cannot be decoded: DALI says that a batch failed, not on which file, so each is decoded alone."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from dali_pipelines.dataset_index import DatasetIndex
from dali_pipelines.errors import DataError
from dali_pipelines.image_header import image_size

_FILES_AT_ONCE = 1024
_THREADS_TO_NAME_FILES = 4


def examine(index: DatasetIndex, samples: Sequence[int], threads: int) -> Iterator[tuple[int, str | None]]:
    """Decode the given samples from end to end: (sample, what is wrong with its file or None), in their order."""
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(samples), _FILES_AT_ONCE):  # a million waiting tasks would cost a gigabyte
            chunk = samples[start : start + _FILES_AT_ONCE]
            yield from zip(chunk, pool.map(lambda sample: _fault(index, sample), chunk), strict=True)


def undecodable_files(index: DatasetIndex, samples: NDArray[np.int64], reason: str) -> DataError:
    """The error that names the files among these samples that made DALI fail for the given reason."""
    faults = [
        f"{os.fsdecode(index.path_bytes(sample))} ({fault})"
        for sample, fault in examine(index, samples.tolist(), _THREADS_TO_NAME_FILES)
        if fault
    ]
    if faults:
        return DataError(f"cannot be decoded: {', '.join(faults)}: repair or remove the files and index them again")
    first = index.path(int(samples[0]))
    return DataError(
        f"{first} and {len(samples) - 1} more images: decoding them together failed ({reason}), and each of them alone "
        "can be decoded: if memory ran out, use smaller micro-batches or less prefetching"
    )


def _fault(index: DatasetIndex, sample: int) -> str | None:
    path = index.path_bytes(sample)
    try:
        height, width = image_size(path)
    except DataError as error:
        return str(error)
    if (height, width) != tuple(index.sizes[sample]):
        was_height, was_width = index.sizes[sample]
        return f"it has {height} x {width} pixels, and had {was_height} x {was_width} when it was indexed"
    return _decoding_fault(path)


def _decoding_fault(path: bytes) -> str | None:
    # Whole, because a window may miss the damage; on the CPU, with the decoder that training uses there.
    import nvidia.dali.experimental.dynamic as ndd

    try:
        with open(path, "rb") as file:
            content = np.frombuffer(file.read(), dtype=np.uint8)
        ndd.decoders.image(content, device="cpu").evaluate()
    except OSError as error:
        return error.strerror or "cannot be read"
    except RuntimeError:
        return "the decoder gives up on it: damaged, cut short, or no image"
    return None
