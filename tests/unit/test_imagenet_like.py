"""The files that stand in for ImageNet's, as a decoder on a GPU would meet them."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from benchmarks import imagenet_like

pytestmark = pytest.mark.unit


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos" / "train" / "class"
    folder.mkdir(parents=True)
    for number in range(3):
        noise = np.random.default_rng(number).integers(256, size=(30, 40, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((640, 480)).save(folder / f"{number}.jpg", quality=95)
    return sorted(folder.iterdir())


def test_files_are_what_a_jpeg_engine_reads(photos):
    written = Image.open(io.BytesIO(imagenet_like.encoded(imagenet_like.collage(photos, 0), 90)))
    assert written.size == (500, 375)
    assert not written.info.get("progressive")
    assert written.layer[0][1:3] == (2, 2)  # 4:2:0: luma twice as fine both ways


def test_files_are_the_same_each_time_and_differ_from_one_another(photos):
    first, again, second = (np.asarray(imagenet_like.collage(photos, number)) for number in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, second)


def test_the_quality_comes_as_close_to_imagenets_size_as_any(photos):
    images = [imagenet_like.collage(photos, number) for number in range(3)]

    def distance(quality):
        return abs(np.mean([len(imagenet_like.encoded(each, quality)) for each in images]) - imagenet_like.BYTES)

    best = imagenet_like.quality_for(photos)
    assert distance(best) <= min(distance(75), distance(90), distance(98))
