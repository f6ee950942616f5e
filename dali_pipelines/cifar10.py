"""CIFAR-10 in the two formats its authors publish (Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html).

Binary: records of one label byte and 3 x 32 x 32 bytes, planes red, green, blue. Python: pickled dictionaries of the
same bytes, which cifar10_pickle reads without unpickling.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dali_pipelines.cifar10_pickle import PickleError, read_pickle
from dali_pipelines.errors import DataError
from dali_pipelines.image_arrays import LabelledImages, labelled_images

CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

_TRAIN = tuple(f"data_batch_{number}" for number in range(1, 6))
_TEST = ("test_batch",)
_PIXELS = 3 * 32 * 32  # bytes of an image
_MOST_BYTES = 1 << 30  # of a file; the official ones have 31 MB


def open_cifar10(folder: Path) -> tuple[LabelledImages, LabelledImages] | None:
    """Training and test images from a folder in one of the official formats; None if it is in neither.

    The folder holds the batch files, or the folder cifar-10-batches-bin or cifar-10-batches-py that does.
    Raises DataError naming a file that is missing or damaged.
    """
    for place in (folder, folder / "cifar-10-batches-bin", folder / "cifar-10-batches-py"):
        for suffix, read in ((".bin", _read_binary), ("", _read_pickle)):
            names = [f"{name}{suffix}" for name in (*_TRAIN, *_TEST)]
            present = [name for name in names if (place / name).is_file()]
            if present and len(present) < len(names):
                missing = sorted(set(names) - set(present))
                raise DataError(f"{place}: {', '.join(missing)} is missing: unpack the whole archive there")
            if present:
                parts = [read(place / name) for name in names]
                return _joined(parts[: len(_TRAIN)]), _joined(parts[len(_TRAIN) :])
    return None


def _joined(parts: list[tuple[NDArray[np.uint8], NDArray[np.int64]]]) -> LabelledImages:
    planes = np.concatenate([images for images, _ in parts]).reshape(-1, 3, 32, 32)
    labels = np.concatenate([labels for _, labels in parts])
    return labelled_images(np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), labels, CLASS_NAMES)


def _read_binary(file: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    content = _content(file)
    if not content or len(content) % (1 + _PIXELS):
        raise DataError(
            f"{file}: {len(content)} bytes are no whole number of CIFAR-10 records of {1 + _PIXELS} bytes: "
            "unpack the archive again"
        )
    records = np.frombuffer(content, dtype=np.uint8).reshape(-1, 1 + _PIXELS)
    return records[:, 1:], _checked(file, records[:, 0].astype(np.int64))


def _read_pickle(file: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    try:
        batch = read_pickle(_content(file))
        if not isinstance(batch, dict) or not {"data", "labels"} <= set(batch):
            raise PickleError("it holds no data and labels")
        images, labels = batch["data"], batch["labels"]
        if not isinstance(images, np.ndarray) or not isinstance(labels, list) or images.shape != (len(labels), _PIXELS):
            raise PickleError("not the arrays of a CIFAR-10 batch")
        if not all(type(label) is int and 0 <= label < 256 for label in labels):
            raise PickleError("its labels are no small numbers")
    except PickleError as error:
        raise DataError(f"{file}: this is no CIFAR-10 batch ({error}): unpack the archive again") from None
    return images, _checked(file, np.array(labels, dtype=np.int64))


def _checked(file: Path, labels: NDArray[np.int64]) -> NDArray[np.int64]:
    wrong = np.flatnonzero((labels < 0) | (labels >= len(CLASS_NAMES)))
    if len(wrong):
        raise DataError(
            f"{file}: the label of record {wrong[0]} is {labels[wrong[0]]}, outside 0 to {len(CLASS_NAMES) - 1}: "
            "unpack the archive again"
        )
    return labels


def _content(file: Path) -> bytes:
    try:
        if (size := file.stat().st_size) > _MOST_BYTES:
            raise DataError(f"{file}: {size:,} bytes are no batch of CIFAR-10: unpack the archive again")
        return file.read_bytes()
    except OSError as error:
        raise DataError(f"{file}: {error.strerror}: make it readable") from None
