"""The door of this package: open a data set, then a pipeline on it.

    dataset = open_dataset("folder", Path("photos"))           # on local_rank 0 first: it builds what is missing
    dataset.train_size, dataset.class_names, dataset.digest    # known before anything is decoded
    pipeline = open_pipeline(dataset, seed=1, image_size=224, augmentation=Augmentation(), mean=..., std=...,
                             max_micro_batch=64, device=torch.device("cpu"))
    for images, labels in pipeline.batches(shard): ...
    pipeline.close()

Every rank calls both with the same arguments; digest must be the same on all of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, get_args

import numpy as np
import torch

from dali_pipelines.augmentation import Augmentation
from dali_pipelines.cifar10 import open_cifar10
from dali_pipelines.dataset_index import DatasetIndex, Progress
from dali_pipelines.digits import digits_folder
from dali_pipelines.errors import DataError
from dali_pipelines.graphs import Decoder, place
from dali_pipelines.image_arrays import ImageArrayPipeline, LabelledImages
from dali_pipelines.image_files import ImageFilePipeline, load_images
from dali_pipelines.image_folder import open_folder
from dali_pipelines.mending_queue import LabelRule, labels_as_asked, labels_as_shown
from dali_pipelines.normalisation import Normalisation
from dali_pipelines.sample_order import Shard
from dali_pipelines.unreadable import UnreadableFiles

Format = Literal["digits", "folder", "cifar10"]


class InputPipeline(Protocol):
    """How samples become tensors; the only thing about data that a training loop sees.

    unreadable: the files that this worker could not read so far, and how many it may meet.
    """

    train_size: int
    validation_size: int
    class_names: tuple[str, ...]
    image_size: int
    unreadable: UnreadableFiles

    def batches(self, shard: Shard) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The shard's micro-batches in order: images (micro_batch, 3, S, S) float32, normalised and in the pipeline's
        memory format, and labels (micro_batch,) int64, both on the device and the reader's to keep.

        Decoding starts at this call and keeps ahead of the reader. The iterator may be dropped half-way; a new call
        ends it. micro_batch may differ at every call, up to max_micro_batch.

        An image that cannot be decoded is replaced by the next of the data set that can be, with that one's label, cut
        and flipped as was drawn for the missing one: what stands at a position depends on the position and the files
        alone. Raises DataError naming the files when they are more than are allowed.
        """
        ...

    def evaluation_batches(
        self, rank: int, world_size: int, micro_batch: int
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """This worker's share of the validation images, as in batches; over all workers every image comes once.

        The last batch may be short, and there may be none. Where an image cannot be decoded another one's pixels come
        with the label unreadable.UNREADABLE: it counts, and no guess is right.
        """
        ...

    def close(self) -> None:
        """Stop decoding and give memory back. May be called twice."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """Training and validation images, found but not decoded (an index) or read already (CIFAR-10's own formats)."""

    train: DatasetIndex | LabelledImages
    validation: DatasetIndex | LabelledImages
    in_memory: bool

    @property
    def train_size(self) -> int:
        """Training images N."""
        return len(self.train)

    @property
    def validation_size(self) -> int:
        """Validation images."""
        return len(self.validation)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes; a label is a place in this list."""
        return self.train.class_names

    @property
    def digest(self) -> str:
        """SHA-256 of what the two parts hold: workers that see different data find out by it."""
        return hashlib.sha256(f"{self.train.digest} {self.validation.digest}".encode()).hexdigest()

    @property
    def mean_size(self) -> tuple[int, int]:
        """Mean height and width of the training images in pixels, rounded."""
        if isinstance(self.train, LabelledImages):
            height, width = self.train.images.shape[1:3]
            return height, width
        height, width = np.rint(self.train.sizes.mean(axis=0)).astype(int).tolist()
        return height, width


def open_dataset(
    format: Format,
    path: Path | str | None = None,
    *,
    validation_path: Path | str | None = None,
    validation_labels: Path | str | None = None,
    in_memory: bool = False,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """Find the images of a data set, and build and save the index of its folders where there is none.

    format "folder": path holds train/<class>/... and val/, validation/ or test/ with the same classes; with
    validation_path, path may be the training folder itself. validation_labels: a label file for a validation folder
    without class folders (see labels.read_labels). "digits": scikit-learn's, written as a folder below path (default:
    cache) when first used. "cifar10": path holds one of the official formats, or folders of images.
    in_memory: decode small images of one size once, when a pipeline is opened. cache: where files go that may not be
    written beside the data (default ~/.cache/dali_pipelines). progress(done, total) is called while an index is
    built. Raises DataError.
    """
    if format not in get_args(Format):
        raise DataError(f"data format {format!r} is unknown: choose one of {', '.join(get_args(Format))}")
    if format == "digits":
        path = digits_folder(Path(path) if path is not None else cache)
    if path is None:
        raise DataError(f"data format {format!r} needs a path: name the folder that holds the images")
    root = Path(path)
    if not root.is_dir():
        raise DataError(f"{root}: there is no such folder: name the folder that holds the images")
    if format == "cifar10" and (arrays := open_cifar10(root)) is not None:
        return Dataset(*arrays, in_memory=True)
    train, validation = open_folder(root, validation_path, validation_labels, cache=cache, progress=progress)
    return Dataset(train, validation, in_memory=in_memory or format == "cifar10")


def open_pipeline(
    dataset: Dataset,
    *,
    seed: int,
    image_size: int,
    augmentation: Augmentation,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    max_micro_batch: int,
    device: torch.device,
    memory_format: torch.memory_format = torch.contiguous_format,
    decoder: Decoder = "auto",
    hw_decoder_load: float | None = None,
    threads: int = 2,
    prefetch: int = 2,
    max_unreadable: int = 0,
) -> InputPipeline:
    """The stream of a data set for one worker.

    seed in [0, 2**64) fixes order and augmentation, and has to be the same on all ranks. image_size S in pixels. mean
    and std of the channels in units of 0 to 1. max_micro_batch in samples, for training and evaluation. device: where
    the tensors are delivered; memory_format: torch.contiguous_format or torch.channels_last, how images lie there.
    decoder says where files are decoded ("auto": on the device), hw_decoder_load which share of a batch a GPU's JPEG
    engines get (None: DALI's own). threads decode and resize on the CPU, prefetch micro-batches are decoded ahead.
    max_unreadable: files that may turn out to be unreadable before the stream stops.
    Raises DataError for what does not fit together, and when more images that are to be held in memory cannot be
    decoded.
    """
    files = UnreadableFiles(max_unreadable)
    placement = place(device, decoder, hw_decoder_load)
    normalise = Normalisation(mean, std, image_size, device, memory_format)
    train, validation = dataset.train, dataset.validation
    if isinstance(train, DatasetIndex) and isinstance(validation, DatasetIndex) and not dataset.in_memory:
        return ImageFilePipeline(
            train,
            validation,
            seed=seed,
            image_size=image_size,
            augmentation=augmentation,
            normalise=normalise,
            max_micro_batch=max_micro_batch,
            placement=placement,
            threads=threads,
            prefetch=prefetch,
            files=files,
        )
    return ImageArrayPipeline(
        _in_memory(train, threads, files, labels_as_shown),
        _in_memory(validation, threads, files, labels_as_asked),
        seed=seed,
        image_size=image_size,
        augmentation=augmentation,
        normalise=normalise,
        device=device,
        unreadable=files,
    )


def _in_memory(
    images: DatasetIndex | LabelledImages, threads: int, files: UnreadableFiles, label_rule: LabelRule
) -> LabelledImages:
    return load_images(images, threads, files, label_rule) if isinstance(images, DatasetIndex) else images
