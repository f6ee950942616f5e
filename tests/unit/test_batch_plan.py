"""How a global batch is cut up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.rule import BatchPlan, PlanError, fit_batch

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("at_most", "workers", "max_micro_batch", "ghost", "plan"),
    [
        (128, 1, 256, None, BatchPlan(128, 1, 1)),
        (640, 1, 256, None, BatchPlan(160, 4, 1)),  # 3 would give 639, 4 is exact
        (130, 1, 64, None, BatchPlan(26, 5, 1)),  # 3 gives 129, 4 gives 128, 5 is exact
        (131, 1, 64, None, BatchPlan(26, 5, 1)),  # a prime: 3 to 6 parts hold 129, 128, 130, 126
        (640, 1, 256, 128, BatchPlan(128, 5, 1)),  # 4 and 5 are exact, and 128 is a ghost batch
        (5120, 2, 256, 128, BatchPlan(256, 10, 2)),
        (65_536, 256, 32, 32, BatchPlan(32, 8, 256)),
        (100, 3, 64, None, BatchPlan(33, 1, 3)),  # 100 is no multiple of 3: one sample is left out
        (256, 256, 32, None, BatchPlan(1, 1, 256)),
    ],
)
def test_batches_are_cut_as_on_paper(at_most, workers, max_micro_batch, ghost, plan):
    assert fit_batch(at_most, workers, max_micro_batch, ghost) == plan


@given(
    at_most=st.integers(1, 200_000),
    workers=st.integers(1, 4096),
    max_micro_batch=st.integers(1, 4096),
    ghost=st.none() | st.integers(2, 512),
)
def test_a_cut_stays_within_its_limits_and_loses_less_than_one_sample_a_part(at_most, workers, max_micro_batch, ghost):
    if workers > at_most:
        with pytest.raises(PlanError, match=f"{workers} workers cannot share a global batch of {at_most} samples"):
            fit_batch(at_most, workers, max_micro_batch, ghost)
        return
    plan = fit_batch(at_most, workers, max_micro_batch, ghost)
    fewest = -(-(at_most // workers) // max_micro_batch)
    assert 1 <= plan.micro_batch <= max_micro_batch
    assert fewest <= plan.accumulation_steps <= 2 * fewest
    assert at_most - plan.global_batch < workers * plan.accumulation_steps + workers
    assert plan.global_batch <= at_most


@given(st.integers(1, 4096), st.integers(1, 64), st.integers(1, 64))
def test_a_batch_that_can_be_cut_exactly_near_the_fewest_steps_is(micro_batch, accumulation_steps, workers):
    batch = micro_batch * accumulation_steps * workers
    assert fit_batch(batch, workers, micro_batch).global_batch == batch
