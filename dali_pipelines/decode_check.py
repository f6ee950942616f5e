"""Which files cannot be decoded, and why: each is decoded alone, from end to end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from dali_pipelines.dataset_index import DatasetIndex
from dali_pipelines.errors import DataError
from dali_pipelines.image_header import image_size

_FILES_AT_ONCE = 1024


def examine(index: DatasetIndex, samples: Sequence[int], threads: int) -> Iterator[tuple[int, str | None]]:
    """Decode the given samples from end to end: (sample, what is wrong with its file or None), in their order."""
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(samples), _FILES_AT_ONCE):  # a million waiting tasks would cost a gigabyte
            chunk = samples[start : start + _FILES_AT_ONCE]
            yield from zip(chunk, pool.map(lambda sample: fault_of(index, sample), chunk), strict=True)


def fault_of(index: DatasetIndex, sample: int) -> str | None:
    """What is wrong with the file of one sample, or None."""
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
