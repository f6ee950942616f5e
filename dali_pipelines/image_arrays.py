"""Small images of one size, held on the device as bytes: a batch is one gather, with nothing to decode or to copy."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from dali_pipelines.augmentation import Augmentation, draws_at, flips, pad_offsets
from dali_pipelines.errors import DataError
from dali_pipelines.normalisation import Normalisation
from dali_pipelines.sample_order import Shard, evaluation_batches, micro_batch_starts
from dali_pipelines.transfer import on_device
from dali_pipelines.unreadable import UnreadableFiles


@dataclass(frozen=True, slots=True, eq=False)
class LabelledImages:
    """images: (n, H, W, 3) uint8 RGB. labels: (n,) int64 in [0, len(class_names)). digest: SHA-256 over all of it."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    digest: str

    def __len__(self) -> int:
        return len(self.labels)


def labelled_images(
    images: NDArray[np.uint8], labels: NDArray[np.int64], class_names: tuple[str, ...]
) -> LabelledImages:
    """Images with their labels and the digest that follows from them."""
    assert (images.dtype, images.shape[3:]) == (np.uint8, (3,)), "images are (n, H, W, 3) uint8"
    assert len(images) == len(labels), "there is one label for each image"
    digest = hashlib.sha256(json.dumps([class_names, images.shape]).encode())
    digest.update(np.ascontiguousarray(images))
    digest.update(np.ascontiguousarray(labels, "<i8"))
    return LabelledImages(images, labels, class_names, digest.hexdigest())


class ImageArrayPipeline:
    """The stream of images held in memory; see pipeline.InputPipeline and pipeline.open_pipeline."""

    def __init__(
        self,
        train: LabelledImages,
        validation: LabelledImages,
        *,
        seed: int,
        image_size: int,
        augmentation: Augmentation,
        normalise: Normalisation,
        device: torch.device,
        unreadable: UnreadableFiles,
    ) -> None:
        """Raises DataError if the images are not (image_size, image_size), or would have to be resized to train."""
        if augmentation.crop == "random_resized":
            raise DataError(
                "crop 'random_resized' resizes images, and images held in memory are shown in their own size: choose "
                "crop 'pad' or 'none', or do not hold them in memory"
            )
        for images in (train, validation):
            height, width = images.images.shape[1:3]
            if (height, width) != (image_size, image_size):
                raise DataError(
                    f"image_size is {image_size}, and the images are {height} x {width} pixels, which are not resized "
                    f"when they are held in memory: set image_size to {max(height, width)} (images have to be square), "
                    "or do not hold them in memory"
                )
        self.train_size = len(train)
        self.validation_size = len(validation)
        self.class_names = train.class_names
        self.unreadable = unreadable
        self._seed = seed
        self._augmentation = augmentation
        self._padding = augmentation.padding if augmentation.crop == "pad" else 0
        self._device = device
        self._train_rows = _rows_anywhere(_padded(train.images, self._padding).to(device), image_size)
        self._train_labels = torch.from_numpy(train.labels).to(device)
        self._validation_images = torch.from_numpy(validation.images).to(device)
        self._validation_labels = torch.from_numpy(validation.labels).to(device)
        self.image_size = image_size
        self._normalise = normalise

    def batches(self, shard: Shard) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """See pipeline.InputPipeline."""
        return (self._training_batch(start, shard.micro_batch) for start in micro_batch_starts(shard))

    def evaluation_batches(
        self, rank: int, world_size: int, micro_batch: int
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """See pipeline.InputPipeline."""
        for ids in evaluation_batches(rank, world_size, micro_batch, self.validation_size):
            chosen = slice(ids[0], ids[-1] + 1)
            yield self._normalise(self._validation_images[chosen]), self._validation_labels[chosen].clone()

    def close(self) -> None:
        """Nothing to stop: the memory goes with the object."""

    def _training_batch(self, start: int, micro_batch: int) -> tuple[torch.Tensor, torch.Tensor]:
        draws = draws_at(self._seed, self.train_size, np.arange(start, start + micro_batch, dtype=np.int64))
        top, left = pad_offsets(draws, self._padding).T
        side, padded_side = self.image_size, self.image_size + 2 * self._padding
        rows = (draws.ids * padded_side + top)[:, None] + np.arange(side)
        starts = rows * padded_side + left[:, None]
        mirrored = flips(draws) & self._augmentation.flip
        order = np.argsort(mirrored, kind="stable")  # the mirrored ones last, so that one slice is flipped
        # One transfer for all three.
        indices = on_device(np.concatenate([starts[order].ravel(), np.argsort(order), draws.ids]), self._device)
        of_rows, of_places, of_images = indices.split([micro_batch * side, micro_batch, micro_batch])
        images = self._train_rows.index_select(0, of_rows).view(micro_batch, side, side, 3)
        to_mirror = images[micro_batch - int(mirrored.sum()) :]
        to_mirror.copy_(to_mirror.flip(2))
        return self._normalise(images.index_select(0, of_places)), self._train_labels.index_select(0, of_images)


def _padded(images: NDArray[np.uint8], padding: int) -> torch.Tensor:
    """(n, H + 2p, W + 2p, 3) uint8 with black margins."""
    margin = (padding, padding)
    return torch.from_numpy(np.pad(images, ((0, 0), margin, margin, (0, 0))))


def _rows_anywhere(images: torch.Tensor, width: int) -> torch.Tensor:
    """(pixels - width + 1, 3 * width): the bytes of `width` pixels from each pixel on, which overlap in memory.

    A window is a gather of its rows: copies of whole rows are much faster than a gather of pixels.
    """
    pixels = images.numel() // 3
    return images.as_strided((pixels - width + 1, 3 * width), (3, 1))
