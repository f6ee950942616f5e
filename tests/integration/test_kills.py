"""Runs killed at random moments end as if nobody had touched them; `make faults` does it fifty times."""

from __future__ import annotations

import random

import pytest
import torch

from tests.kills import RUN, Fleet, difference, finish, kill_and_go_on
from tests.launching import needs_horovod
from tests.live_runs import LiveRun
from trainer.tracking import journals_in, read_journal

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


def test_a_journal_that_ends_within_a_line_goes_on_after_the_last_whole_one(tmp_path, untouched):
    with LiveRun(tmp_path, "alone", 1, RUN) as run:
        run.wait_until(run.epochs)
        run.kill_all()
    (journal,) = journals_in(tmp_path)
    with journal.open("ab") as file:
        file.write(b'{"type": "event", "time": 1795402722.5, "kind": "deci')
    assert read_journal(journal).torn_line is not None
    log, _, _ = finish(tmp_path, ALONE)
    assert log.torn_line is None
    assert difference(log, untouched[0]) == 0.0
