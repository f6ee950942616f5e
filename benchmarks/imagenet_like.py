"""JPEG files of ImageNet's size made from a few photos, where there is room or way for a few only.

python -m benchmarks.imagenet_like PHOTOS DESTINATION [--images 4000]

Each shows parts of four of PHOTOS (train/<class>/*), cut from a seed, in 500 x 375 pixels: real pixels, and shrunk
rather than blown up, since soft ones make small files. Baseline and 4:2:0, as a GPU's JPEG engine reads them, at the
quality at which they take about 110 kB on average, as ImageNet's do. Needs Pillow and numpy.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

WIDTH, HEIGHT, BYTES, CLASSES, FOR_VALIDATION = 500, 375, 110_000, 10, 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("destination", type=Path)
    parser.add_argument("--images", type=int, default=4000, help="to train on [%(default)s]")
    arguments = parser.parse_args()
    print(make(arguments.photos, arguments.destination, arguments.images))


def make(photos: Path, destination: Path, images: int) -> str:
    """Writes train/ and val/ below the destination, and says in a sentence what is there."""
    sources = sorted(path for path in (photos / "train").rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    if not sources:
        raise SystemExit(f"{photos}: there are no JPEG files below its folder train: name a folder of photos")
    quality = quality_for(sources[:: -(-len(sources) // 16)])
    parts = [("train", images), ("val", min(images, FOR_VALIDATION))]
    targets = [
        destination / part / f"class{number % CLASSES}" / f"{number:06}.jpg"
        for part, count in parts
        for number in range(count)
    ]
    for folder in {target.parent for target in targets}:
        folder.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        sizes = list(pool.map(partial(write, sources, quality), range(len(targets)), targets, chunksize=64))
    return (
        f"{images} files of {statistics.mean(sizes) / 1e3:.0f} kB on average, {WIDTH} x {HEIGHT} pixels, quality "
        f"{quality}, from parts of {len(sources)} photos"
    )


def quality_for(sources: list[Path]) -> int:
    """The JPEG quality at which parts of these photos come closest to BYTES on average."""
    images = [collage(sources, number) for number in range(len(sources))]
    qualities = range(75, 99)
    return min(qualities, key=lambda q: abs(statistics.mean(len(encoded(each, q)) for each in images) - BYTES))


def collage(sources: list[Path], number: int) -> Image.Image:
    """The image of that number: each quarter shows most of a photo."""
    random = np.random.default_rng(number)
    whole = Image.new("RGB", (WIDTH, HEIGHT))
    for left in (0, WIDTH // 2):
        for top in (0, HEIGHT // 2):
            source = sources[random.integers(len(sources))]
            whole.paste(part(source, WIDTH - WIDTH // 2, HEIGHT - HEIGHT // 2, random), (left, top))
    return whole


def part(source: Path, width: int, height: int, random: np.random.Generator) -> Image.Image:
    """A part of the photo in so many pixels: seven tenths to all of the largest of that shape."""
    with Image.open(source) as opened:
        photo = opened.convert("RGB")
    scale = min(photo.width / width, photo.height / height) * random.uniform(0.7, 1.0)
    left, top = random.uniform(0, photo.width - scale * width), random.uniform(0, photo.height - scale * height)
    box = (left, top, left + scale * width, top + scale * height)
    return photo.resize((width, height), Image.Resampling.BICUBIC, box=box)


def encoded(image: Image.Image, quality: int) -> bytes:
    """The image as a baseline JPEG, 4:2:0."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, subsampling=2)
    return buffer.getvalue()


def write(sources: list[Path], quality: int, number: int, target: Path) -> int:
    """The file of that number; its bytes."""
    return target.write_bytes(encoded(collage(sources, number), quality))


if __name__ == "__main__":
    main()
