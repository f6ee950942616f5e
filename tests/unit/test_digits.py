"""The embedded data set: complete, stratified, the same every time, and whole or absent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from dali_pipelines.cache import put_in_place
from dali_pipelines.digits import digits_folder, validation_samples
from dali_pipelines.errors import DataError
from dali_pipelines.pipeline import open_dataset

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return digits_folder(tmp_path_factory.mktemp("cache"))


def test_the_digits_are_1440_and_357_images_of_ten_classes(folder):
    dataset = open_dataset("digits", folder.parent)
    assert (dataset.train_size, dataset.validation_size) == (1440, 357)
    assert dataset.class_names == tuple("0123456789")
    assert dataset.mean_size == (10, 10)


def test_every_digit_has_its_share_of_the_validation_images():
    labels = load_digits().target
    chosen = validation_samples(labels)
    assert len(set(chosen.tolist())) == 357
    share = np.bincount(labels, minlength=10) * 357 / 1797
    assert np.abs(np.bincount(labels[chosen], minlength=10) - share).max() <= 1


def test_files_hold_the_digits_of_scikit_learn_with_a_margin_of_one_pixel(folder):
    digits = load_digits()
    files = sorted(folder.glob("*/*/*.png"), key=lambda file: file.stem)
    assert [int(file.stem) for file in files] == list(range(1797))
    for file in files[::100]:
        image = np.asarray(Image.open(file), dtype=np.float64)
        assert int(file.parent.name) == digits.target[int(file.stem)]
        # levels 0 to 16 become 0 to 255: back by 16 / 255, an error of at most half a level of 255
        assert np.abs(image[1:-1, 1:-1] * 16 / 255 - digits.images[int(file.stem)]).max() <= 0.5 * 16 / 255
        assert image.sum() == image[1:-1, 1:-1].sum()


def test_the_digits_are_written_once(folder):
    before = [(file, file.stat().st_mtime_ns) for file in sorted(folder.glob("*/*/*.png"))]
    assert digits_folder(folder.parent) == folder
    assert [(file, file.stat().st_mtime_ns) for file in sorted(folder.glob("*/*/*.png"))] == before


def test_a_place_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"file/cache: Not a directory: name a folder to write the digits to"):
        digits_folder(tmp_path / "file" / "cache")


def test_a_folder_put_in_place_is_whole_or_absent(tmp_path):
    def half(aside: Path) -> None:
        (aside / "a" / "b").mkdir(parents=True)
        (aside / "a" / "b" / "file").touch()
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        put_in_place(tmp_path / "target", half)
    assert list(tmp_path.iterdir()) == []


def test_of_two_writers_of_a_folder_the_first_wins(tmp_path):
    def write(text: str):
        def content(aside: Path) -> None:
            aside.mkdir()
            (aside / "file").write_text(text)

        return content

    put_in_place(tmp_path / "target", write("first"))
    with pytest.raises(OSError, match="not empty"):
        put_in_place(tmp_path / "target", write("second"))
    assert (tmp_path / "target" / "file").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["target"]
