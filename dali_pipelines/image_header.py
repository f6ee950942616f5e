"""The size of an image as it is shown, from its header alone.

Crop windows are drawn before an image is decoded, so the index has to know every size. A JPEG is read by a parser of
our own, several times faster than PIL; every other format, and every JPEG the parser finds odd, is left to PIL.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

from dali_pipelines.errors import DataError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")

_PIL_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM")
_ORIENTATION_TAG = 0x0112
_TURNED = range(5, 9)  # EXIF orientations that swap height and width
_MOST_PIXELS = 178_956_970  # where PIL too begins to suspect a bomb: half a gigabyte decoded
_MOST_DRAWN_OUT = 2500  # longer side over shorter; evaluation resizes by the shorter, and the longer grows with it
_FIRST_READ = 4096  # bytes; holds the whole header of a JPEG without thumbnail or colour profile

_ReadAt = Callable[[int, int], bytes]  # (offset, length) -> that many bytes, fewer at the end of the file


def image_size(path: str | bytes) -> tuple[int, int]:
    """Height and width in pixels after the file's EXIF orientation, as the decoder will deliver the image.

    Raises DataError saying why, without the file's name, when the header cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise DataError(error.strerror or "cannot be opened") from None
    try:
        size = _jpeg_size(descriptor) or _pil_size(descriptor)
    finally:
        os.close(descriptor)
    if not 0 < size[0] * size[1] <= _MOST_PIXELS:
        raise DataError(f"its header claims {size[0]} x {size[1]} pixels")
    if max(size) > _MOST_DRAWN_OUT * min(size):
        raise DataError(f"its {size[0]} x {size[1]} pixels are a line, and resized they would take gigabytes")
    return size


def _jpeg_size(descriptor: int) -> tuple[int, int] | None:
    """Size from the first start-of-frame segment (ITU T.81, B.2.2); None for whatever is not a plain JPEG."""
    read_at = _reader(descriptor)
    if read_at(0, 2) != b"\xff\xd8":
        return None
    position, orientation = 2, 0
    while True:
        head = read_at(position, 4)
        if len(head) < 4 or head[0] != 0xFF:
            return None
        marker, length = head[1], (head[2] << 8) | head[3]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            frame = read_at(position + 5, 4)
            if len(frame) < 4 or not any(frame[:2]):  # a height of 0 is given later in the file, by a DNL segment
                return None
            height, width = struct.unpack(">HH", frame)
            return (width, height) if orientation in _TURNED else (height, width)
        if marker < 0xC0 or 0xD0 <= marker <= 0xDA or marker == 0xFF or length < 2:  # no header segment
            return None
        if marker == 0xE1 and not orientation and read_at(position + 4, 6) == b"Exif\0\0":
            orientation = _exif_orientation(read_at, position + 10)
        position += 2 + length


def _reader(descriptor: int) -> _ReadAt:
    start = os.pread(descriptor, _FIRST_READ, 0)

    def read_at(offset: int, length: int) -> bytes:
        if offset + length <= len(start):
            return start[offset : offset + length]
        return os.pread(descriptor, length, offset)

    return read_at


def _png_orientation(read_at: _ReadAt) -> int:
    """The orientation in a PNG's eXIf chunk, 0 where it has none (PNG, third edition, 11.3.4.5).

    PIL decodes the whole image to see whether one comes after it: a small file may hold half a gigabyte.
    """
    position = 8
    while len(head := read_at(position, 8)) == 8 and head[4:] != b"IEND":
        if head[4:] == b"eXIf":
            return _exif_orientation(read_at, position + 8)
        position += 12 + int.from_bytes(head[:4], "big")
    return 0


def _exif_orientation(read_at: _ReadAt, tiff: int) -> int:
    """The orientation in the TIFF structure at this offset, 0 where it says none (CIPA DC-008, 4.6)."""
    try:
        order = {b"II": "<", b"MM": ">"}[read_at(tiff, 2)]
        directory = tiff + struct.unpack(order + "I", read_at(tiff + 4, 4))[0]
        (entries,) = struct.unpack(order + "H", read_at(directory, 2))
        table = read_at(directory + 2, 12 * entries)
        for tag, _, _, value, _ in struct.iter_unpack(order + "HHIHH", table):
            if tag == _ORIENTATION_TAG:
                return int(value)
    except (KeyError, struct.error):
        pass
    return 0


def _pil_size(descriptor: int) -> tuple[int, int]:
    from PIL import Image

    try:
        with os.fdopen(os.dup(descriptor), "rb") as file, Image.open(file, formats=_PIL_FORMATS) as image:
            width, height = image.size
            # PIL turns a TIFF's size itself; for the other formats it leaves the orientation to the caller.
            if image.format == "PNG":
                orientation = _png_orientation(_reader(descriptor))
            else:
                orientation = 0 if image.format == "TIFF" else image.getexif().get(_ORIENTATION_TAG)
            turned = orientation in _TURNED
    except Image.DecompressionBombError:
        raise DataError(f"its header claims more than {_MOST_PIXELS:,} pixels") from None
    except Exception as error:  # PIL and its plug-ins raise whatever a broken header leads them to
        empty = os.fstat(descriptor).st_size == 0
        reason = "the file is empty" if empty else "it holds no image of a known format, or a broken one"
        raise DataError(reason) from error
    return (width, height) if turned else (height, width)


def has_image_name(name: str | Path) -> bool:
    """Whether a file's name ends like an image's."""
    return os.path.splitext(name)[1].lower() in EXTENSIONS
