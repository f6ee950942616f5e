"""CIFAR-10's files and image headers with anything in them: read, or refused in words for users."""

from __future__ import annotations

import io
import pickle
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dali_pipelines import cifar10
from dali_pipelines.cifar10_pickle import PickleError, read_pickle
from dali_pipelines.errors import DataError
from dali_pipelines.image_header import image_size
from tests.fuzzing import damage, damaged, fuzz

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def scratch(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


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
