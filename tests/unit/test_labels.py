"""Label files: the formats that are understood, and the line that is named when one is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from dali_pipelines.errors import DataError
from dali_pipelines.labels import read_labels

pytestmark = pytest.mark.unit

PATHS = ["a.jpg", "b.jpg", "c.jpg"]
CLASSES = ["n01", "n02", "n03"]


def read(tmp_path: Path, text: str, paths: list[str] = PATHS, classes: list[str] | None = CLASSES):
    file = tmp_path / "labels.txt"
    file.write_text(text)
    labels, names = read_labels(file, paths, classes)
    return labels.tolist(), list(names)


@pytest.mark.parametrize(
    "text",
    [
        "a.jpg n02\nb.jpg n01\nc.jpg n02\n",
        "c.jpg n02\n\nb.jpg n01\r\na.jpg n02",  # any order, empty lines, Windows line ends
        "a n02\nb n01\nc n02\n",  # without extension
        "a.jpg,n02\nb.jpg,n01\nc.jpg,n02\n",
        "filename,label\na.jpg,n02\nb.jpg,n01\nc.jpg,n02\n",
        "a.jpg\tn02\nb.jpg\tn01\nc.jpg\tn02\n",
        "a.jpg 1\nb.jpg 0\nc.jpg 1\n",  # numbers count the classes from 0
        # ImageNet's LOC_val_solution.csv, with boxes after the class
        "ImageId,PredictionString\na,n02 85 1 499 272\nb,n01 1 2 3 4 n01 5 6 7 8\nc,n02 0 0 9 9\n",
        "n02\nn01\nn02\n",  # in the order of the names
    ],
)
def test_every_documented_form_gives_the_same_labels(text, tmp_path):
    assert read(tmp_path, text) == ([1, 0, 1], CLASSES)


def test_images_in_folders_are_found_by_path_or_by_name(tmp_path):
    paths = ["x/a.jpg", "y/b.jpg", "y/c.jpg"]
    assert read(tmp_path, "x/a.jpg n01\nb.jpg n02\ny/c n03\n", paths)[0] == [0, 1, 2]


def test_names_with_blanks_are_read_up_to_the_last_blank(tmp_path):
    assert read(tmp_path, "my cat.jpg n01\nb.jpg n02\n", ["my cat.jpg", "b.jpg"])[0] == [0, 1]


def test_class_names_with_blanks_can_be_given_after_a_comma(tmp_path):
    assert read(tmp_path, "a.jpg,red fox\nb.jpg,cat\n", ["a.jpg", "b.jpg"], ["cat", "red fox"])[0] == [1, 0]


def test_classes_named_by_numbers_are_names_and_not_places(tmp_path):
    # Folders 1, 10, 2 sort like that: the label 2 means the folder of this name, which is the third.
    assert read(tmp_path, "a.jpg 2\nb.jpg 10\nc.jpg 1\n", classes=["1", "10", "2"])[0] == [2, 1, 0]


def test_without_classes_those_that_occur_are_taken(tmp_path):
    assert read(tmp_path, "a.jpg zebra\nb.jpg ape\nc.jpg zebra\n", classes=None) == ([1, 0, 1], ["ape", "zebra"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.jpg 0\nb.jpg 1\nc.jpg 3\n", "line 3: label 3 is outside 0 to 2, the numbers of the 3 classes"),
        ("a.jpg 0\nb.jpg -1\nc.jpg 2\n", "line 2: label -1 is outside 0 to 2"),
        ("a.jpg n01\n\nb.jpg n09\nc.jpg n02\n", r"line 3: n09 is none of the 3 classes \(n01, n02, n03, ...\)"),
        ("a.jpg n01\nb.jpg 1\nc.jpg n02\n", "line 2: 1 is none of the 3 classes"),
        ("a.jpg n01\nb.jpg n02\n", "no line names the image c.jpg"),
        ("a.jpg n01\nb.jpg n02\nc.jpg n03\nd.jpg n03\n", "line 4: there is no image d.jpg"),
        ("a.jpg n01\nb.jpg n02\na.jpg n02\n", "line 3: a.jpg was named in line 1 already"),
        ("a.jpg n01\nb.jpg\nc.jpg n03\n", "line 2: 'b.jpg' is not an image name and a label"),
        ("n01\nn02\n", "2 labels without names for 3 images"),
        ("490\n361\n171\n", "numbers without image names do not say in which order"),
        ("\n \n", "the label file is empty"),
    ],
)
def test_a_wrong_label_file_is_refused_by_line(text, message, tmp_path):
    with pytest.raises(DataError, match=message) as error:
        read(tmp_path, text)
    assert str(tmp_path / "labels.txt") in str(error.value)


def test_numbers_without_classes_to_count_are_refused(tmp_path):
    with pytest.raises(DataError, match="say nothing without the class folders they count"):
        read(tmp_path, "a.jpg 1\nb.jpg 0\nc.jpg 1\n", classes=None)


def test_a_line_that_fits_two_images_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"line 1: a.jpg could be x/a.jpg or y/a.jpg: name images by their path"):
        read(tmp_path, "a.jpg n01\nb.jpg n02\n", ["x/a.jpg", "y/a.jpg"])


def test_a_label_file_that_is_missing_or_no_text_is_refused(tmp_path):
    with pytest.raises(DataError, match="No such file"):
        read_labels(tmp_path / "none.txt", PATHS, CLASSES)
    (tmp_path / "labels.bin").write_bytes(bytes(range(256)))
    with pytest.raises(DataError, match="this is not text"):
        read_labels(tmp_path / "labels.bin", PATHS, CLASSES)
