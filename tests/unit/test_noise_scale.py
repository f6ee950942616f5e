"""The noise scale and its inverses, against arithmetic on paper and the paper's own numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.rule import (
    PlanError,
    global_batch_for_sgd_noise_scale,
    lr_for_sgd_noise_scale,
    momentum_epochs,
    momentum_for_sgd_noise_scale,
    sgd_noise_scale,
)

pytestmark = pytest.mark.unit

FORMS = ["large_dataset", "exact"]


@pytest.mark.parametrize(
    ("lr", "batch", "size", "momentum", "large", "exact"),
    [
        (0.1, 128, 50_000, 0.9, 390.625, 389.625),  # 0.1/0.1 * 50000/128 = 390.625; minus 1/1 of lr/(1-m) = 1
        (0.1, 640, 50_000, 0.9, 78.125, 77.125),
        (3.0, 8192, 1_281_167, 0.9, 30 * 1_281_167 / 8192, 30 * (1_281_167 / 8192 - 1)),
        (1.0, 1, 10, 0.0, 10.0, 9.0),
    ],
)
def test_both_forms_agree_with_arithmetic_on_paper(lr, batch, size, momentum, large, exact):
    assert sgd_noise_scale(lr, batch, size, momentum) == pytest.approx(large, rel=1e-14)
    assert sgd_noise_scale(lr, batch, size, momentum, "exact") == pytest.approx(exact, rel=1e-14)


def test_dropping_the_minus_one_errs_by_b_over_n():
    large = sgd_noise_scale(0.1, 16_000, 50_000, 0.9)
    exact = sgd_noise_scale(0.1, 16_000, 50_000, 0.9, "exact")
    assert 1 - exact / large == pytest.approx(0.32, rel=1e-12)  # 32 % at B = 16,000 on CIFAR-10


@given(
    form=st.sampled_from(FORMS),
    size=st.integers(2, 2_000_000),
    share=st.floats(1e-6, 0.99),
    lr=st.floats(1e-6, 100),
    momentum=st.floats(0, 0.999),
)
def test_each_inverse_undoes_the_noise_scale(form, size, share, lr, momentum):
    batch = share * size
    g = sgd_noise_scale(lr, batch, size, momentum, form)
    assert lr_for_sgd_noise_scale(g, batch, size, momentum, form) == pytest.approx(lr, rel=1e-12)
    assert global_batch_for_sgd_noise_scale(g, lr, size, momentum, form) == pytest.approx(batch, rel=1e-9)
    # 1e-9: N/B - 1 loses digits where B is near N
    assert 1 - momentum_for_sgd_noise_scale(g, lr, batch, size, form) == pytest.approx(1 - momentum, rel=1e-9)


def test_a_full_batch_has_no_noise():
    assert sgd_noise_scale(0.1, 1000, 1000, 0.9, "exact") == 0
    with pytest.raises(PlanError, match="has no noise in the exact form: choose a smaller batch"):
        lr_for_sgd_noise_scale(1.0, 1000, 1000, 0.9, "exact")


def test_momentum_cannot_take_noise_away():
    with pytest.raises(PlanError, match="even without momentum: lower lr or raise the batch"):
        momentum_for_sgd_noise_scale(1.0, lr=0.1, global_batch=10, dataset_size=1000)


@pytest.mark.parametrize(("batch", "momentum"), [(0, 0.9), (1001, 0.9), (10, 1.0), (10, -0.1)])
def test_impossible_batches_and_momenta_are_refused(batch, momentum):
    with pytest.raises(PlanError):
        sgd_noise_scale(0.1, batch, 1000, momentum)


def test_the_momentum_buffer_follows_within_one_over_one_minus_m_updates():
    # B/(N(1-m)) epochs are 1/(1-m) updates of B samples: 10 at 0.9, 50 at 0.98
    assert momentum_epochs(128, 50_000, 0.9) * 50_000 / 128 == pytest.approx(10)
    assert momentum_epochs(3200, 50_000, 0.98) == pytest.approx(3.2)
