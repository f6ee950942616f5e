"""CIFAR-10's official formats, written here in small, and what is refused in their place."""

from __future__ import annotations

import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

from dali_pipelines.cifar10 import CLASS_NAMES, open_cifar10
from dali_pipelines.errors import DataError

pytestmark = pytest.mark.unit

PER_FILE = 20
FILES = ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"]


def batch(number: int) -> tuple[np.ndarray, list[int]]:
    """Images (n, 3072) as planes red, green, blue, and labels."""
    generator = np.random.default_rng(number)
    images = generator.integers(0, 256, (PER_FILE, 3072), dtype=np.uint8)
    return images, generator.integers(0, 10, PER_FILE).tolist()


def write_binary(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(FILES):
        images, labels = batch(number)
        records = b"".join(bytes([label]) + image.tobytes() for label, image in zip(labels, images, strict=True))
        (folder / f"{name}.bin").write_bytes(records)
    return folder


def python2_pickle(images: np.ndarray, labels: list[int]) -> bytes:
    """The bytes that Python 2's cPickle writes for a batch, protocol 2: text is bytes (opcode U or T), as in the
    official files."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value

    data = images.tobytes()
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n"
        + (b"cnumpy\nndarray\n" + b"K\x00\x85" + text(b"b") + b"\x87R")
        + (b"(K\x01" + b"M" + struct.pack("<H", len(images)) + b"M\x00\x0c\x86")
        + (b"cnumpy\ndtype\n" + text(b"u1") + b"K\x00K\x01\x87R")
        + (b"(K\x03" + text(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb")
        + (b"\x89T" + struct.pack("<I", len(data)) + data + b"tb")
    )
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return b"\x80\x02}(" + text(b"data") + array + text(b"labels") + numbers + text(b"batch_label") + text(b"x") + b"u."


def write_python2(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(FILES):
        (folder / name).write_bytes(python2_pickle(*batch(number)))
    return folder


def write_python3(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(FILES):
        images, labels = batch(number)
        (folder / name).write_bytes(pickle.dumps({b"data": images, b"labels": labels}, protocol=2))
    return folder


WRITERS = [write_binary, write_python2, write_python3]


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("below", ["", "cifar-10-batches-bin", "cifar-10-batches-py"])
def test_every_official_format_gives_the_same_images(write, below, tmp_path):
    write(tmp_path / below)
    train, test = open_cifar10(tmp_path)
    assert (len(train), len(test), train.class_names) == (5 * PER_FILE, PER_FILE, CLASS_NAMES)
    for number, part, start in [(number, train, number * PER_FILE) for number in range(5)] + [(5, test, 0)]:
        images, labels = batch(number)
        assert part.labels[start : start + PER_FILE].tolist() == labels
        # red of row y, column x is byte 32 y + x, green 1024 further on, blue 2048
        assert (
            part.images[start + 7, 3, 5].tolist()
            == images[7, [32 * 3 + 5, 1024 + 32 * 3 + 5, 2048 + 32 * 3 + 5]].tolist()
        )
        assert part.images[start : start + PER_FILE].sum(dtype=np.int64) == images.sum(dtype=np.int64)


def test_the_digest_is_that_of_the_images_and_not_of_the_format(tmp_path):
    digests = {open_cifar10(write(tmp_path / str(place)))[0].digest for place, write in enumerate(WRITERS)}
    assert len(digests) == 1


def test_a_folder_in_neither_format_is_left_to_others(tmp_path):
    assert open_cifar10(tmp_path) is None


def test_a_missing_file_is_named(tmp_path):
    (write_binary(tmp_path) / "data_batch_3.bin").unlink()
    with pytest.raises(DataError, match=r"data_batch_3\.bin is missing: unpack the whole archive"):
        open_cifar10(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\x01" * 3072])
def test_a_binary_file_of_the_wrong_length_is_named(content, tmp_path):
    (write_binary(tmp_path) / "data_batch_2.bin").write_bytes(content)
    with pytest.raises(DataError, match=r"data_batch_2\.bin: .* no whole number of CIFAR-10 records of 3073 bytes"):
        open_cifar10(tmp_path)


def test_a_label_outside_the_ten_classes_is_named(tmp_path):
    (write_binary(tmp_path) / "test_batch.bin").write_bytes((b"\x09" + bytes(3072)) + (b"\x0a" + bytes(3072)))
    with pytest.raises(DataError, match=r"test_batch.bin: the label of record 1 is 10, outside 0 to 9"):
        open_cifar10(tmp_path)


class Hostile:
    def __init__(self, *call: object) -> None:
        self.call = call

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call[0], self.call[1:]


def test_a_pickle_that_asks_for_anything_else_is_refused_and_nothing_is_run(tmp_path):
    write_python2(tmp_path)
    for call in [
        (os.mkdir, str(tmp_path / "pwned")),
        (eval, f"__import__('os').mkdir({str(tmp_path / 'pwned')!r})"),
        (np.load, "x"),
    ]:
        (tmp_path / "data_batch_1").write_bytes(pickle.dumps({"data": Hostile(*call)}))
        with pytest.raises(DataError, match=r"data_batch_1: this is no CIFAR-10 batch \(it asks for "):
            open_cifar10(tmp_path)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a pickle",
        pickle.dumps([1, 2]),
        pickle.dumps({"data": "text", "labels": [1]}),
        pickle.dumps({"labels": [1]}),
        python2_pickle(*batch(0))[:-500],
        python2_pickle(batch(0)[0], batch(0)[1][:-1]),
        python2_pickle(*batch(0)).replace(b"U\x02u1", b"U\x02O8"),
        pickle.dumps({b"data": np.zeros((2, 3072), dtype=np.float64), b"labels": [1, 2]}, protocol=2),
    ],
)
def test_a_damaged_pickle_is_named(content, tmp_path):
    (write_python2(tmp_path) / "data_batch_4").write_bytes(content)
    with pytest.raises(DataError, match="data_batch_4: this is no CIFAR-10 batch"):
        open_cifar10(tmp_path)
