"""What several tests of this tier need: folders of real photos, an empty MLflow store."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from tests.photo_streams import unpacked
from trainer.tracking.tracking_uri import sqlite_uri


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> Path:
    """Two classes of real JPEGs of many sizes: parts of the two photos that scikit-learn brings along."""
    root = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    for name, pixels in zip(("china", "flower"), load_sample_images().images, strict=True):
        for part, count in (("train", 40), ("val", 11)):
            folder = root / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                height, width = generator.integers(90, 400, 2)
                top, left = generator.integers(0, 427 - height), generator.integers(0, 640 - width)
                crop = Image.fromarray(pixels[top : top + height, left : left + width])
                crop.save(folder / f"{number:03}.jpg", quality=int(generator.integers(70, 96)))
    return root


@pytest.fixture(scope="session")
def clothing(tmp_path_factory) -> Path:
    """300 real photos of ten classes; the whole validation part, and a training part of the test images."""
    root = tmp_path_factory.mktemp("clothing")
    unpacked("clothing-jpeg.tar", lambda name: "/validation/" in name or "/test/" in name, root)
    data = root / "clothing-dataset-small"
    (data / "test").rename(data / "train")
    for folder in sorted((data / "train").iterdir()):
        for surplus in sorted(folder.iterdir())[30:]:
            surplus.unlink()
    return data


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of an empty MLflow store."""
    return sqlite_uri(tmp_path_factory.mktemp("store"))
