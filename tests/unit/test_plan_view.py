"""What a plan says beside its table."""

from __future__ import annotations

import pytest

from trainer.cli.planning.view import plan_notes
from trainer.config import load_config
from trainer.rule import plan_run

pytestmark = pytest.mark.unit


def notes(preset, *overrides, workers=1):
    config = load_config(preset, overrides)
    return plan_notes(config, plan_run(config.rule_schedule(config.data.train_size), workers))


def test_nothing_is_noted_where_the_numbers_say_it_all():
    assert notes("digits-decay-lr") == []


def test_a_momentum_that_lags_is_noted_with_its_time_scale_and_its_epochs():
    # B / (N (1-m)) = 144 / (1440 x 0.1)
    assert notes("digits-increase-batch", workers=2) == [
        "momentum 0.9 at batch 144 follows a change over 1 epoch, which may cost accuracy (slow in epochs 15-19, "
        "20-23): a lower momentum or batch is faster"
    ]


def test_a_momentum_may_lag_longer_in_a_longer_phase_but_never_more_than_an_epoch():
    def constant(momentum):
        # 0.1 / (1-m) epochs, in a run of 24
        overrides = [
            "schedule.curve={shape: constant}",
            "schedule.reference.global_batch=144",
            f"schedule.reference.momentum={momentum}",
        ]
        return notes("digits-decay-lr", *overrides)

    assert constant(0.9) == []
    assert "over 1.11 epochs" in constant(0.91)[0]


def test_micro_batches_that_cut_the_ghost_batch_are_noted():
    (note,) = notes("digits-decay-lr", "model.ghost_batch=10")
    assert note.endswith("normalised in equal parts: 16 as 2 of about 8")


def test_the_constants_of_adam_are_noted_under_the_square_root_rule():
    overrides = ["optimizer.name=adam", "schedule.form=square_root", "schedule.reference.lr=0.001"]
    # divided by 3: batch x 9, beta2 = 1 - 9 x 0.001, eps / 3
    assert notes("digits-hybrid", *overrides)[-1].endswith(
        "beta2 and eps at batch 16: 0.999, 1e-08; 144: 0.991, 3.33e-09"
    )


def test_a_warm_up_is_noted():
    assert notes("digits-decay-lr", "schedule.warmup.epochs=2")[-1] == (
        "lr grows from 0.1 of itself over the first 2 epochs"
    )
