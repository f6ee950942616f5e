"""Which sample stands at which position of the stream, and which positions a worker reads.

The stream never ends: epoch e is positions [e*N, (e+1)*N), a permutation of the N samples that depends on (seed, e)
alone. Nothing here has a history, so any fleet, any batch size and any restart read the same stream.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Shard:
    """What one worker reads of the positions [start, end).

    Update u covers the global_batch positions from start + u * global_batch; in it the j-th micro-batch of worker
    `rank` is positions p + (j * world_size + rank) * micro_batch + [0, micro_batch), p the first of the update.
    Sizes are in samples.
    """

    rank: int
    world_size: int
    micro_batch: int
    accumulation_steps: int
    start: int
    end: int

    def __post_init__(self) -> None:
        assert 0 <= self.rank < self.world_size, f"rank {self.rank} is outside a world of {self.world_size}"
        assert min(self.micro_batch, self.accumulation_steps) > 0, "a batch holds at least one sample"
        assert 0 <= self.start <= self.end, f"positions {self.start} to {self.end} run backwards"
        assert (self.end - self.start) % self.global_batch == 0, (
            f"{self.end - self.start} positions are no whole number of updates of {self.global_batch}"
        )

    @property
    def global_batch(self) -> int:
        """Samples of one update over all workers."""
        return self.micro_batch * self.accumulation_steps * self.world_size

    @property
    def updates(self) -> int:
        """Updates between start and end."""
        return (self.end - self.start) // self.global_batch


def micro_batch_starts(shard: Shard) -> Iterator[int]:
    """First position of every micro-batch of the shard, in the order in which the worker reads them."""
    stride = shard.micro_batch * shard.world_size
    for update in range(shard.start, shard.end, shard.global_batch):
        for step in range(shard.accumulation_steps):
            yield update + step * stride + shard.rank * shard.micro_batch


def sample_ids(seed: int, dataset_size: int, positions: NDArray[np.int64]) -> NDArray[np.int64]:
    """Samples at the given positions of the stream, which may lie in different epochs.

    seed in [0, 2**64); dataset_size N in samples; positions (n,) int64 >= 0. Returns ids (n,) int64 in [0, N).
    """
    epochs, offsets = np.divmod(positions, dataset_size)
    ids = np.empty_like(positions)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        ids[here] = _permutation(seed, int(epoch), dataset_size)[offsets[here]]
    return ids


# Two are kept because an update may lie across the border of two epochs; each takes 4 bytes a sample, or fewer.
@lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, dataset_size: int) -> NDArray[np.unsignedinteger]:
    # Philox is counter-based: its key alone fixes the sequence (Salmon et al. 2011, doi:10.1145/2063384.2063405).
    generator = np.random.Generator(np.random.Philox(key=np.array([seed, epoch], dtype=np.uint64)))
    # The order that generator.permutation(dataset_size) gives, in half the memory.
    order = np.arange(dataset_size, dtype=np.min_scalar_type(dataset_size))
    generator.shuffle(order)
    order.setflags(write=False)
    return order


def evaluation_range(rank: int, world_size: int, dataset_size: int) -> tuple[int, int]:
    """Samples [first, last) that this worker evaluates: over all workers each sample once; may be empty."""
    assert 0 <= rank < world_size, f"rank {rank} is outside a world of {world_size}"
    return rank * dataset_size // world_size, (rank + 1) * dataset_size // world_size


def largest_evaluation_share(world_size: int, dataset_size: int) -> int:
    """Samples of the worker that evaluates the most."""
    return -(-dataset_size // world_size)


def evaluation_batches(rank: int, world_size: int, micro_batch: int, dataset_size: int) -> Iterator[NDArray[np.int64]]:
    """This worker's samples in batches of micro_batch; the last one may be short."""
    first, last = evaluation_range(rank, world_size, dataset_size)
    for start in range(first, last, micro_batch):
        yield np.arange(start, min(start + micro_batch, last), dtype=np.int64)
