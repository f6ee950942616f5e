"""scikit-learn's 1,797 handwritten digits as a folder of PNG files: real images on any machine, without a download."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dali_pipelines.cache import default_cache, put_in_place
from dali_pipelines.errors import DataError

VALIDATION_SIZE = 357  # leaves 1,440 for training, which many numbers divide
_MARGIN = 1  # pixels of black around the 8 x 8 of a digit, so that the centre crop of evaluation keeps all of it


def digits_folder(parent: Path | None = None) -> Path:
    """The folder with train/<digit>/NNNN.png and val/<digit>/NNNN.png, written below parent if it is not there yet.

    parent: default cache.default_cache(). The images are 10 x 10 pixels, grey. NNNN is the digit's place in
    sklearn.datasets.load_digits; every digit has its share of the validation images.
    Raises DataError if the folder cannot be written.
    """
    parent = parent or default_cache()
    if parent is None:
        raise DataError("the digits need a folder to be written to, and this user has no home: name one")
    folder = parent / "digits"
    if not folder.is_dir():
        try:
            parent.mkdir(parents=True, exist_ok=True)
            put_in_place(folder, _write)
        except OSError as error:
            if not folder.is_dir():  # else another process was faster
                raise DataError(f"{parent}: {error.strerror}: name a folder to write the digits to") from None
    return folder


def _write(folder: Path) -> None:
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    # Their grey levels go from 0 to 16.
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    images = np.pad(images, ((0, 0), (_MARGIN, _MARGIN), (_MARGIN, _MARGIN)))
    validation = set(validation_samples(digits.target).tolist())
    for sample, (image, label) in enumerate(zip(images, digits.target, strict=True)):
        part = folder / ("val" if sample in validation else "train") / str(label)
        part.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(part / f"{sample:04d}.png")


def validation_samples(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """VALIDATION_SIZE samples, spread evenly over the classes and over each class: the same every time."""
    by_class = np.argsort(labels, kind="stable")
    evenly = (np.arange(VALIDATION_SIZE) + 0.5) * len(labels) / VALIDATION_SIZE
    return np.sort(by_class[evenly.astype(np.int64)])
