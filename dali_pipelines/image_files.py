"""Photos in files: read, cut, decoded, resized and normalised by DALI, micro-batch by micro-batch."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from dali_pipelines.augmentation import Augmentation, centre_crops, crop_windows, draws_at, flips
from dali_pipelines.dataset_index import DatasetIndex
from dali_pipelines.decode_check import undecodable_files
from dali_pipelines.decoding_queue import DecodingFailed, DecodingQueue, Request
from dali_pipelines.errors import DataError
from dali_pipelines.graphs import Placement, centre_graph, training_graph, whole_graph
from dali_pipelines.image_arrays import LabelledImages
from dali_pipelines.sample_order import Shard, evaluation_batches, micro_batch_starts

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
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        max_micro_batch: int,
        placement: Placement,
        threads: int,
        prefetch: int,
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
        options = {"max_batch": max_micro_batch, "threads": threads, "prefetch": prefetch}
        centre = centre_graph(image_size, mean, std)
        training = centre if augmentation.crop == "none" else training_graph(image_size, mean, std)
        # Neither builds its DALI pipeline before it is asked for a batch.
        self._train_queue = DecodingQueue(training, placement, **options)
        self._validation_queue = DecodingQueue(centre, placement, **options)

    def batches(self, shard: Shard) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """See pipeline.InputPipeline."""
        self._check_size(shard.micro_batch)
        starts = micro_batch_starts(shard)
        requests = (self._training_request(start, shard.micro_batch) for start in starts)
        return self._labelled(self._train, self._train_queue, requests)

    def evaluation_batches(
        self, rank: int, world_size: int, micro_batch: int
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """See pipeline.InputPipeline."""
        self._check_size(micro_batch)
        batches = evaluation_batches(rank, world_size, micro_batch, self.validation_size)
        requests = (self._centre_request(self._validation, ids, np.zeros(len(ids), dtype=np.bool_)) for ids in batches)
        return self._labelled(self._validation, self._validation_queue, requests)

    def close(self) -> None:
        """Stop decoding and give DALI's threads and memory back."""
        self._train_queue.close()
        self._validation_queue.close()

    def _check_size(self, micro_batch: int) -> None:
        assert 0 < micro_batch <= self._max_micro_batch, (
            f"micro-batches of {micro_batch} were not announced: at most {self._max_micro_batch}"
        )

    def _training_request(self, start: int, micro_batch: int) -> Request:
        draws = draws_at(self._seed, self.train_size, np.arange(start, start + micro_batch, dtype=np.int64))
        mirror = flips(draws) if self._augmentation.flip else np.zeros(micro_batch, dtype=np.bool_)
        if self._augmentation.crop == "none":
            return self._centre_request(self._train, draws.ids, mirror)
        windows = crop_windows(draws, self._train.sizes[draws.ids], self._augmentation)
        return _request(self._train, draws.ids, windows, mirror)

    def _centre_request(self, index: DatasetIndex, ids: NDArray[np.int64], mirror: NDArray[np.bool_]) -> Request:
        return _request(index, ids, centre_crops(index.sizes[ids], self.image_size), mirror)

    def _labelled(
        self, index: DatasetIndex, queue: DecodingQueue, requests: Iterator[Request]
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        # Started here and not in the generator below, whose body runs only once somebody asks for a batch.
        decoded = queue.start(requests)

        def batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
            try:
                for ids, images in decoded:
                    yield images, torch.from_numpy(index.labels[ids]).to(self._device)
            except DecodingFailed as failure:
                raise undecodable_files(index, failure.ids, str(failure)) from failure

        return batches()


def load_images(index: DatasetIndex, threads: int) -> LabelledImages:
    """All images of the index decoded into memory; they have to be of one size, and small.

    Raises DataError if they are not of one size, do not fit into memory, or cannot be decoded.
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
    placement = Placement(torch.device("cpu"), decode_on_gpu=False)
    queue = DecodingQueue(whole_graph(), placement, max_batch=_LOADED_AT_ONCE, threads=threads, prefetch=2)
    chunks = (np.arange(i, min(i + _LOADED_AT_ONCE, len(index))) for i in range(0, len(index), _LOADED_AT_ONCE))
    try:
        for ids, decoded in queue.start(Request(ids, (_paths(index, ids),)) for ids in chunks):
            images[ids] = decoded.numpy()
    except DecodingFailed as failure:
        raise undecodable_files(index, failure.ids, str(failure)) from failure
    finally:
        queue.close()
    return LabelledImages(images, index.labels, index.class_names, index.digest)


def _request(
    index: DatasetIndex,
    ids: NDArray[np.int64],
    windows: tuple[NDArray[np.int32], NDArray[np.int32]],
    mirror: NDArray[np.bool_],
) -> Request:
    corners, shapes = windows
    return Request(ids, (_paths(index, ids), corners, shapes, mirror.astype(np.int32)))


def _paths(index: DatasetIndex, ids: NDArray[np.int64]) -> list[NDArray[np.uint8]]:
    return [np.frombuffer(index.path_bytes(sample), dtype=np.uint8) for sample in ids]
