"""Photos in files: read, cut and decoded by DALI, resized and normalised, micro-batch by micro-batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from itertools import starmap
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dali_pipelines.augmentation import Augmentation, centre_crops, crop_windows, draws_at, flips
from dali_pipelines.dataset_index import DatasetIndex
from dali_pipelines.decoding_queue import Request
from dali_pipelines.errors import DataError
from dali_pipelines.graphs import Placement, centre_graph, same_size_graph, size_for_engines, training_graph
from dali_pipelines.image_arrays import LabelledImages
from dali_pipelines.mending_queue import LabelRule, MendingQueue, labels_as_asked, labels_as_shown, with_stand_ins
from dali_pipelines.normalisation import Normalisation
from dali_pipelines.resizing import Resizer
from dali_pipelines.sample_order import Shard, evaluation_batches, micro_batch_starts
from dali_pipelines.transfer import LentMemory, on_device
from dali_pipelines.unreadable import UnreadableFiles

_LOADED_AT_ONCE = 512  # images; those that are held in memory are small


class ImageFilePipeline:
    """The stream of images read from files; see pipeline.InputPipeline and pipeline.open_pipeline."""

    def __init__(
        self,
        train: DatasetIndex,
        validation: DatasetIndex,
        *,
        seed: int,
        image_size: int,
        augmentation: Augmentation,
        normalise: Normalisation,
        max_micro_batch: int,
        placement: Placement,
        threads: int,
        prefetch: int,
        files: UnreadableFiles,
    ) -> None:
        """Raises DataError if the images would have to be padded."""
        if augmentation.crop == "pad":
            raise DataError(
                "crop 'pad' works on images of one size held in memory: hold them in memory, or choose crop "
                "'random_resized' or 'none'"
            )
        self.train_size = len(train)
        self.validation_size = len(validation)
        self.class_names = train.class_names
        self._train, self._validation = train, validation
        self._seed = seed
        self.image_size = image_size
        self._augmentation = augmentation
        self._max_micro_batch = max_micro_batch
        self._device = placement.device
        self._normalise = normalise
        # On a GPU DALI resizes, and the images come as they are shown.
        self._resizer = None if placement.device.type == "cuda" else Resizer(image_size, threads)
        self._lent = LentMemory()
        self.unreadable = files
        options = {"max_batch": max_micro_batch, "threads": threads, "prefetch": prefetch}
        shown = training_graph if augmentation.crop != "none" else centre_graph
        training = shown(placement, image_size, size_for_engines(train.sizes, max_micro_batch))
        centre = centre_graph(placement, image_size, size_for_engines(validation.sizes, max_micro_batch))
        self._train_queue = MendingQueue(train, training, placement, self._training_request, files, **options)
        self._validation_queue = MendingQueue(validation, centre, placement, self._validation_request, files, **options)

    def batches(self, shard: Shard) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """See pipeline.InputPipeline."""
        self._check_size(shard.micro_batch)
        positions = (np.arange(start, start + shard.micro_batch, dtype=np.int64) for start in micro_batch_starts(shard))
        return self._finished(self._train, self._train_queue.start(positions), labels_as_shown)

    def evaluation_batches(
        self, rank: int, world_size: int, micro_batch: int
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """See pipeline.InputPipeline."""
        self._check_size(micro_batch)
        samples = evaluation_batches(rank, world_size, micro_batch, self.validation_size)
        return self._finished(self._validation, self._validation_queue.start(samples), labels_as_asked)

    def close(self) -> None:
        """Stop decoding and give DALI's threads and memory back."""
        self._train_queue.close()
        self._validation_queue.close()
        if self._resizer is not None:
            self._resizer.close()

    def _check_size(self, micro_batch: int) -> None:
        assert 0 < micro_batch <= self._max_micro_batch, (
            f"micro-batches of {micro_batch} were not announced: at most {self._max_micro_batch}"
        )

    def _training_request(self, positions: NDArray[np.int64], stand_ins: Mapping[int, int]) -> Request:
        draws = draws_at(self._seed, self.train_size, positions)
        ids = with_stand_ins(positions, draws.ids, stand_ins)
        sizes = self._train.sizes[ids]
        # A stand-in is cut and flipped as was drawn for the image that it stands in for: at its own place in the epoch
        # it is seen otherwise.
        mirrored = flips(draws) if self._augmentation.flip else np.zeros(len(positions), dtype=np.bool_)
        if self._augmentation.crop == "none":
            return _request(self._train, positions, ids, centre_crops(sizes, self.image_size), mirrored)
        corners, shapes = crop_windows(draws, sizes, self._augmentation)
        whole = np.zeros_like(corners), np.full_like(shapes, self.image_size)
        return _request(self._train, positions, ids, whole, mirrored, corners=corners, shapes=shapes)

    def _validation_request(self, samples: NDArray[np.int64], stand_ins: Mapping[int, int]) -> Request:
        ids = with_stand_ins(samples, samples, stand_ins)
        centres = centre_crops(self._validation.sizes[ids], self.image_size)
        return _request(self._validation, samples, ids, centres, np.zeros(len(ids), dtype=np.bool_))

    def _finished(
        self, index: DatasetIndex, decoded: Iterator[tuple[Request, Any]], labels: LabelRule
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        # Not in a loop, whose variables would keep what was decoded while the reader works.
        return starmap(partial(self._batch, index, labels), decoded)

    def _batch(
        self, index: DatasetIndex, labels: LabelRule, request: Request, images: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        shown = self._resizer(images, request.columns) if self._resizer is not None else images
        batch = self._normalise(shown), on_device(labels(index, request), self._device)
        if self._device.type == "cuda":
            self._lent.keep(shown, torch.cuda.current_stream(self._device).record_event())
        return batch


def load_images(index: DatasetIndex, threads: int, files: UnreadableFiles, label_rule: LabelRule) -> LabelledImages:
    """All images of the index decoded into memory; they have to be of one size, and small.

    Raises DataError if they are not of one size, do not fit into memory, or more of them cannot be decoded than are
    allowed.
    """
    height, width = (int(side) for side in index.sizes[0])
    if odd := np.flatnonzero((index.sizes != index.sizes[0]).any(axis=1)).tolist():
        other_height, other_width = index.sizes[odd[0]]
        raise DataError(
            f"{index.path(odd[0])} has {other_height} x {other_width} pixels and {index.path(0)} has {height} x "
            f"{width}: only images of one size can be held in memory; read these from their files"
        )
    try:
        images = np.empty((len(index), height, width, 3), dtype=np.uint8)
    except MemoryError:
        raise DataError(
            f"{index.root}: {len(index)} images of {height} x {width} do not fit into memory: read them from files"
        ) from None
    labels = np.empty(len(index), dtype=np.int64)

    def request(samples: NDArray[np.int64], stand_ins: Mapping[int, int]) -> Request:
        ids = with_stand_ins(samples, samples, stand_ins)
        return Request(samples, ids, {"paths": _paths(index, ids), "sizes": index.sizes[ids]})

    placement = Placement(torch.device("cpu"), decode_on_gpu=False)
    options = {"max_batch": _LOADED_AT_ONCE, "threads": threads, "prefetch": 2}
    queue = MendingQueue(index, same_size_graph(), placement, request, files, **options)
    try:
        for chunk, decoded in queue.start(evaluation_batches(0, 1, _LOADED_AT_ONCE, len(index))):
            images[chunk.keys] = decoded.numpy()
            labels[chunk.keys] = label_rule(index, chunk)
    finally:
        queue.close()
    return LabelledImages(images, labels, index.class_names, index.digest)


def _request(
    index: DatasetIndex,
    keys: NDArray[np.int64],
    ids: NDArray[np.int64],
    centres: tuple[NDArray[np.int32], NDArray[np.int32]],
    mirrored: NDArray[np.bool_],
    **windows: NDArray[np.int32],
) -> Request:
    """windows: the parts of the files that are decoded, corners and shapes; all of it without them. centres: corners of
    what is shown, and the shapes that what was decoded is resized to before."""
    corners, resized = centres
    columns = {"centres": corners, "resized": resized, "mirrored": mirrored.astype(np.int32), **windows}
    return Request(keys, ids, {"paths": _paths(index, ids), "sizes": index.sizes[ids], **columns})


def _paths(index: DatasetIndex, ids: NDArray[np.int64]) -> list[NDArray[np.uint8]]:
    return [np.frombuffer(path, dtype=np.uint8) for path in index.paths_bytes(ids)]
