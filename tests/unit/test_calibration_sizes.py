"""Which micro-batches a calibration measures."""

from __future__ import annotations

import pytest

from trainer.calibration.all_reduce import message_sizes
from trainer.calibration.errors import CalibrationError
from trainer.calibration.sizes import check_sizes, default_sizes, fed_sizes, parse_sizes
from trainer.config import load_config
from trainer.rule import plan_run

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("largest", "ghost_batch", "sizes"),
    [
        (72, 8, (8, 16, 32, 64, 72)),
        (640, 128, (128, 256, 512, 640)),
        (256, 128, (64, 128, 256)),  # two multiples only: half a ghost batch is one group too
        (128, 128, (32, 64, 128)),
        (256, None, (8, 16, 32, 64, 128, 256)),
        (1000, None, (32, 64, 128, 256, 512, 1000)),
        (3, None, (1, 2, 3)),
        (2, None, (1, 2)),
    ],
)
def test_default_sizes_are_powers_of_two_up_to_the_largest(largest, ghost_batch, sizes):
    assert default_sizes(largest, ghost_batch) == sizes


def test_one_size_is_no_default():
    with pytest.raises(CalibrationError, match="name them with --micro-batches"):
        default_sizes(1, None)


def test_sizes_are_read_in_any_order_and_once():
    assert parse_sizes("32,8,16,8") == (8, 16, 32)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("0", "at least one sample"),
        ("-8,16", "at least one sample"),
        ("8", "two sizes at least"),
        ("8,8", "two sizes at least"),
        ("8,large", "whole numbers"),
        ("", "whole numbers"),
    ],
)
def test_sizes_that_cannot_be_measured_are_refused_with_the_reason(text, reason):
    with pytest.raises(CalibrationError, match=f"^--micro-batches {text}: .*{reason}"):
        parse_sizes(text)


def test_sizes_above_what_fits_are_refused():
    check_sizes((8, 16), 16)
    with pytest.raises(CalibrationError, match=r"^--micro-batches 8,16: at most 15 samples fit"):
        check_sizes((8, 16), 15)


@pytest.mark.parametrize(
    ("preset", "workers", "measured", "sizes"),
    [
        ("digits-increase-batch", 1, (8, 72), (16, 72)),  # 16, 48, 2 x 72; ten epochs at 16
        ("digits-increase-batch", 2, (8, 72), (8, 72)),
        ("digits-increase-batch", 1, (8, 32), (16, 32)),  # nothing larger than was asked for
        ("digits-decay-lr", 1, (8, 72), (8, 16)),  # 16 throughout
    ],
)
def test_images_are_read_in_the_runs_own_sizes(preset, workers, measured, sizes):
    config = load_config(preset)
    assert fed_sizes(plan_run(config.rule_schedule(1440), workers), measured) == sizes


def test_messages_reach_from_a_kibibyte_to_the_gradient():
    # ratios of 8: 1 KiB x 8^5 is 32 MiB
    assert message_sizes(2**25) == [2**10, 2**13, 2**16, 2**19, 2**22, 2**25]
    assert message_sizes(100_000_000)[-2:] == [2**26, 100_000_000]
    small = message_sizes(400)  # a gradient smaller than any message still has its own
    assert (small[0], small[1], small[-1]) == (400, 2**10, 2**16)
    assert all(nbytes % 4 == 0 for nbytes in message_sizes(97_384))
