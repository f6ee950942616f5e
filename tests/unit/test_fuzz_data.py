"""Index files, label files, CIFAR-10 and image headers with anything in them: read, or refused in words for users."""

from __future__ import annotations

import io
import json
import pickle
import struct
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dali_pipelines import cifar10, index_file
from dali_pipelines.cifar10_pickle import PickleError, read_pickle
from dali_pipelines.errors import DataError
from dali_pipelines.image_header import image_size
from dali_pipelines.labels import read_labels
from tests.fuzzing import fuzz

pytestmark = pytest.mark.unit

damage = st.lists(
    st.tuples(
        st.integers(0, 10**6),  # where, of the file's length
        st.integers(0, 12),  # bytes that go
        st.binary(max_size=12)
        | st.sampled_from([b"\xff" * 4, b"\xff" * 8, b"\x7f\xff\xff\xff", bytes(8), b"../", b"/"]),
    ),
    min_size=1,
    max_size=5,
)


def damaged(content: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    for place, removed, inserted in changes:
        at = place % (len(content) + 1)
        content = content[:at] + inserted + content[at + removed :]
    return content


@pytest.fixture(scope="module")
def scratch(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for name in ("ape/1.png", "ape/2.png", "cat/1.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        Image.new("L", (3, 2)).save(folder / name)
    index_file.open_index(folder)
    return folder


MADE_FROM = index_file._made_from(None, None)


def loaded(file: Path, root: Path, content: bytes) -> Any:
    """The index in a file of this content, or None; what is believed cannot lead out of the folder."""
    file.write_bytes(content)
    index = index_file._load(file, root, MADE_FROM)
    if index is not None:
        for sample in range(len(index)):
            assert index.path(sample).resolve().is_relative_to(root)
            assert 0 <= index.labels[sample] < len(index.class_names)
    return index


def test_the_undamaged_index_is_read(root, scratch):
    assert len(loaded(scratch / "index", root, (root / ".image-index.npz").read_bytes())) == 3


@fuzz(150)
@given(changes=damage)
def test_a_damaged_index_is_believed_only_where_it_stays_in_its_folder(root, scratch, changes):
    loaded(scratch / "index", root, damaged((root / ".image-index.npz").read_bytes(), changes))


@fuzz(100)
@given(content=st.binary(max_size=200))
def test_any_bytes_are_no_index(root, scratch, content):
    assert loaded(scratch / "index", root, content) is None


JSON = st.recursive(
    st.none() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


@fuzz(100)
@given(
    about=JSON | st.dictionaries(st.sampled_from(["made_from", "class_names", "stamps", "digest"]), JSON),
    paths=st.lists(
        st.sampled_from([b"ape/1.png", b"/etc/passwd", b"..", b"a/../b", b"", b"\xff", b"a\0b"]), max_size=4
    ),
    labels=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=4),
    sizes=st.lists(st.integers(-(2**31), 2**31 - 1), max_size=8),
)
def test_any_content_of_an_index_is_believed_only_where_it_stays_in_its_folder(
    root, scratch, about, paths, labels, sizes
):
    known = {"made_from": MADE_FROM, "class_names": ["ape", "cat"], "stamps": {}, "digest": ""}
    about = known | about if isinstance(about, dict) else about
    content = io.BytesIO()
    arrays = {
        "about": np.frombuffer(json.dumps(about).encode("utf-8", "replace"), dtype=np.uint8),
        "paths": np.frombuffer(b"".join(path + b"\0" for path in paths), dtype=np.uint8),
        "labels": np.array(labels, dtype=np.int64),
        "sizes": np.array(sizes, dtype=np.int32),
    }
    np.savez(content, **arrays)
    loaded(scratch / "index", root, content.getvalue())


def test_an_index_that_claims_to_be_huge_is_refused_in_little_memory(root, scratch):
    with zipfile.ZipFile(io.BytesIO((root / ".image-index.npz").read_bytes())) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<i4", "fortran_order": False, "shape": (2**40, 2)})
    members["sizes.npy"] = header.getvalue()
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, member in members.items():
            archive.writestr(name, member)
    tracemalloc.start()
    assert loaded(scratch / "index", root, content.getvalue()) is None
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5_000_000


LINES = st.sampled_from(
    ["a.png ape", "b.png\tcat", "c.png,ape", "ape", "0", "a 1", "b -1", "a ²", "a " + "9" * 5000, "a ٣"]
)


@fuzz(120)
@given(
    content=st.binary(max_size=80)
    | st.lists(LINES | st.text(max_size=10), max_size=6).map(lambda lines: "\n".join(lines).encode("utf-8", "replace")),
    classes=st.none() | st.just(["ape", "cat"]),
)
def test_any_label_file_is_read_or_refused(scratch, content, classes):
    file = scratch / "labels.txt"
    file.write_bytes(content)
    try:
        labels, names = read_labels(file, ["a.png", "b.png", "c.png"], classes)
    except DataError as error:
        refusal = str(error)
    else:
        refusal = f"{file}"
        assert len(labels) == 3
        assert 0 <= labels.min() <= labels.max() < len(names)
    assert refusal.startswith(str(file))
    assert "\n" not in refusal
    assert len(refusal) < 1000


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ("--1", "--1 is none of the 2 classes"),
        ("9" * 5000, f"{'9' * 80} is none of the 2"),
        ("٣", "٣ is none of the 2"),
    ],
)
def test_a_label_that_only_looks_like_a_number_is_refused(scratch, label, said):
    file = scratch / "labels.txt"
    file.write_text(f"a.png {label}\n", encoding="utf-8")
    with pytest.raises(DataError) as refused:
        read_labels(file, ["a.png"], ["ape", "cat"])
    assert said in str(refused.value)


def test_a_line_of_blanks_takes_no_time(scratch):
    file = scratch / "labels.txt"
    file.write_text("a" + " " * 300_000 + "b c\n")  # hours, where every blank is tried as the beginning of the last gap
    with pytest.raises(DataError, match="no line names the image"):
        read_labels(file, ["x.png"], ["b", "c"])


def official(images: int) -> bytes:
    """A batch in the words of Python 2's cPickle, protocol 2, as the official files are."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value

    array = (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08K\x00\x85" + text(b"b") + b"\x87Rq\x09"
        b"(K\x01"
        + b"M"
        + struct.pack("<H", images)
        + b"M\x00\x0c\x86cnumpy\ndtype\nq\x0a"
        + text(b"u1")
        + b"K\x00K\x01\x87R"
        b"q\x0b(K\x03" + text(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        b"T" + struct.pack("<I", images * 3072) + bytes(images * 3072) + b"tb"
    )
    labels = b"]q\x05(" + b"K\x01" * images + b"e"
    return (
        b"\x80\x02}q\x01("
        + text(b"labels")
        + labels
        + text(b"data")
        + array
        + text(b"batch_label")
        + text(b"x")
        + b"u."
    )


BATCH = official(2)
PROGRAM = BATCH.index(b"\x00" * 3072)  # what is before the pixels


def test_the_undamaged_batch_is_read(scratch):
    (scratch / "batch").write_bytes(BATCH)
    images, labels = cifar10._read_pickle(scratch / "batch")
    assert (images.shape, labels.tolist()) == ((2, 3072), [1, 1])


@fuzz(150)
@given(changes=damage, keeps_pixels=st.booleans())
def test_a_damaged_pickle_of_images_is_read_or_refused(scratch, changes, keeps_pixels):
    content = damaged(BATCH[:PROGRAM], changes) + BATCH[PROGRAM:] if keeps_pixels else damaged(BATCH, changes)
    (scratch / "batch").write_bytes(content)
    try:
        images, labels = cifar10._read_pickle(scratch / "batch")
    except DataError as error:
        refusal = str(error)
    else:
        refusal = ""
        assert images.shape == (len(labels), 3072)
    assert "\n" not in refusal


PICKLED = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.binary(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3) | st.tuples(inner)
    ),
    max_leaves=8,
)


@fuzz(100)
@given(value=PICKLED, protocol=st.integers(0, 5))
def test_a_pickle_of_plain_values_is_read_as_they_are_or_refused(value, protocol):
    try:
        read = read_pickle(pickle.dumps(value, protocol=protocol))
    except PickleError:
        return
    # bytes are written as a call by the older protocols, and that call is known
    assert read == value or value != value or "nan" in repr(value)


@fuzz(200)
@given(st.binary(max_size=60))
def test_any_bytes_as_a_pickle_are_read_or_refused(content):
    try:
        read_pickle(b"\x80\x02" + content)
    except PickleError as error:
        assert str(error)  # noqa: PT017


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02}r\xff\xff\xff\x7f.",  # remembers something at place 2 ** 31: Python's machine takes 32 GB for it
        b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b".",  # a bytearray of a terabyte
        b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b".",  # bytes of a terabyte
        b"\x80\x02X" + struct.pack("<I", 0xFFFFFFFF) + b"x.",
        b"\x80\x02" + b"(" * 100_000 + b".",
        b"\x80\x02" + b"]" * 10_000 + b"a" * 9_999 + b".",  # a list in a list in a list
        b"\x80\x02]q\x00" + b"".join(b"](" + b"h\x00" * 9 + b"eq\x00" for _ in range(60)) + b".",  # 9 ** 60 items
        BATCH.replace(b"M\x02\x00M\x00\x0c\x86", b"J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x86"),  # 2 ** 62 pixels
        BATCH.replace(b"M\x02\x00M\x00\x0c\x86", b"J\xff\xff\xff\xffM\x00\x0c\x86"),  # -1 images
    ],
)
def test_a_pickle_that_asks_for_memory_it_does_not_fill_gets_none(scratch, content):
    file = scratch / "batch"
    file.write_bytes(content)
    tracemalloc.start()
    with pytest.raises(DataError, match="this is no CIFAR-10 batch"):
        cifar10._read_pickle(file)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20_000_000


def image(format: str, **options: Any) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (40, 30), (200, 10, 60)).save(content, format, **options)
    return content.getvalue()


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return image("JPEG", exif=exif)


IMAGES = [turned(), *(image(name) for name in ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM", "GIF"))]
HEADER = 300  # bytes in which most of the headers lie


@fuzz(200)
@given(number=st.integers(0, len(IMAGES) - 1), changes=damage, length=st.none() | st.integers(0, 700))
def test_a_damaged_image_has_a_size_that_can_be_decoded_or_is_refused(scratch, number, changes, length):
    whole = IMAGES[number]
    file = scratch / "image"
    file.write_bytes((damaged(whole[:HEADER], changes) + whole[HEADER:])[:length])
    try:
        height, width = image_size(str(file))
    except DataError as error:
        refusal = str(error)
    else:
        refusal = ""
        assert min(height, width) > 0
        assert height * width <= 178_956_970
    assert "\n" not in refusal


def test_the_size_of_a_png_is_read_without_decoding_it(scratch):
    pixels = 12_000
    file = scratch / "bomb.png"
    Image.new("1", (pixels, pixels)).save(file)  # decoded to a byte a pixel, 144 MB
    script = (
        "import resource, sys\n"
        "from PIL import Image, PngImagePlugin\n"
        "from dali_pipelines.image_header import image_size\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 64_000_000,) * 2)\n"
        "print(image_size(sys.argv[1]))"
    )
    command = [sys.executable, "-W", "ignore", "-c", script, file]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == f"({pixels}, {pixels})\n", done.stderr


@pytest.mark.parametrize("after_the_pixels", [False, True])
def test_the_orientation_of_a_png_is_found_before_and_after_its_pixels(scratch, after_the_pixels):
    exif = Image.Exif()
    exif[0x0112] = 6
    content = image("PNG", exif=exif)
    start = content.index(b"eXIf") - 4
    end = start + 12 + struct.unpack(">I", content[start : start + 4])[0]
    if after_the_pixels:
        content = content[:start] + content[end:-12] + content[start:end] + content[-12:]
    (scratch / "turned.png").write_bytes(content)
    assert image_size(str(scratch / "turned.png")) == (40, 30)


@fuzz(100)
@given(
    st.sampled_from([b"", b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"RIFF", b"BM", b"II*\0", b"P6\n"]), st.binary(max_size=80)
)
def test_any_bytes_after_a_formats_first_ones_are_refused_or_have_a_size(scratch, magic, rest):
    file = scratch / "image"
    file.write_bytes(magic + rest)
    try:
        height, width = image_size(str(file))
        assert min(height, width) > 0
    except DataError:
        pass
