"""Sizes from headers: our parser and PIL agree, and nothing broken gets through, or out as a traceback."""

from __future__ import annotations

import contextlib
import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from dali_pipelines.errors import DataError
from dali_pipelines.image_header import _jpeg_size, image_size

pytestmark = pytest.mark.unit


def picture(mode: str = "RGB", width: int = 37, height: int = 23) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise).convert(mode)


def exif_block(orientation: int, order: str, thumbnail: bytes = b"") -> bytes:
    """An APP1 payload, by hand: TIFF header, a directory of two entries, whatever follows (CIPA DC-008)."""
    sign = {"<": b"II", ">": b"MM"}[order]
    entries = struct.pack(order + "HHIHH", 0x0110, 3, 1, 7, 0) + struct.pack(
        order + "HHIHH", 0x0112, 3, 1, orientation, 0
    )
    directory = struct.pack(order + "H", 2) + entries + struct.pack(order + "I", 0)
    return b"Exif\0\0" + sign + struct.pack(order + "HI", 42, 8) + directory + thumbnail


def jpeg(exif: bytes = b"", **options) -> bytes:
    buffer = io.BytesIO()
    picture(options.pop("mode", "RGB")).save(buffer, "JPEG", exif=exif, **options)
    return buffer.getvalue()


def size_of(content: bytes, folder: Path) -> tuple[int, int]:
    file = folder / "image.jpg"
    file.write_bytes(content)
    return image_size(str(file))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", range(10))
def test_exif_orientations_five_to_eight_swap_height_and_width(orientation, order, tmp_path):
    expected = (37, 23) if orientation in (5, 6, 7, 8) else (23, 37)
    assert size_of(jpeg(exif_block(orientation, order)), tmp_path) == expected


@pytest.mark.parametrize(
    "options",
    [
        {"progressive": True},
        {"mode": "L"},
        {"mode": "CMYK"},
        {"subsampling": 2, "optimize": True},
        {"icc_profile": bytes(200_000)},  # a header of several segments, far longer than the first read
        {"comment": b"\xff\xd8\xff\xc0" * 100},  # bytes that look like markers
        {"exif": exif_block(6, "<", thumbnail=jpeg() * 20)},
        {"exif": exif_block(6, ">", thumbnail=bytes(60_000)), "icc_profile": bytes(100_000)},
    ],
)
def test_jpegs_of_all_kinds_are_read_by_our_own_parser(options, tmp_path):
    content = jpeg(**options)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    assert size_of(content, tmp_path) == (upright.height, upright.width)
    with open(tmp_path / "image.jpg", "rb") as file:
        assert _jpeg_size(file.fileno()) is not None


@pytest.mark.parametrize("name", ["PNG", "WEBP", "TIFF", "BMP", "PPM"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_other_formats_are_read_by_pil_with_their_orientation(name, orientation, tmp_path):
    turns = orientation in (6, 8) and name not in ("BMP", "PPM")  # which have no EXIF
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {} if name in ("BMP", "PPM") else {"exif": exif}
    buffer = io.BytesIO()
    picture().save(buffer, name, **options)
    assert size_of(buffer.getvalue(), tmp_path) == ((37, 23) if turns else (23, 37))


def test_the_content_counts_and_not_the_name(tmp_path):
    buffer = io.BytesIO()
    picture().save(buffer, "PNG")
    assert size_of(buffer.getvalue(), tmp_path) == (23, 37)  # size_of writes to image.jpg, as ImageNet has one


def test_a_header_cut_anywhere_gives_the_size_or_a_clear_error(tmp_path):
    content = jpeg(exif_block(6, "<"))
    frame = content.index(b"\xff\xc0")
    for length in range(frame + 20):
        try:
            assert size_of(content[:length], tmp_path) == (37, 23)
            assert length >= frame + 9
        except DataError:
            pass


def test_damaged_headers_never_give_anything_but_a_size_or_a_clear_error(tmp_path):
    generator = np.random.default_rng(1)
    content = np.frombuffer(jpeg(exif_block(6, ">"))[:700], dtype=np.uint8)
    for _ in range(300):
        damaged = content.copy()
        damaged[generator.integers(0, len(content), 4)] = generator.integers(0, 256, 4)
        with contextlib.suppress(DataError):
            assert min(size_of(damaged.tobytes(), tmp_path)) >= 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"just some text", "no image of a known format"),
        (b"GIF89a" + bytes(100), "no image of a known format"),  # a format that the decoder does not know
    ],
)
def test_what_is_no_image_is_said_to_be_none(content, message, tmp_path):
    with pytest.raises(DataError, match=message):
        size_of(content, tmp_path)


def test_a_header_that_claims_gigabytes_is_not_believed(tmp_path):
    content = bytearray(jpeg())
    frame = content.index(b"\xff\xc0")
    content[frame + 5 : frame + 9] = b"\xff\xff\xff\xff"
    with pytest.raises(DataError, match="its header claims 65535 x 65535 pixels"):
        size_of(bytes(content), tmp_path)


@pytest.mark.parametrize("size", [(1, 2501), (2501, 1)])
def test_a_line_is_refused_since_its_shorter_side_decides_how_large_evaluation_makes_it(size, tmp_path):
    Image.new("L", size).save(tmp_path / "line.png")
    with pytest.raises(DataError, match=rf"its {size[1]} x {size[0]} pixels are a line, and resized they would take"):
        image_size(str(tmp_path / "line.png"))
    Image.new("L", (2500, 1)).save(tmp_path / "thin.png")
    assert image_size(str(tmp_path / "thin.png")) == (1, 2500)


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    with pytest.raises(DataError, match="No such file"):
        image_size(str(tmp_path / "none.jpg"))
