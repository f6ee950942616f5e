"""The queue that keeps a DALI pipeline busy ahead of its reader, with batches of any size and nothing rebuilt."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dali_pipelines.errors import DataError
from dali_pipelines.graphs import Graph, Placement


@dataclass(frozen=True, slots=True)
class Request:
    """One micro-batch to decode: what it was asked for by, (n,) int64 with n >= 1, the samples whose files are decoded,
    (n,) int64, and what is known of them: columns of n entries, some of which the graph is fed."""

    keys: NDArray[np.int64]
    ids: NDArray[np.int64]
    columns: Mapping[str, Any]


class DecodingFailed(RuntimeError):
    """DALI gave up on a sample of these requests, none of which was delivered; it does not say on which."""

    def __init__(self, requests: tuple[Request, ...], reason: str) -> None:
        super().__init__(reason)
        self.requests = requests


class DecodingQueue:
    """A DALI pipeline that works ahead of its reader by `prefetch` micro-batches."""

    def __init__(self, graph: Graph, placement: Placement, *, max_batch: int, threads: int, prefetch: int) -> None:
        self._graph = graph
        self._placement = placement
        self._max_batch = max_batch
        self._threads = threads
        self._prefetch = prefetch
        self._requests: Iterator[Request] = iter(())
        self._in_flight: deque[Request] = deque()
        self._stream = 0
        self._pipeline: Any = None

    def start(self, requests: Iterator[Request]) -> Iterator[tuple[Request, Any]]:
        """Begin to decode now; the iterator yields (request, what the graph delivers) in the order of the requests.

        Ends the stream that was started before, whether or not it was read to its end. DALI does not write to the
        memory of what is delivered before the reader drops it (on a GPU: drops it after the device has read it, see
        transfer.LentMemory). Reading raises DecodingFailed, after which the rest of the requests may be started as a
        new stream. A DataError that the requests raise ends the stream.
        """
        self._requests = iter(())
        while self._in_flight:
            try:
                self._take()
            except DecodingFailed:  # of a batch that nobody waits for any more
                break
        if self._pipeline is None:
            self._pipeline = self._build()
        # DALI takes up a new stream only after it has met the end of the last one by itself.
        self._schedule()
        self._pipeline.reset()
        self._requests = requests
        self._stream += 1
        self._schedule()
        return self._read(self._stream)

    def close(self) -> None:
        """Stop and forget the pipeline, and end the stream; the next start makes a new one."""
        self._stream += 1
        self._pipeline = None
        self._in_flight.clear()

    def _read(self, stream: int) -> Iterator[tuple[Request, Any]]:
        while True:
            assert stream == self._stream, "this stream is over: a newer one was started, or the queue closed"
            if not self._in_flight:
                return
            yield self._take()

    def _take(self) -> tuple[Request, Any]:
        assert self._pipeline is not None, "the queue is closed"
        device = self._placement.device
        # On a GPU the stream that reads the outputs waits for them, not the host.
        reader = torch.cuda.current_stream(device) if device.type == "cuda" else None
        try:
            (output,) = self._pipeline.share_outputs(reader)
            delivered = self._graph.receive(output)
            self._pipeline.release_outputs()
            self._schedule()
        except RuntimeError as error:
            # The error may be about any batch in flight, and the pipeline object is dead.
            in_flight = tuple(self._in_flight)
            self.close()
            # Without the traceback, which would keep the dead pipeline and its memory until the error is forgotten.
            raise DecodingFailed(in_flight, _reason(error)) from error.with_traceback(None)
        return self._in_flight.popleft(), delivered

    def _schedule(self) -> None:
        try:
            self._pipeline.schedule_run()
        except DataError:  # of the requests: the pipeline would wait for them for ever
            self.close()
            raise

    def _next_inputs(self) -> tuple[object, ...]:
        request = next(self._requests)  # its StopIteration is how DALI learns that a stream ends
        assert 0 < len(request.ids) <= self._max_batch, f"a batch has 1 to {self._max_batch} samples"
        self._in_flight.append(request)
        return tuple(request.columns[name] for name in self._graph.inputs)

    def _build(self) -> Any:
        from nvidia.dali import fn
        from nvidia.dali.pipeline import Pipeline

        pipeline = Pipeline(
            batch_size=self._max_batch,
            num_threads=self._threads,
            device_id=self._placement.device_id,
            prefetch_queue_depth=self._prefetch,
        )
        with pipeline:
            fed = fn.external_source(source=self._next_inputs, num_outputs=len(self._graph.inputs), batch=True)
            pipeline.set_outputs(self._graph.build(fed))
        pipeline.build()
        return pipeline


def _reason(error: RuntimeError) -> str:
    """DALI's own words out of its long message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    after = lines[lines.index("encountered:") + 1 :] if "encountered:" in lines else lines
    return after[0] if after else "no reason given"
