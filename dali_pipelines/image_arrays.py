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
from dali_pipelines.sample_order import Shard, evaluation_batches, micro_batch_starts
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
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
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
        self._train_pixels = _padded_pixels(train.images, self._padding).to(device)
        self._train_labels = torch.from_numpy(train.labels).to(device)
        self._validation_images = torch.from_numpy(validation.images).to(device)
        self._validation_labels = torch.from_numpy(validation.labels).to(device)
        self.image_size = image_size
        self._window = torch.arange(image_size, device=device)
        self._mean = 255 * torch.tensor(mean, device=device).view(3, 1, 1)
        self._scale = 1 / (255 * torch.tensor(std, device=device).view(3, 1, 1))

    def batches(self, shard: Shard) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """See pipeline.InputPipeline."""
        return (self._training_batch(start, shard.micro_batch) for start in micro_batch_starts(shard))

    def evaluation_batches(
        self, rank: int, world_size: int, micro_batch: int
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """See pipeline.InputPipeline."""
        for ids in evaluation_batches(rank, world_size, micro_batch, self.validation_size):
            chosen = slice(ids[0], ids[-1] + 1)
            yield self._normalised(self._validation_images[chosen]), self._validation_labels[chosen].clone()

    def close(self) -> None:
        """Nothing to stop: the memory goes with the object."""

    def _training_batch(self, start: int, micro_batch: int) -> tuple[torch.Tensor, torch.Tensor]:
        draws = draws_at(self._seed, self.train_size, np.arange(start, start + micro_batch, dtype=np.int64))
        corners = torch.from_numpy(pad_offsets(draws, self._padding)).to(self._device)
        rows = corners[:, 0:1] + self._window
        columns = corners[:, 1:2] + self._window
        if self._augmentation.flip:
            mirrored = torch.from_numpy(flips(draws)).to(self._device)
            columns = torch.where(mirrored[:, None], columns.flip(1), columns)
        chosen = torch.from_numpy(draws.ids).to(self._device)
        _, height, width = self._train_pixels.shape
        places = (chosen[:, None, None] * height + rows[:, :, None]) * width + columns[:, None, :]
        windows = torch.take(self._train_pixels, places).view(torch.uint8).unflatten(2, (-1, 4))
        return self._normalised(windows[..., :3]), self._train_labels[chosen]

    def _normalised(self, images: torch.Tensor) -> torch.Tensor:
        """(n, H, W, 3) uint8 -> (n, 3, H, W) float32."""
        planes = images.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
        return planes.sub_(self._mean).mul_(self._scale)


def _padded_pixels(images: NDArray[np.uint8], padding: int) -> torch.Tensor:
    """(n, H + 2p, W + 2p) int32 with black margins: red, green, blue and an idle byte in each, since a gather of whole
    words is four times as fast as one of three bytes."""
    margin = (padding, padding)
    return torch.from_numpy(np.pad(images, ((0, 0), margin, margin, (0, 1)))).view(torch.int32).squeeze(3)
