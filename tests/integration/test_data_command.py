"""`trainer data`: what it says about a folder of images, and its exit codes."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainer.cli.main import main

pytestmark = pytest.mark.integration


@pytest.fixture
def photos(tmp_path) -> Path:
    """train and val with two classes of three JPEGs each, 40 x 60 pixels of noise."""
    generator = np.random.default_rng(0)
    for part in ("train", "val"):
        for name in ("ape", "cat"):
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(3):
                noise = generator.integers(0, 256, (40, 60, 3), dtype=np.uint8)
                Image.fromarray(noise).save(tmp_path / part / name / f"{number}.jpg")
    return tmp_path


def test_index_says_what_it_found_and_leaves_an_index_in_each_part(photos, capsys):
    assert main(["data", "index", str(photos)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{photos}/train: 6 images, 2 classes, 40 x 60 pixels on average, shorter side 40 to 40"
    assert lines[1].startswith(f"{photos}/val: 6 images")
    assert lines[2].startswith("indexed in ")
    assert (photos / "train" / ".image-index.npz").is_file()
    assert (photos / "val" / ".image-index.npz").is_file()


def test_index_takes_one_folder_of_classes(photos, capsys):
    assert main(["data", "index", str(photos / "val")]) == 0
    assert capsys.readouterr().out.startswith(f"{photos}/val: 6 images, 2 classes")


def test_index_takes_a_flat_validation_folder_with_its_label_file(photos, capsys):
    flat = photos / "flat"
    flat.mkdir()
    for number, name in enumerate(("ape", "cat")):
        shutil.copy(photos / "val" / name / "0.jpg", flat / f"{number}.jpg")
    labels = photos / "labels.txt"
    labels.write_text("0.jpg 1\n1.jpg 0\n")
    arguments = ["data", "index", str(photos), "--validation", str(flat), "--labels", str(labels)]
    assert main(arguments) == 0
    assert f"{flat}: 2 images, 2 classes" in capsys.readouterr().out
    labels.write_text("0.jpg 1\n1.jpg 7\n")
    assert main(arguments) == 2
    assert "line 2: label 7 is outside 0 to 1" in capsys.readouterr().err


def test_check_passes_images_that_can_all_be_decoded(photos, capfd):
    assert main(["data", "check", str(photos)]) == 0
    captured = capfd.readouterr()
    assert captured.out.splitlines()[-1].startswith("checked 12 images in ")
    assert captured.out.splitlines()[-1].endswith("all of them can be decoded")
    assert captured.err == ""  # no progress bar where nobody looks


def test_check_names_every_image_that_cannot_be_decoded(photos, capfd):
    assert main(["data", "index", str(photos)]) == 0
    capfd.readouterr()
    whole = (photos / "train" / "cat" / "1.jpg").read_bytes()
    (photos / "train" / "cat" / "1.jpg").write_bytes(whole[: len(whole) // 2])
    (photos / "val" / "ape" / "2.jpg").write_bytes(whole[:-20])  # a few pixels at the very end
    Image.new("RGB", (10, 10)).save(photos / "val" / "cat" / "0.jpg")
    assert main(["data", "check", str(photos)]) == 1
    captured = capfd.readouterr()
    named = [
        line.split(": ")[0]
        for line in captured.out.splitlines()
        if "1.jpg" in line or "2.jpg" in line or "0.jpg" in line
    ]
    assert named == [f"{photos}/train/cat/1.jpg", f"{photos}/val/ape/2.jpg", f"{photos}/val/cat/0.jpg"]
    assert captured.out.splitlines()[-1].endswith(": 3 cannot be decoded")
    assert captured.err == ""  # the decoders' own remarks name no file


@pytest.mark.parametrize("action", ["index", "check"])
def test_a_missing_folder_is_one_line_and_exit_code_two(action, tmp_path, capsys):
    assert main(["data", action, str(tmp_path / "nowhere")]) == 2
    captured = capsys.readouterr()
    assert (
        captured.err
        == f"trainer: {tmp_path}/nowhere: No such file or directory: give a folder of images that can be read\n"
    )


def test_an_unreadable_image_is_named_when_the_index_is_built(photos, capsys):
    (photos / "train" / "cat" / "1.jpg").write_text("no image")
    assert main(["data", "index", str(photos)]) == 2
    assert "1 of 6 images cannot be read: cat/1.jpg (it holds no image" in capsys.readouterr().err
