"""Runs killed at random moments end as if nobody had touched them; `make faults` does it fifty times."""

from __future__ import annotations

import random

import pytest
import torch

from tests.kills import Fleet, difference, finish, kill_and_go_on
from tests.launching import needs_horovod

pytestmark = pytest.mark.integration

ALONE = Fleet("alone", 1)


@pytest.fixture(scope="module")
def untouched(tmp_path_factory):
    return finish(tmp_path_factory.mktemp("untouched"), ALONE)


def test_one_worker_killed_again_and_again_ends_with_the_same_bits(tmp_path, untouched):
    log, weights, _ = untouched
    ended = kill_and_go_on(tmp_path, [ALONE] * 4, within_s=6, random=random.Random(1))
    assert ended.kills
    assert difference(ended.log, log) == 0.0
    for name, tensor in weights.items():
        assert torch.equal(ended.weights[name], tensor), name


@pytest.mark.parametrize(
    "fleets",
    [
        [Fleet("torchrun", 2), ALONE],
        pytest.param([Fleet("horovodrun", 2), Fleet("torchrun", 4)], marks=[needs_horovod, pytest.mark.long]),
    ],
    ids=lambda fleets: ", ".join(map(str, fleets)),
)
def test_a_fleet_that_was_killed_is_followed_by_another(tmp_path, untouched, fleets):
    ended = kill_and_go_on(tmp_path, fleets, within_s=8, random=random.Random(2))
    # float32 sums in another order: differences of 1e-7 grow over 135 updates, at the kinks of ReLU and pooling most
    assert difference(ended.log, untouched[0]) < 1e-3
