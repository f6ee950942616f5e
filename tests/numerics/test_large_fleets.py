"""Fleets of 256 to 4,096 workers in one process: what every rank would read, and what every rank would hear.

The same functions as in training: the coordinator's walk over a run, each rank's shard, and the decision as text.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from dali_pipelines.sample_order import Shard, micro_batch_starts, sample_ids
from trainer.config import load_config
from trainer.rule import EpochDecision, Fleet, FleetStep, Limits, NoiseCurve, NoiseDrop, Reference, Schedule
from trainer.rule.run_plan import walk

pytestmark = pytest.mark.numerics

IMAGENET = 1_281_167
HALF_THEN_WHOLE = load_config("imagenet-rn50-8192-16384").rule_schedule(IMAGENET)
COSINE = replace(
    HALF_THEN_WHOLE,
    curve=NoiseCurve("cosine"),
    epochs=20.5,
    limits=Limits(max_micro_batch=48, max_global_batch=65_536),
)


def positions_of_an_update(decision, start):
    """Positions that all ranks together read in the update that begins at `start`, rank by rank."""
    plan = decision.plan
    runs = [
        first + np.arange(plan.micro_batch)
        for rank in range(plan.world_size)
        for first in micro_batch_starts(
            Shard(rank, plan.world_size, plan.micro_batch, plan.accumulation_steps, start, start + plan.global_batch)
        )
    ]
    return np.concatenate(runs)


FLEETS = [
    Fleet.of(256),
    Fleet.of(1000),  # divides neither batch
    Fleet.of(4096),
    Fleet((FleetStep(0, 256), FleetStep(7, 512), FleetStep(13, 300), FleetStep(30, 4096))),
]


@pytest.mark.parametrize("fleet", FLEETS, ids=str)
@pytest.mark.parametrize("schedule", [HALF_THEN_WHOLE, COSINE], ids=["steps", "cosine"])
def test_every_position_of_an_update_is_read_by_exactly_one_rank_also_at_borders(schedule, fleet):
    expected_start = 0
    for decision, start, updates in walk(schedule, fleet):
        batch = decision.plan.global_batch
        assert decision.plan.world_size == fleet.workers_at(decision.epoch)
        assert start == expected_start, "the stream has a gap between two epochs"
        expected_start = start + updates * batch
        # The first update of an epoch and its last one, which may reach into the next epoch.
        for first in {start, expected_start - batch}:
            read = np.sort(positions_of_an_update(decision, first))
            np.testing.assert_array_equal(read, np.arange(first, first + batch))
    last_batch = decision.plan.global_batch
    assert 0 <= schedule.total_samples - expected_start < last_batch, "the run ends when no whole update is left"


@pytest.mark.parametrize("workers", [256, 4096])
def test_every_sample_is_seen_once_an_epoch_by_a_fleet_that_changes_in_between(workers):
    size = 20_480
    curve = NoiseCurve("steps", drops=(NoiseDrop(1, 2, "batch"), NoiseDrop(2, 1.5, "batch")))
    schedule = Schedule(Reference(0.1, 4096), Limits(2, 8192), size, 3, curve)
    fleet = Fleet((FleetStep(0, workers), FleetStep(1, workers // 3), FleetStep(2, workers)))
    read = [
        positions_of_an_update(decision, start + update * decision.plan.global_batch)
        for decision, start, updates in walk(schedule, fleet)
        for update in range(updates)
    ]
    positions = np.sort(np.concatenate(read))
    np.testing.assert_array_equal(positions, np.arange(len(positions)))
    assert 3 * size - len(positions) < 8192
    for epoch in range(len(positions) // size):
        ids = sample_ids(7, size, positions[epoch * size : (epoch + 1) * size])
        np.testing.assert_array_equal(np.bincount(ids, minlength=size), np.ones(size))


@pytest.mark.parametrize("fleet", FLEETS, ids=str)
def test_what_every_rank_hears_of_a_decision_is_what_rank_0_decided_to_the_last_bit(fleet):
    decisions = [decision for decision, _, _ in walk(COSINE, fleet)]
    heard = [EpochDecision.from_json(decision.to_json()) for decision in decisions]
    assert heard == decisions
    assert [decision.digest() for decision in heard] == [decision.digest() for decision in decisions]
    assert len({decision.digest() for decision in heard}) == len(decisions), "no two epochs have the same decision"


@pytest.mark.parametrize("schedule", [HALF_THEN_WHOLE, COSINE], ids=["steps", "cosine"])
def test_the_noise_scale_stays_on_its_curve_through_every_change_of_fleet(schedule):
    by_fleet = [{decision.epoch: decision for decision, _, _ in walk(schedule, fleet)} for fleet in FLEETS]
    for one, other in itertools.pairwise(by_fleet):
        for epoch in one.keys() & other.keys():
            assert one[epoch].target_sgd_noise_scale == other[epoch].target_sgd_noise_scale
            assert one[epoch].sgd_noise_scale == pytest.approx(one[epoch].target_sgd_noise_scale, rel=1e-12)
