"""CIFAR-10 in the two formats its authors publish (Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html).

Binary: records of one label byte and 3 x 32 x 32 bytes, planes red, green, blue. Python: pickled dictionaries of the
same bytes, which are read without letting the pickle name anything but arrays of numbers.
"""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dali_pipelines.errors import DataError
from dali_pipelines.image_arrays import LabelledImages, labelled_images

CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

_TRAIN = tuple(f"data_batch_{number}" for number in range(1, 6))
_TEST = ("test_batch",)
_PIXELS = 3 * 32 * 32  # bytes of an image


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
    with open(file, "rb") as stream:
        try:
            # The official files come from Python 2, whose strings are bytes.
            batch = _NumbersOnly(stream, encoding="bytes").load()
            batch = {key.decode() if isinstance(key, bytes) else key: value for key, value in batch.items()}
            images, labels = batch["data"], np.array(batch["labels"], dtype=np.int64)
            if images.dtype != np.uint8 or images.shape != (len(labels), _PIXELS) or labels.ndim != 1:
                raise ValueError("not the arrays of a CIFAR-10 batch")
        except Exception as error:  # a damaged or hostile pickle fails in any way it likes
            raise DataError(f"{file}: this is no CIFAR-10 batch ({error}): unpack the archive again") from None
    return images, _checked(file, labels)


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
        return file.read_bytes()
    except OSError as error:
        raise DataError(f"{file}: {error.strerror}: make it readable") from None


class _NumbersOnly(pickle.Unpickler):
    """Builds containers, text and arrays of bytes; whatever else a pickle asks for is refused."""

    def find_class(self, module: str, name: str) -> object:
        allowed = {
            ("numpy.core.multiarray", "_reconstruct"): _empty_array,
            ("numpy._core.multiarray", "_reconstruct"): _empty_array,
            ("numpy", "ndarray"): "ndarray",  # only ever named as the first argument of _reconstruct
            ("numpy", "dtype"): _byte_type,
            ("_codecs", "encode"): _latin1_bytes,  # how Python 3 writes bytes for Python 2
        }
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return allowed[module, name]


def _empty_array(*_: object) -> NDArray[np.uint8]:
    return np.empty(0, dtype=np.uint8)  # its state, read next, brings shape and content


def _byte_type(name: object, *_: object) -> np.dtype:
    if name not in ("u1", b"u1"):
        raise pickle.UnpicklingError(f"it holds numbers of type {name!r}")
    return np.dtype(np.uint8, copy=True)


def _latin1_bytes(text: str, _: object) -> bytes:
    return text.encode("latin1")
