"""Which part of an image is seen, and whether it is mirrored.

Every random number is a hash of (seed, epoch, sample, what it is for). No generator is advanced, so a sample looks the
same in an epoch whichever worker reads it, in whatever batch, before or after a restart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from dali_pipelines.errors import DataError
from dali_pipelines.sample_order import sample_ids

Crop = Literal["random_resized", "pad", "none"]

_TRIES = 10  # torchvision's number of attempts at a window that fits
# What each random number of a sample is for. The numbers must never change: they are part of the stream's definition.
_FLIP, _TOP, _LEFT = 0, 1, 2
_AREAS = np.arange(3, 3 + _TRIES)
_RATIOS = np.arange(3 + _TRIES, 3 + 2 * _TRIES)


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How training images are varied.

    crop: "random_resized" cuts out a window of random area and shape and resizes it (photos); "pad" surrounds the
    image with `padding` black pixels and cuts out its own size (small images held in memory); "none" shows what
    evaluation shows. min_area is a fraction of the image; min_ratio and max_ratio are width / height. flip mirrors
    left and right with probability 1/2. Raises DataError for values that make no sense.
    """

    crop: Crop = "random_resized"
    min_area: float = 0.08
    min_ratio: float = 3 / 4
    max_ratio: float = 4 / 3
    padding: int = 4
    flip: bool = True

    def __post_init__(self) -> None:
        if self.crop not in get_args(Crop):
            raise DataError(f"crop {self.crop!r} is unknown: choose one of {', '.join(get_args(Crop))}")
        if not 0 < self.min_area <= 1:
            raise DataError(f"min_area {self.min_area} is no fraction of an image: choose 0 < min_area <= 1")
        if not 0 < self.min_ratio <= self.max_ratio < float("inf"):
            raise DataError(
                f"ratios from {self.min_ratio} to {self.max_ratio} cannot be drawn: choose 0 < min_ratio <= max_ratio"
            )
        if self.padding < 0:
            raise DataError(f"padding {self.padding} is negative: choose 0 or more pixels")


@dataclass(frozen=True, slots=True)
class Draws:
    """The random numbers of some samples, each in its epoch: epochs and ids are (n,) int64."""

    seed: int
    epochs: NDArray[np.int64]
    ids: NDArray[np.int64]

    def uniform(self, purposes: NDArray[np.int64]) -> NDArray[np.float64]:
        """Numbers in [0, 1), (n, len(purposes)) float64: one for each sample and purpose."""
        key = _mix(np.array([self.seed], dtype=np.uint64))
        sample = _mix(_mix(key + self.epochs.astype(np.uint64) * _GOLDEN) ^ self.ids.astype(np.uint64))
        mixed = _mix(sample[:, None] + (purposes + 1).astype(np.uint64) * _GOLDEN)
        return (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53


def draws_at(seed: int, dataset_size: int, positions: NDArray[np.int64]) -> Draws:
    """The samples at these positions of the stream, with their random numbers."""
    return Draws(seed, positions // dataset_size, sample_ids(seed, dataset_size, positions))


def flips(draws: Draws) -> NDArray[np.bool_]:
    """Whether each sample is mirrored, (n,) bool, true for half of them."""
    return draws.uniform(np.array([_FLIP]))[:, 0] < 0.5


def pad_offsets(draws: Draws, padding: int) -> NDArray[np.int64]:
    """Top left corner (row, column) of each sample's window in its padded image, (n, 2) int64 in [0, 2 * padding]."""
    return np.floor(draws.uniform(np.array([_TOP, _LEFT])) * (2 * padding + 1)).astype(np.int64)


def crop_windows(
    draws: Draws, sizes: NDArray[np.int32], augmentation: Augmentation
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Windows to cut out of images: corners (row, column) and shapes (height, width), both (n, 2) int32 in pixels.

    sizes: (n, 2) heights and widths. The recipe is torchvision's RandomResizedCrop: area uniform in [min_area, 1] of
    the image, ratio log-uniform in [min_ratio, max_ratio], the first of ten tries that fits, else the largest centred
    window whose ratio is allowed.
    """
    height, width = sizes[:, 0:1].astype(np.float64), sizes[:, 1:2].astype(np.float64)
    area = height * width * (augmentation.min_area + (1 - augmentation.min_area) * draws.uniform(_AREAS))
    low, high = np.log(augmentation.min_ratio), np.log(augmentation.max_ratio)
    ratio = np.exp(low + (high - low) * draws.uniform(_RATIOS))
    tried = np.stack([np.rint(np.sqrt(area / ratio)), np.rint(np.sqrt(area * ratio))], axis=2)
    fits = ((tried >= 1) & (tried <= sizes[:, None, :])).all(axis=2)
    first, rows = fits.argmax(axis=1), np.arange(len(sizes))
    found = fits[rows, first][:, None]
    shapes = np.where(found, tried[rows, first], _central_shapes(sizes, augmentation))
    room = sizes - shapes
    drawn = np.floor(draws.uniform(np.array([_TOP, _LEFT])) * (room + 1))
    corners = np.where(found, drawn, room // 2)
    return corners.astype(np.int32), shapes.astype(np.int32)


def centre_crops(sizes: NDArray[np.int32], image_size: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """What evaluation shows: corners (row, column) of (S, S) windows, and the shapes that the images are resized to
    before they are cut out, both (n, 2) int32.

    The recipe is torchvision's Resize(S * 256 / 224) and CenterCrop(S), its rounding included. sizes: (n, 2) heights
    and widths; image_size S in pixels.
    """
    shorter = round(image_size * 256 / 224)
    resized = sizes.astype(np.int64) * shorter // sizes.min(axis=1, keepdims=True)
    corners = np.rint((resized - image_size) / 2)
    return corners.astype(np.int32), resized.astype(np.int32)


def _central_shapes(sizes: NDArray[np.int32], augmentation: Augmentation) -> NDArray[np.float64]:
    height, width = sizes[:, 0].astype(np.float64), sizes[:, 1].astype(np.float64)
    heights = np.clip(np.rint(width / augmentation.min_ratio), 1, height)
    widths = np.clip(np.rint(height * augmentation.max_ratio), 1, width)
    return np.stack([heights, widths], axis=1)


_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser: a bijection of 64-bit words without visible structure (doi:10.1145/2714064.2660195)."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
