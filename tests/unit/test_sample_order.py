"""The stream of samples: complete in every epoch, and the same whoever reads it."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterable

import numpy as np
import pytest

from dali_pipelines.sample_order import Shard, evaluation_batches, evaluation_range, micro_batch_starts, sample_ids

pytestmark = pytest.mark.unit

FLEETS = [  # world size, micro-batch, accumulation steps
    (1, 8, 1),
    (2, 4, 1),
    (2, 1, 4),
    (3, 5, 2),
    (7, 3, 1),
    (16, 2, 3),
]


def read_positions(world_size: int, micro_batch: int, accumulation_steps: int, start: int, end: int) -> np.ndarray:
    """What a whole fleet reads, worker after worker."""
    read = [
        np.arange(first, first + micro_batch)
        for rank in range(world_size)
        for first in micro_batch_starts(Shard(rank, world_size, micro_batch, accumulation_steps, start, end))
    ]
    return np.concatenate(read)


def ids_at(positions: Iterable[int], seed: int = 3, dataset_size: int = 100) -> list[int]:
    return sample_ids(seed, dataset_size, np.array(list(positions), dtype=np.int64)).tolist()


@pytest.mark.parametrize(("world_size", "micro_batch", "accumulation_steps"), FLEETS)
def test_a_fleet_reads_every_position_once(world_size, micro_batch, accumulation_steps):
    global_batch = world_size * micro_batch * accumulation_steps
    start, end = 11, 11 + 4 * global_batch
    positions = read_positions(world_size, micro_batch, accumulation_steps, start, end)
    assert sorted(positions) == list(range(start, end))


def test_micro_batches_of_an_update_lie_as_the_docstring_says():
    # p + (j W + r) b with p = 100, 112; W = 2, b = 3, k = 2, r = 1
    assert list(micro_batch_starts(Shard(1, 2, 3, 2, 100, 124))) == [103, 109, 115, 121]


@pytest.mark.parametrize(("world_size", "micro_batch", "accumulation_steps"), FLEETS)
def test_every_sample_comes_once_an_epoch_across_a_change_of_batch_and_fleet(
    world_size, micro_batch, accumulation_steps
):
    dataset_size = 210
    small = 10 * 4  # ten updates of 2 workers x 2 samples
    large = world_size * micro_batch * accumulation_steps
    updates = -(-(2 * dataset_size - small) // large)
    positions = np.concatenate(
        [
            read_positions(2, 2, 1, 0, small),
            read_positions(world_size, micro_batch, accumulation_steps, small, small + updates * large),
        ]
    )
    ids = sample_ids(0, dataset_size, positions)
    for epoch in range(2):
        assert sorted(ids[positions // dataset_size == epoch]) == list(range(dataset_size))


def test_an_update_may_span_several_epochs():
    ids = ids_at(range(5, 5 + 30), dataset_size=10)
    assert sorted(ids[5:15]) == sorted(ids[15:25]) == list(range(10))


def test_epochs_and_seeds_are_different_orders():
    first, second = ids_at(range(100)), ids_at(range(100, 200))
    other_seed = ids_at(range(100), seed=4)
    assert sorted(first) == sorted(second) == sorted(other_seed)
    assert len({tuple(first), tuple(second), tuple(other_seed)}) == 3


def test_the_sample_at_a_position_does_not_depend_on_what_was_read_before():
    forwards = [ids_at([position])[0] for position in range(500)]
    backwards = [ids_at([position])[0] for position in reversed(range(500))]
    assert forwards == backwards[::-1] == ids_at(range(500))


def test_a_sample_may_stand_anywhere():
    # Over 4,000 epochs each of 10 places should hold sample 0 about 400 times; chi-square with 9 degrees of freedom
    # exceeds 33.7 once in 10,000 good generators.
    places = [ids_at(range(10 * epoch, 10 * epoch + 10), dataset_size=10).index(0) for epoch in range(4000)]
    counts = np.bincount(places, minlength=10)
    assert ((counts - 400) ** 2 / 400).sum() < 33.7


def test_the_order_survives_an_upgrade_of_numpy():
    # Recorded with numpy 2.4 on the day the stream was defined: a run that is resumed after an upgrade has to find the
    # same order. If this fails, numpy has changed Generator.permutation, and the stream needs a permutation of its own.
    assert ids_at(range(8), seed=42, dataset_size=8) == [7, 0, 4, 2, 1, 3, 5, 6]


@pytest.mark.parametrize("dataset_size", [1, 2, 255, 256, 257, 65_535, 65_536, 100_000])
def test_the_order_is_that_of_numpys_permutation_whatever_the_width_of_its_numbers(dataset_size):
    generator = np.random.Generator(np.random.Philox(key=np.array([9, 3], dtype=np.uint64)))
    third = range(3 * dataset_size, 4 * dataset_size)
    assert ids_at(third, seed=9, dataset_size=dataset_size) == generator.permutation(dataset_size).tolist()


def test_an_order_takes_four_bytes_a_sample():
    size = 100_000
    tracemalloc.start()
    sample_ids(11, size, np.array([0, 2 * size - 1]))
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 4 * size < peak < 2 * 4 * size + 20_000  # the orders of two epochs
    assert 4 * size < held


@pytest.mark.parametrize("world_size", [1, 2, 3, 7, 64])
@pytest.mark.parametrize("dataset_size", [0, 1, 10, 357])
def test_evaluation_shares_hold_each_sample_once_and_differ_by_at_most_one(world_size, dataset_size):
    ranges = [evaluation_range(rank, world_size, dataset_size) for rank in range(world_size)]
    assert [sample for first, last in ranges for sample in range(first, last)] == list(range(dataset_size))
    lengths = {last - first for first, last in ranges}
    assert max(lengths) - min(lengths) <= 1


def test_evaluation_batches_cover_the_share_and_only_the_last_is_short():
    batches = [batch.tolist() for batch in evaluation_batches(1, 2, 4, 20)]
    assert batches == [[10, 11, 12, 13], [14, 15, 16, 17], [18, 19]]
    assert list(evaluation_batches(0, 3, 4, 2)) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"rank": 2},
        {"micro_batch": 0},
        {"accumulation_steps": 0},
        {"start": 9},
        {"end": 7},
    ],
)
def test_a_shard_that_makes_no_sense_is_a_programmers_error(wrong):
    good = {"rank": 1, "world_size": 2, "micro_batch": 2, "accumulation_steps": 1, "start": 0, "end": 8}
    assert Shard(**good).updates == 2
    with pytest.raises(AssertionError):
        Shard(**good | wrong)
