"""A stream that goes on where an image cannot be read: another one stands in for it, and the file is remembered.

DALI says that a batch failed, not on which file; the error may be about any batch in flight, and its pipeline is dead.
Whether a damaged file can be read may depend on the window that is cut out of it. So an image counts as unreadable
where its very request, decoded alone, fails: then what is shown at a place of the stream depends on that place and on
the files, and not on what was batched with it, on the fleet, or on what a worker met before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dali_pipelines.dataset_index import DatasetIndex
from dali_pipelines.decode_check import examine, fault_of
from dali_pipelines.decoding_queue import DecodingFailed, DecodingQueue, Request
from dali_pipelines.errors import DataError
from dali_pipelines.graphs import Graph, Placement
from dali_pipelines.unreadable import UNREADABLE, UnreadableFiles

MakeRequest = Callable[[NDArray[np.int64], Mapping[int, int]], Request]
"""(keys, stand-ins: the sample to show at a key instead of its own) -> their request."""

LabelRule = Callable[[DatasetIndex, Request], NDArray[np.int64]]

_THREADS_TO_NAME_FILES = 4


def with_stand_ins(keys: NDArray[np.int64], ids: NDArray[np.int64], stand_ins: Mapping[int, int]) -> NDArray[np.int64]:
    """The samples to show at these keys, where ids are asked for."""
    if not stand_ins:
        return ids
    pairs = zip(keys.tolist(), ids.tolist(), strict=True)
    return np.array([stand_ins.get(key, sample) for key, sample in pairs], dtype=np.int64)


def labels_as_shown(index: DatasetIndex, request: Request) -> NDArray[np.int64]:
    """For training: a stand-in comes with its own label."""
    return index.labels[request.ids]


def labels_as_asked(index: DatasetIndex, request: Request) -> NDArray[np.int64]:
    """For evaluation, where keys are samples: UNREADABLE where another image stands in."""
    return np.where(request.ids == request.keys, index.labels[request.ids], UNREADABLE)


class MendingQueue:
    """A decoding queue in which an image that cannot be read is replaced by the next of the index that can be."""

    def __init__(
        self,
        index: DatasetIndex,
        graph: Graph,
        placement: Placement,
        make: MakeRequest,
        files: UnreadableFiles,
        *,
        max_batch: int,
        threads: int,
        prefetch: int,
    ) -> None:
        self._index = index
        self._make = make
        self._files = files
        # Neither builds its DALI pipeline before it is asked for a batch.
        self._queue = DecodingQueue(graph, placement, max_batch=max_batch, threads=threads, prefetch=prefetch)
        self._alone = DecodingQueue(graph, placement, max_batch=1, threads=1, prefetch=1)
        self._suspects: set[int] = set()  # samples that could not be read once

    def start(self, keys: Iterator[NDArray[np.int64]]) -> Iterator[tuple[Request, Any]]:
        """As DecodingQueue.start, for the requests of these keys.

        Raises DataError when more files cannot be read than are allowed, or when images that can be decoded alone
        cannot be decoded together.
        """
        requests = map(self._request, keys)
        return self._read(self._queue.start(requests), requests)

    def close(self) -> None:
        """As DecodingQueue.close."""
        self._queue.close()
        self._alone.close()

    def _read(
        self, decoded: Iterator[tuple[Request, Any]], requests: Iterator[Request]
    ) -> Iterator[tuple[Request, Any]]:
        while True:
            try:
                yield from decoded
            except DecodingFailed as failure:
                decoded = self._queue.start(chain(self._mended(failure), requests))
            else:
                return

    def _request(self, keys: NDArray[np.int64]) -> Request:
        request = self._make(keys, {})
        if self._suspects:  # tried alone first, since each failure among others costs those in flight too
            places = [place for place, sample in enumerate(request.ids.tolist()) if sample in self._suspects]
            return self._with_stand_ins(request, places) if places else request
        return request

    def _mended(self, failure: DecodingFailed) -> list[Request]:
        in_flight = np.concatenate([request.ids for request in failure.requests])
        try:
            mended = [self._with_stand_ins(request, range(len(request.keys))) for request in failure.requests]
        except DataError:
            # The run stops: whatever else is damaged here is better named now than in the next attempt.
            for sample, fault in examine(self._index, in_flight.tolist(), _THREADS_TO_NAME_FILES):
                if fault:
                    self._note(sample, fault)
            raise self._files.too_many() from failure
        if all(np.array_equal(new.ids, old.ids) for new, old in zip(mended, failure.requests, strict=True)):
            raise DataError(
                f"{self._index.path(in_flight[0])} and {len(in_flight) - 1} more images: decoding them together failed "
                f"({failure}), and each of them alone can be decoded: if memory ran out, use smaller micro-batches or "
                "less prefetching"
            ) from failure
        return mended

    def _with_stand_ins(self, request: Request, places: Sequence[int]) -> Request:
        """What the request should show, given that all but these places can be read as they are."""
        asked = self._make(request.keys, {}).ids
        stand_ins = {}
        for place in places:
            key, sample = int(request.keys[place]), int(asked[place])
            if not self._can_be_read(key, sample):
                stand_ins[key] = self._stand_in(key, sample)
        return self._make(request.keys, stand_ins)

    def _stand_in(self, key: int, sample: int) -> int:
        n = len(self._index)
        for other in chain(range(sample + 1, n), range(sample)):
            if self._can_be_read(key, other):
                return other
        raise self._files.too_many()

    def _can_be_read(self, key: int, sample: int) -> bool:
        """Whether this sample, shown at this key, can be decoded alone. Raises DataError where it is one too many."""
        try:
            list(self._alone.start(iter([self._make(np.array([key]), {key: sample})])))
        except DecodingFailed as failure:
            self._suspects.add(sample)
            self._note(sample, fault_of(self._index, sample) or str(failure))
            if self._files.are_too_many:
                raise self._files.too_many() from failure
            return False
        return True

    def _note(self, sample: int, fault: str) -> None:
        self._files.faults.setdefault(self._index.path_bytes(sample).decode(errors="backslashreplace"), fault)
