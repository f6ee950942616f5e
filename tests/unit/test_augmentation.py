"""Crops and flips: the RandomResizedCrop distribution, from numbers that belong to the sample and not to the worker."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from dali_pipelines.augmentation import (
    Augmentation,
    Draws,
    _mix,
    centre_crops,
    crop_windows,
    draws_at,
    flips,
    pad_offsets,
)
from dali_pipelines.errors import DataError

pytestmark = pytest.mark.unit

# A Kolmogorov-Smirnov distance above C sqrt(1/n), or C sqrt(1/n + 1/m), occurs once in 10^5 good generators
# (C = sqrt(-ln(10^-5 / 2) / 2)); the numbers are the same in every run, so a test that passes goes on to pass.
KS = math.sqrt(-math.log(1e-5 / 2) / 2)


def draws(n: int, seed: int = 1, epoch: int = 0) -> Draws:
    return Draws(seed, np.full(n, epoch, dtype=np.int64), np.arange(n, dtype=np.int64))


def sizes(n: int, height: int, width: int) -> np.ndarray:
    return np.tile(np.array([height, width], dtype=np.int32), (n, 1))


def ks_to_uniform(values: np.ndarray, low: float, high: float) -> float:
    scaled = np.sort((values - low) / (high - low))
    steps = np.arange(len(scaled) + 1) / len(scaled)
    return max(np.abs(scaled - steps[1:]).max(), np.abs(scaled - steps[:-1]).max())


def ks_between(first: np.ndarray, second: np.ndarray) -> float:
    both = np.concatenate([first, second])
    cdfs = [np.searchsorted(np.sort(values), both, side="right") / len(values) for values in (first, second)]
    return float(np.abs(cdfs[0] - cdfs[1]).max())


def reference_window(height: int, width: int, generator: random.Random) -> tuple[int, int, int, int]:
    """torchvision.transforms.RandomResizedCrop.get_params, written down from its documentation with scalars."""
    for _ in range(10):
        area = height * width * generator.uniform(0.08, 1)
        ratio = math.exp(generator.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return generator.randint(0, height - h), generator.randint(0, width - w), h, w
    h, w = height, width
    if width / height < 3 / 4:
        h = round(w / (3 / 4))
    elif width / height > 4 / 3:
        w = round(h * (4 / 3))
    return (height - h) // 2, (width - w) // 2, h, w


def test_the_mixing_function_is_splitmix64():
    # First outputs of SplitMix64 for the seed 1234567 (the published C code by S. Vigna; also on rosettacode.org).
    golden = 0x9E3779B97F4A7C15
    states = np.array([(1234567 + k * golden) % 2**64 for k in range(1, 4)], dtype=np.uint64)
    assert _mix(states).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@pytest.mark.parametrize("purpose", [0, 1, 7, 22])
def test_draws_are_uniform_over_samples_and_over_epochs(purpose):
    n = 20_000
    over_samples = draws(n).uniform(np.array([purpose]))[:, 0]
    over_epochs = Draws(1, np.arange(n), np.full(n, 5)).uniform(np.array([purpose]))[:, 0]
    assert ks_to_uniform(over_samples, 0, 1) < KS / math.sqrt(n)
    assert ks_to_uniform(over_epochs, 0, 1) < KS / math.sqrt(n)


def test_draws_of_neighbours_are_not_related():
    n = 20_000
    table = np.concatenate([draws(n).uniform(np.arange(23)), draws(n, epoch=1).uniform(np.arange(23))], axis=1)
    shifted = np.concatenate([table[:-1], table[1:]], axis=1)
    correlations = np.corrcoef(shifted.T) - np.eye(92)
    assert np.abs(correlations).max() < 5 / math.sqrt(n)  # five standard deviations; 4,186 pairs


def test_draws_do_not_depend_on_the_company_a_sample_keeps():
    together, chosen = draws(1000), np.array([999, 3, 500])
    alone = Draws(1, np.zeros(3, dtype=np.int64), chosen)
    augmentation = Augmentation()
    all_sizes = np.stack([np.arange(200, 1200), np.arange(1300, 300, -1)], axis=1).astype(np.int32)
    for some, every in zip(
        crop_windows(alone, all_sizes[chosen], augmentation),
        crop_windows(together, all_sizes, augmentation),
        strict=True,
    ):
        assert (some == every[chosen]).all()
    assert (flips(alone) == flips(together)[chosen]).all()
    assert (pad_offsets(alone, 4) == pad_offsets(together, 4)[chosen]).all()


def test_a_sample_looks_different_in_the_next_epoch_and_with_another_seed():
    windows = [
        crop_windows(chosen, sizes(100, 400, 300), Augmentation())[0]
        for chosen in (draws(100), draws(100, epoch=1), draws(100, seed=2))
    ]
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert (windows[first] != windows[second]).any(axis=1).mean() > 0.9


def test_positions_in_different_epochs_get_their_own_epochs_numbers():
    across = draws_at(1, 10, np.arange(5, 15))
    assert across.epochs.tolist() == [0] * 5 + [1] * 5
    assert (flips(across)[5:] == flips(draws_at(1, 10, np.arange(10, 15)))).all()


@pytest.mark.parametrize(("height", "width"), [(375, 500), (500, 333), (300, 900), (32, 32)])
def test_windows_follow_the_distribution_of_random_resized_crop(height, width):
    n = 20_000
    corners, shapes = crop_windows(draws(n), sizes(n, height, width), Augmentation())
    generator = random.Random(0)
    reference = np.array([reference_window(height, width, generator) for _ in range(n)], dtype=np.float64)
    ours = np.concatenate([corners, shapes], axis=1).astype(np.float64)
    bound = KS * math.sqrt(2 / n)
    for column in range(4):
        assert ks_between(ours[:, column], reference[:, column]) < bound
    assert ks_between(ours[:, 2] * ours[:, 3], reference[:, 2] * reference[:, 3]) < bound
    assert ks_between(ours[:, 3] / ours[:, 2], reference[:, 3] / reference[:, 2]) < bound


def test_small_windows_of_a_square_image_are_uniform_in_area_and_in_the_logarithm_of_the_ratio():
    # Whatever its ratio (3/4 to 4/3), a window of at most 3/4 of a square fits at the first try: there the distribution
    # is the product of the two that are drawn.
    side, n = 100_000, 20_000  # a side so long that rounding to pixels does not show
    _, shapes = crop_windows(draws(n), sizes(n, side, side), Augmentation())
    height, width = shapes.astype(np.float64).T
    area = height * width / side**2
    small = area <= 0.75
    bound = KS / math.sqrt(small.sum())
    assert ks_to_uniform(area[small], 0.08, 0.75) < bound
    assert ks_to_uniform(np.log(width / height)[small], math.log(3 / 4), math.log(4 / 3)) < bound


def test_corners_are_uniform_over_the_room_that_the_window_leaves():
    n = 20_000
    image = sizes(n, 100_000, 80_000)
    corners, shapes = crop_windows(draws(n), image, Augmentation())
    roomy = (image - shapes > 10_000).all(axis=1)
    for axis in (0, 1):
        place = corners[roomy, axis] / (image - shapes)[roomy, axis]
        assert ks_to_uniform(place, 0, 1) < KS / math.sqrt(roomy.sum()) + 1e-4  # a pixel of 10,000


@pytest.mark.parametrize(
    ("height", "width", "window"),
    [
        # At least 0.08 * 20,000 = 1,600 pixels with ratio 3/4 or more are 34 pixels wide: no try fits into 20. Then the
        # width is 20, the height 20 / (3/4) = 27, the corner (1000 - 27) // 2 = 486.
        (1000, 20, (486, 0, 27, 20)),
        (20, 1000, (0, 486, 20, 27)),
        (1, 1, (0, 0, 1, 1)),
    ],
)
def test_an_image_too_slim_for_any_window_gives_its_centre(height, width, window):
    corners, shapes = crop_windows(draws(50), sizes(50, height, width), Augmentation())
    assert set(map(tuple, np.concatenate([corners, shapes], axis=1).tolist())) == {window}


def test_windows_lie_inside_their_image():
    generator = np.random.default_rng(0)
    n = 20_000
    image = np.exp(generator.uniform(0, math.log(20_000), (n, 2))).astype(np.int32)
    for augmentation in (Augmentation(), Augmentation(min_area=1e-6, min_ratio=0.01, max_ratio=100)):
        corners, shapes = crop_windows(draws(n), image, augmentation)
        assert shapes.min() >= 1
        assert corners.min() >= 0
        assert (corners + shapes <= image).all()


def test_half_of_the_images_are_flipped():
    n = 100_000
    assert abs(flips(draws(n)).mean() - 0.5) < 5 * 0.5 / math.sqrt(n)  # five standard deviations


def test_padding_by_four_gives_each_of_81_offsets_its_share():
    n = 81_000
    offsets = pad_offsets(draws(n), 4)
    counts = np.bincount(offsets[:, 0] * 9 + offsets[:, 1], minlength=81)
    assert len(counts) == 81
    # chi-square with 80 degrees of freedom exceeds 137 once in 10,000 good generators
    assert ((counts - 1000) ** 2 / 1000).sum() < 137


@pytest.mark.parametrize(
    ("size", "corner", "resized"),
    [
        # Resize(256): the shorter side becomes 256, the longer one 256 * long / short, rounded down. CenterCrop(224):
        # half the surplus, to the even number where it ends in one half.
        ((256, 256), (16, 16), (256, 256)),
        ((375, 500), (16, 58), (256, 341)),  # 341.33 -> 341; (341 - 224) / 2 = 58.5 -> 58
        ((500, 333), (80, 16), (384, 256)),  # 384.38 -> 384
        ((200, 213), (16, 24), (256, 272)),  # 272.64 -> 272
        ((128, 71), (118, 16), (461, 256)),  # 461.52 -> 461; 118.5 -> 118
        ((100, 135), (16, 60), (256, 345)),  # 345.6 -> 345; 60.5 -> 60
        ((100, 136), (16, 62), (256, 348)),  # 348.16 -> 348
        ((200, 268), (16, 60), (256, 343)),  # 343.04 -> 343; 59.5 -> 60
    ],
)
def test_evaluation_follows_torchvisions_resize_and_centre_crop(size, corner, resized):
    corners, shapes = centre_crops(np.array([size], dtype=np.int32), 224)
    assert (tuple(corners[0].tolist()), tuple(shapes[0].tolist())) == (corner, resized)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"crop": "centre"}, "crop 'centre' is unknown: choose one of random_resized, pad, none"),
        ({"min_area": 0}, "min_area 0 is no fraction"),
        ({"min_area": 1.5}, "min_area 1.5 is no fraction"),
        ({"min_ratio": 2, "max_ratio": 1}, "ratios from 2 to 1"),
        ({"min_ratio": -1}, "ratios from -1"),
        ({"padding": -1}, "padding -1 is negative"),
    ],
)
def test_an_augmentation_that_makes_no_sense_is_refused(wrong, message):
    with pytest.raises(DataError, match=message):
        Augmentation(**wrong)
