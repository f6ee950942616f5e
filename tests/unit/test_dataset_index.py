"""The index of a folder: what it holds, and every way in which a folder can be wrong."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dali_pipelines.dataset_index import build_index
from dali_pipelines.errors import DataError
from dali_pipelines.image_folder import open_folder

pytestmark = pytest.mark.unit


def add_image(path: Path, width: int = 6, height: int = 4) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height)).save(path)
    return path


def two_classes(root: Path) -> Path:
    add_image(root / "cat" / "2.jpg", 5, 3)
    add_image(root / "cat" / "1.png", 7, 9)
    add_image(root / "ape" / "deep" / "er" / "x.JPEG", 11, 2)
    return root


def test_the_index_holds_paths_labels_and_sizes_in_the_order_of_names(tmp_path):
    index = build_index(two_classes(tmp_path))
    assert index.class_names == ("ape", "cat")
    assert [index.path(sample).relative_to(tmp_path).as_posix() for sample in range(len(index))] == [
        "ape/deep/er/x.JPEG",
        "cat/1.png",
        "cat/2.jpg",
    ]
    assert index.labels.tolist() == [0, 1, 1]
    assert index.sizes.tolist() == [[2, 11], [9, 7], [3, 5]]


def test_hidden_entries_and_files_of_other_kinds_are_left_out(tmp_path):
    expected = build_index(two_classes(tmp_path))
    add_image(tmp_path / ".hidden" / "1.jpg")
    add_image(tmp_path / "cat" / ".thumbnail.jpg")
    (tmp_path / "cat" / "notes.txt").write_text("not an image")
    (tmp_path / "README.md").write_text("not an image")
    assert build_index(tmp_path).digest == expected.digest


def test_the_digest_is_that_of_the_content_wherever_it_lies(tmp_path):
    here, there = build_index(two_classes(tmp_path / "a")), build_index(two_classes(tmp_path / "b"))
    assert here.digest == there.digest
    add_image(tmp_path / "b" / "cat" / "2.jpg", 5, 4)
    assert build_index(tmp_path / "b").digest != here.digest


def test_progress_ends_with_all_files_done(tmp_path):
    calls: list[tuple[int, int]] = []
    build_index(two_classes(tmp_path), progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (3, 3)


def test_a_flat_folder_takes_its_labels_from_a_file(tmp_path):
    for name in "abc":
        add_image(tmp_path / "val" / f"{name}.jpg")
    labels = tmp_path / "labels.txt"
    labels.write_text("b cat\na ape\nc cat\n")
    index = build_index(tmp_path / "val", labels, class_names=("ape", "bee", "cat"))
    assert index.labels.tolist() == [0, 2, 2]
    assert index.class_names == ("ape", "bee", "cat")


def test_file_names_may_be_any_bytes(tmp_path):
    two_classes(tmp_path)
    odd = os.fsencode(tmp_path) + b"/cat/\xff \n'%.jpg"
    os.rename(tmp_path / "cat" / "2.jpg", odd)
    index = build_index(tmp_path)
    assert odd in {index.path_bytes(sample) for sample in range(3)}


def test_many_files_are_named_as_each_one_is(tmp_path):
    index = build_index(two_classes(tmp_path))
    assert index.paths_bytes(np.array([2, 0, 2])) == [index.path_bytes(sample) for sample in (2, 0, 2)]
    assert index.path_bytes(2) == os.fsencode(tmp_path / "cat" / "2.jpg")


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(DataError, match="nowhere: No such file or directory"):
        build_index(tmp_path / "nowhere")


def test_a_file_in_place_of_a_folder_is_named(tmp_path):
    with pytest.raises(DataError, match=r"1.jpg: Not a directory"):
        build_index(add_image(tmp_path / "1.jpg"))


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"there are no images in it: give a folder with files in \.jpg"):
        build_index(tmp_path)


def test_one_class_is_refused(tmp_path):
    add_image(tmp_path / "cat" / "1.jpg")
    with pytest.raises(DataError, match="it has one class only, cat"):
        build_index(tmp_path)


def test_a_class_without_images_is_refused(tmp_path):
    (two_classes(tmp_path) / "bee").mkdir()
    with pytest.raises(DataError, match="no images in class folder bee"):
        build_index(tmp_path)


def test_images_outside_class_folders_are_refused(tmp_path):
    add_image(two_classes(tmp_path) / "loose.jpg")
    with pytest.raises(DataError, match=r"beside its class folders \(loose.jpg\)"):
        build_index(tmp_path)


def test_images_without_class_folders_ask_for_a_label_file(tmp_path):
    add_image(tmp_path / "1.jpg")
    with pytest.raises(DataError, match=r"no class folders \(1.jpg\).*give a file with their labels"):
        build_index(tmp_path)


def test_unreadable_images_are_all_named(tmp_path):
    two_classes(tmp_path)
    (tmp_path / "cat" / "text.jpg").write_text("no image")
    (tmp_path / "ape" / "empty.png").touch()
    message = r"2 of 5 images cannot be read: ape/empty.png \(the file is empty\), cat/text.jpg \(it holds no image"
    with pytest.raises(DataError, match=message):
        build_index(tmp_path)


def test_of_many_unreadable_images_ten_are_named_and_the_others_counted(tmp_path):
    two_classes(tmp_path)
    for number in range(13):
        (tmp_path / "cat" / f"bad{number:02}.jpg").touch()
    with pytest.raises(DataError, match=r"13 of 16 .*bad09.jpg \(the file is empty\) and 3 more: repair"):
        build_index(tmp_path)


def test_links_out_of_the_folder_are_refused(tmp_path):
    outside = add_image(tmp_path / "outside.jpg")
    root = two_classes(tmp_path / "root")
    (root / "cat" / "link.jpg").symlink_to(outside)
    with pytest.raises(DataError, match=r"link.jpg: this symbolic link leads to .*outside.jpg"):
        build_index(root)


def test_links_to_folders_are_refused_even_if_they_would_go_round_in_a_circle(tmp_path):
    root = two_classes(tmp_path)
    (root / "cat" / "again").symlink_to(root)
    with pytest.raises(DataError, match="again: this symbolic link leads to"):
        build_index(root)


def test_links_that_lead_nowhere_are_refused(tmp_path):
    root = two_classes(tmp_path)
    (root / "cat" / "gone.jpg").symlink_to(root / "cat" / "deleted.jpg")
    with pytest.raises(DataError, match=r"gone\.jpg: this symbolic link leads to .*deleted\.jpg"):
        build_index(root)


def test_links_within_the_folder_and_to_the_folder_itself_are_followed(tmp_path):
    root = two_classes(tmp_path / "root")
    (root / "ape" / "same.jpg").symlink_to(root / "cat" / "2.jpg")
    (tmp_path / "link").symlink_to(root)
    assert len(build_index(tmp_path / "link")) == 4


def test_training_and_validation_must_have_the_same_classes(tmp_path):
    two_classes(tmp_path / "train")
    two_classes(tmp_path / "val")
    add_image(tmp_path / "val" / "dog" / "1.jpg")
    with pytest.raises(DataError, match=r"its 3 class folders are not the 2 .*\(dog is in one and not in the other\)"):
        open_folder(tmp_path)


def test_a_validation_class_without_images_still_counts_as_a_class(tmp_path):
    two_classes(tmp_path / "train")
    add_image(tmp_path / "val" / "cat" / "1.jpg")
    (tmp_path / "val" / "ape").mkdir()
    train, validation = open_folder(tmp_path)
    assert validation.class_names == train.class_names == ("ape", "cat")
    assert validation.labels.tolist() == [1]


@pytest.mark.parametrize("name", ["val", "validation", "test"])
def test_the_validation_folder_is_found_under_its_usual_names(name, tmp_path):
    two_classes(tmp_path / "train")
    two_classes(tmp_path / name)
    assert [index.root.name for index in open_folder(tmp_path)] == ["train", name]


def test_training_and_validation_folders_may_lie_apart(tmp_path):
    train, validation = open_folder(two_classes(tmp_path / "a"), two_classes(tmp_path / "b"))
    assert (train.root.name, validation.root.name) == ("a", "b")


def test_a_folder_without_its_parts_is_refused(tmp_path):
    with pytest.raises(DataError, match="there is no folder train in it"):
        open_folder(tmp_path)
    two_classes(tmp_path / "train")
    with pytest.raises(DataError, match="there is no folder val, validation or test in it"):
        open_folder(tmp_path)
