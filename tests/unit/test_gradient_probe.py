"""Which updates are probed, where a micro-batch is cut for it, and what becomes of what the workers caught."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from torch import nn

from tests.fleet_in_threads import run_fleet
from trainer.collective.local import LocalCollective
from trainer.engine.gradient_probe import ProbePlan, Probing
from trainer.models.ghost_batch_norm import GhostBatchNorm, middle_border
from trainer.models.ghost_normalise import cut
from trainer.rule import BatchPlan, NoiseAverages

pytestmark = pytest.mark.unit

GHOSTS = nn.Sequential(nn.Linear(2, 4), GhostBatchNorm(4, 4), nn.ReLU(), GhostBatchNorm(4, 4))
WITHOUT = nn.Linear(2, 2)


@pytest.mark.parametrize(
    ("samples", "border"),
    [
        (16, 8),
        (12, 4),  # 4 4 4
        (9, 5),  # 5 4
        (22, 8),  # 4 4 4 4 3 3: behind 12 the other 10 would be 5 5
        (4, None),  # one ghost batch
        (5, None),
    ],
)
def test_a_micro_batch_is_cut_at_a_border_of_ghost_batches_next_to_its_middle(samples, border):
    assert middle_border(GHOSTS, samples) == border


def test_wherever_a_micro_batch_is_cut_its_ghost_batches_stay_as_they_were():
    for ghost_batch, samples in product((1, 2, 3, 4, 7, 8, 32, 64), range(1, 300)):
        border = middle_border(GhostBatchNorm(4, ghost_batch), samples)
        whole = cut(samples, ghost_batch)
        if border is not None:
            assert cut(border, ghost_batch) + cut(samples - border, ghost_batch) == whole
            assert len(whole) < 8 or abs(border / samples - 0.5) < 0.2
        else:
            # 3 and 2 by 2: the 3 would be 2 and 1 by themselves
            assert len(whole) == 1 or (samples, ghost_batch) == (5, 2)


def test_without_batch_norm_a_micro_batch_is_cut_in_the_middle_and_plain_batch_norm_cannot_be_cut():
    assert [middle_border(WITHOUT, samples) for samples in (1, 2, 9)] == [None, 1, 4]
    for other in (nn.BatchNorm1d(4), GhostBatchNorm(4, 8)):
        assert middle_border(nn.Sequential(GHOSTS, other), 64) is None


def probed(plan, every, updates=12, model=WITHOUT):
    probing = Probing.of(model, ProbePlan(every), plan, 1000, 1.0)
    return [update for update in range(updates) if probing.probe(update) is not None]


def test_every_so_many_updates_are_probed_and_of_several_micro_batches_every_so_many_of_those():
    assert probed(BatchPlan(8, 1, 1), 5) == probed(BatchPlan(8, 1, 2), 5) == [0, 5, 10]
    assert probed(BatchPlan(8, 2, 2), 5) == [0, 2, 4, 6, 8, 10]
    assert probed(BatchPlan(8, 6, 1), 5) == list(range(12))
    assert probed(BatchPlan(8, 1, 2), None) == []


def test_where_no_two_parts_of_an_update_tell_anything_none_is_probed():
    assert probed(BatchPlan(4, 1, 1), 5, model=GHOSTS) == []  # one ghost batch
    assert probed(BatchPlan(8, 1, 1), 5, model=GHOSTS) == [0, 5, 10]
    assert probed(BatchPlan(4, 2, 1), 5, model=GHOSTS) == [0, 2, 4, 6, 8, 10]
    assert probed(BatchPlan(16, 1, 1), 5, model=nn.BatchNorm1d(4)) == []
    deaf = Probing.of(GHOSTS, ProbePlan(5), BatchPlan(4, 1, 1), 1000, 1.0)
    assert deaf.add(NoiseAverages(), [], LocalCollective()) == NoiseAverages()


def test_a_probe_is_of_trained_parameters_and_of_every_micro_batch_or_of_the_two_parts_of_one():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).requires_grad_(False))
    whole = Probing.of(model, ProbePlan(1), BatchPlan(8, 3, 2), 1000, 1.0).probe(0)
    assert (whole.parts, whole.cut, list(whole.parameters)) == (3, None, list(model[0].parameters()))
    part = Probing.of(model, ProbePlan(1), BatchPlan(9, 1, 1), 1000, 1.0).probe(0)
    assert (part.parts, part.cut) == (2, 4)


def squares_of(noise, plan, *parts):
    """What a worker reads of an update whose squares are as on average: |G|^2 + tr(S) (1/b - 1/N), of parts of so many
    samples and of all."""
    trace, squared_norm = noise
    *small, large = (squared_norm + trace * (1 / batch - 1 / 1000) for batch in (*parts, plan.global_batch))
    return sum(small) / len(small), large


def test_the_averages_take_up_what_was_read_for_as_many_samples_as_it_stands_for():
    plan = BatchPlan(20, 1, 1)
    probing = Probing.of(WITHOUT, ProbePlan(5, memory_epochs=2.0), plan, 1000, 1.0)
    noise = probing.add(NoiseAverages(), [squares_of((6.0, 0.25), plan, 10)] * 9, LocalCollective())
    estimate = noise.estimate()
    assert (estimate.trace, estimate.squared_norm) == pytest.approx((6.0, 0.25), rel=1e-12)
    assert estimate.error == pytest.approx(0.0, abs=1e-5)
    # each stands for five updates of 20, and fades over two epochs of 1000
    assert noise.weight == pytest.approx(2000 * (1 - math.exp(-900 / 2000)))


def test_parts_of_different_sizes_tell_the_same_as_equal_ones():
    plan = BatchPlan(12, 1, 1)
    probing = Probing.of(GHOSTS, ProbePlan(1), plan, 1000, 1.0)  # 4 and 8
    noise = probing.add(NoiseAverages(), [squares_of((6.0, 0.25), plan, 4, 8)] * 9, LocalCollective()).estimate()
    assert (noise.trace, noise.squared_norm) == pytest.approx((6.0, 0.25), rel=1e-12)


def test_a_measurement_that_is_not_finite_is_left_out():
    plan = BatchPlan(20, 1, 1)
    probing = Probing.of(WITHOUT, ProbePlan(5), plan, 1000, 1.0)
    good = squares_of((6.0, 0.25), plan, 10)
    before = probing.add(NoiseAverages(), [good], LocalCollective())
    for bad in ((math.inf, 1.0), (math.nan, 1.0), (1.0, math.inf), (1e300, 1.0)):
        assert probing.add(before, [bad], LocalCollective()) == before
    assert probing.add(before, [good, (math.nan, 1.0), good], LocalCollective()) != before


def test_of_several_workers_the_mean_of_their_squares_is_taken_and_all_hold_the_same():
    plan = BatchPlan(20, 2, 2)
    small, large = squares_of((6.0, 0.25), plan, 20)

    def work(collective):
        probing = Probing.of(WITHOUT, ProbePlan(10), plan, 1000, 1.0)
        mine = small * (0.5 + collective.rank), large
        return probing.add(NoiseAverages(), [mine] * 9, collective)

    both = run_fleet(2, work)
    assert both[0] == both[1]
    estimate = both[0].estimate()
    assert (estimate.trace, estimate.squared_norm) == pytest.approx((6.0, 0.25), rel=1e-12)


def test_what_a_fleet_divides_its_sums_by_is_taken_out_again():
    probe = Probing.of(WITHOUT, ProbePlan(1), BatchPlan(20, 1, 2), 1000, gradient_divisor=2048.0).probe(0)
    inputs = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))
    with probe.listening():
        (WITHOUT(inputs).square().sum() * 2048.0 / 40).backward()
    probe.end_of_part(20)
    gradients = torch.autograd.grad(WITHOUT(inputs).square().sum() / 20, list(WITHOUT.parameters()))
    ((norm, factor),) = probe.caught
    assert factor * float(norm) ** 2 == pytest.approx(sum(float(g.square().sum()) for g in gradients), rel=1e-5)
