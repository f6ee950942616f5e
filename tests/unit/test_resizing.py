"""Decoded images brought to one size: what PIL's bilinear filter shows, whoever does the work."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from PIL import Image

from dali_pipelines.resizing import Resizer

pytestmark = pytest.mark.unit

SIDE = 24
GENERATOR = np.random.default_rng(0)
# Larger, smaller, of that size already, and so thin that one row or column is all there is.
SIZES = [(40, 90), (24, 24), (7, 11), (100, 20), (1, 30), (30, 1), (1, 1), (24, 60), (51, 24)]
IMAGES = [GENERATOR.integers(0, 256, (*size, 3), dtype=np.uint8) for size in SIZES]
STRAIGHT = np.zeros(len(IMAGES), dtype=np.int32)
TO_SIDE = {"resized": np.full((len(IMAGES), 2), SIDE, np.int32), "centres": np.zeros((len(IMAGES), 2), np.int32)}


@pytest.fixture(params=[1, 3])
def resizer(request):
    one = Resizer(SIDE, threads=request.param)
    yield one
    one.close()


def pil(image: np.ndarray, height: int, width: int) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR), dtype=np.int64)


def assert_like(shown: np.ndarray, expected: np.ndarray) -> None:
    # The same sums with weights of fewer bits than PIL has: values near a half may be rounded to the other side.
    assert np.abs(shown.astype(np.int64) - expected).max() <= 1
    assert np.abs(shown.astype(np.int64) - expected).mean() < 0.5


def test_images_of_all_sizes_are_resized_as_pil_does(resizer):
    shown = resizer(IMAGES, TO_SIDE | {"mirrored": STRAIGHT}).numpy()
    assert shown.shape == (len(IMAGES), SIDE, SIDE, 3)
    for image, one in zip(IMAGES, shown, strict=True):
        assert_like(one, pil(image, SIDE, SIDE))


def test_some_are_mirrored(resizer):
    mirrored = np.array([1, 0, 1, 0, 0, 1, 0, 1, 1], dtype=np.int32)
    straight = resizer(IMAGES, TO_SIDE | {"mirrored": STRAIGHT}).clone()
    for is_mirrored, one, other in zip(
        mirrored, resizer(IMAGES, TO_SIDE | {"mirrored": mirrored}), straight, strict=True
    ):
        assert (one == (other.flip(1) if is_mirrored else other)).all()


def test_a_part_is_cut_out_of_what_was_resized(resizer):
    shapes = np.array([(30, 27 + number) for number in range(len(IMAGES))], dtype=np.int32)
    corners = np.array([(number % 7, 3) for number in range(len(IMAGES))], dtype=np.int32)
    shown = resizer(IMAGES, {"resized": shapes, "centres": corners, "mirrored": STRAIGHT}).numpy()
    for image, (height, width), (top, left), one in zip(IMAGES, shapes, corners, shown, strict=True):
        assert_like(one, pil(image, height, width)[top : top + SIDE, left : left + SIDE])


def test_a_smaller_batch_after_a_larger_one(resizer):
    resizer(IMAGES, TO_SIDE | {"mirrored": STRAIGHT})
    few = {name: column[:2] for name, column in (TO_SIDE | {"mirrored": STRAIGHT}).items()}
    assert len(resizer(IMAGES[:2], few)) == 2


def test_closing_ends_the_threads_and_a_later_call_starts_them_again():
    before = threading.active_count()
    resizer = Resizer(SIDE, threads=2)
    resizer.close()
    expected = resizer(IMAGES, TO_SIDE | {"mirrored": STRAIGHT}).clone()
    assert threading.active_count() > before
    resizer.close()
    resizer.close()
    assert threading.active_count() == before
    assert (resizer(IMAGES, TO_SIDE | {"mirrored": STRAIGHT}) == expected).all()
    resizer.close()
