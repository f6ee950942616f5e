"""A collective that marks its meetings, and the marks of the loop: what a watchdog reads."""

from __future__ import annotations

import inspect
import os
import signal
import subprocess
import sys

import pytest
import torch
from torch import nn

from tests.fleet_in_threads import run_fleet
from trainer.collective.collective import Collective
from trainer.collective.local import LocalCollective
from trainer.collective.neighbours import end, open_neighbours
from trainer.collective.watched import WatchedCollective
from trainer.collective.whereabouts import Whereabouts

pytestmark = pytest.mark.unit


class Overlapping(LocalCollective):
    """As DDP, which adds up gradients while the last backward runs; notes what is marked while it is inside."""

    overlaps_backward = meets_in_backward = True

    def __init__(self, whereabouts):
        super().__init__()
        self._whereabouts, self.seen = whereabouts, []

    def note(self):
        self.seen.append((self._whereabouts.doing, self._whereabouts.is_meeting))

    def all_reduce(self, tensor):
        self.note()
        return tensor

    def broadcast(self, tensor, source_rank=0):
        self.note()
        return tensor

    def all_reduce_later(self, tensor):
        self.note()
        return lambda: self.note() or tensor


@pytest.fixture
def whereabouts():
    return Whereabouts()


@pytest.fixture
def inner(whereabouts):
    return Overlapping(whereabouts)


@pytest.fixture
def collective(inner, whereabouts):
    return WatchedCollective(inner, whereabouts)


def test_a_worker_meets_the_others_inside_a_collective_and_only_there(collective, inner, whereabouts):
    whereabouts.mark("saving")
    collective.all_reduce(torch.ones(1))
    collective.broadcast(torch.ones(1), 3)
    assert inner.seen == [("adding up numbers", True), ("passing on what rank 3 says", True)]
    assert (whereabouts.doing, whereabouts.is_meeting) == ("saving", False)


def test_a_sum_that_travels_beside_the_work_is_a_meeting_when_it_is_waited_for(collective, inner, whereabouts):
    whereabouts.mark("reading images")
    arrived = collective.all_reduce_later(torch.ones(1))
    arrived()
    assert inner.seen == [("reading images", False), ("adding up votes", True)]


def test_the_backward_of_the_last_micro_batch_is_a_meeting_where_gradients_travel_in_it(collective, whereabouts):
    module = collective.wrap(nn.Linear(1, 1))
    seen = []
    for last in (False, True):
        with collective.micro_step(last):
            seen.append((whereabouts.doing, whereabouts.is_meeting))
            module(torch.ones(1, 1)).sum().backward()
            seen.append((whereabouts.doing, whereabouts.is_meeting))
    computing, meeting = ("computing", False), ("adding up gradients", True)
    assert seen == [computing, computing, computing, meeting]
    collective.finish_gradients()
    assert (whereabouts.doing, whereabouts.is_meeting) == computing


def test_where_gradients_travel_afterwards_the_backward_is_the_workers_own(whereabouts):
    collective = WatchedCollective(LocalCollective(), whereabouts)
    module = collective.wrap(nn.Linear(1, 1))
    with collective.micro_step(True):
        module(torch.ones(1, 1)).sum().backward()
        assert not whereabouts.is_meeting


def test_an_error_leaves_the_mark_of_where_it_came_from(collective, inner, whereabouts):
    def fail(tensor):
        raise RuntimeError("connection reset")

    inner.all_reduce = fail
    with pytest.raises(RuntimeError):
        collective.all_reduce(torch.ones(1))
    assert (whereabouts.doing, whereabouts.is_meeting) == ("adding up numbers", True)


def test_everything_else_is_the_inner_collectives(collective, inner):
    inner.gradient_divisor, inner.largest_gradient = 2048.0, 64.0  # known after wrap()
    for name in inspect.get_annotations(Collective):
        assert getattr(collective, name) == getattr(inner, name), name


def test_a_batch_is_being_read_until_it_is_there(whereabouts):
    seen = []

    def batches():
        for number in range(2):
            seen.append(whereabouts.doing)
            yield number

    for _ in whereabouts.reading(batches()):
        seen.append(whereabouts.doing)
    assert seen == ["reading images", "computing"] * 2


def test_every_mark_is_a_move(whereabouts):
    before = whereabouts.moves
    whereabouts.at("epoch 0, update 0")
    whereabouts.mark("computing")
    whereabouts.mark("computing")
    assert whereabouts.moves == before + 3


def test_no_worker_takes_itself_for_its_neighbour():
    """Workers in threads are one process: ending a neighbour would end the test."""
    assert run_fleet(3, open_neighbours) == [{}, {}, {}]


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="pidfd needs Linux")
def test_a_frozen_process_is_ended():
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    neighbour = os.pidfd_open(process.pid)
    process.send_signal(signal.SIGSTOP)
    end(neighbour)
    assert process.wait(20) == -signal.SIGKILL
    end(neighbour)  # one that has ended is left alone
    os.close(neighbour)
