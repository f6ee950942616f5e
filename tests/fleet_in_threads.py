"""A fleet whose workers are threads of one process: for what workers say to each other, without the seconds that real
launchers take. Sums and broadcasts are real; only the network is missing."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import TypeVar

import torch

from trainer.collective.board import Board, MemoryBoard

T = TypeVar("T")
_TIMEOUT_S = 20  # a worker that waits for one that left would wait for ever


class ThreadCollective:
    """One worker of a fleet in threads."""

    name = "threads"
    gradient_divisor = 1
    largest_gradient = math.inf
    overlaps_backward = meets_in_backward = False

    def __init__(
        self, rank: int, world_size: int, meeting: threading.Barrier, table: list[torch.Tensor | None], board: Board
    ) -> None:
        self.rank, self.world_size, self.local_rank = rank, world_size, rank
        self._meeting, self._table, self.board = meeting, table, board
        self._parameters = []

    def wrap(self, model, wire=None):
        for tensor in model.state_dict().values():
            self.broadcast(tensor)
        self._parameters = list(model.parameters())
        return model

    def micro_step(self, last):
        return nullcontext()

    def finish_gradients(self):
        for parameter in self._parameters:
            self.all_reduce(parameter.grad)

    def all_reduce(self, tensor):
        return tensor.copy_(sum(self._share(tensor)))

    def all_reduce_later(self, tensor):
        self.all_reduce(tensor)
        return lambda: tensor

    def broadcast(self, tensor, source_rank=0):
        return tensor.copy_(self._share(tensor)[source_rank])

    def _share(self, tensor):
        """Everybody's tensor."""
        self._table[self.rank] = tensor.clone()
        self._meeting.wait(_TIMEOUT_S)
        everybodys = list(self._table)
        self._meeting.wait(_TIMEOUT_S)
        return everybodys


def run_fleet(world_size: int, work: Callable[[ThreadCollective], T]) -> list[T]:
    """What `work` returned on each worker; raises the first worker's error, if any."""
    shared = threading.Barrier(world_size), [None] * world_size, MemoryBoard()
    with ThreadPoolExecutor(world_size) as pool:
        futures = [pool.submit(work, ThreadCollective(rank, world_size, *shared)) for rank in range(world_size)]
    return [future.result() for future in futures]
