"""Workers that agree on texts and on failures."""

from __future__ import annotations

import pytest

from tests.fleet_in_threads import run_fleet
from trainer.collective.agreement import (
    WorkerError,
    broadcast_text,
    first_rank_that_differs,
    first_rank_where,
    together,
)
from trainer.engine.errors import TrainingError
from trainer.engine.train import agree_on_decision
from trainer.rule import Limits, PlanError, Reference, Schedule, decide

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("text", ["", "batch", "Größe μ 批"])
def test_everybody_hears_the_text_of_the_source(text):
    assert run_fleet(3, lambda fleet: broadcast_text(fleet, text if fleet.rank == 2 else "mine", 2)) == [text] * 3


def test_the_first_rank_is_named_alike_on_all():
    assert run_fleet(4, lambda fleet: first_rank_where(fleet, fleet.rank >= 2)) == [2] * 4
    assert run_fleet(4, lambda fleet: first_rank_where(fleet, False)) == [None] * 4
    assert run_fleet(4, lambda fleet: first_rank_that_differs(fleet, "b" if fleet.rank == 3 else "a")) == [3] * 4
    assert run_fleet(2, lambda fleet: first_rank_that_differs(fleet, "a")) == [None] * 2


def test_a_step_that_succeeds_everywhere_gives_its_result():
    assert run_fleet(3, lambda fleet: together(fleet, lambda: 10 * fleet.rank)) == [0, 10, 20]


@pytest.mark.parametrize(("failing", "message"), [({0}, "^bad$"), ({1}, "^rank 1: bad$"), ({2, 1}, "^rank 1: bad$")])
def test_a_step_that_fails_on_one_rank_fails_on_all_with_its_words(failing, message):
    def step(fleet):
        if fleet.rank in failing:
            raise PlanError("bad")

    def work(fleet):
        with pytest.raises(WorkerError, match=message):
            together(fleet, step, fleet)
        return True

    assert all(run_fleet(3, work))


def test_a_programmers_mistake_is_no_failure_to_agree_on():
    with pytest.raises(ZeroDivisionError):
        run_fleet(1, lambda fleet: together(fleet, lambda: 1 / 0))


def test_rank_0_decides_for_all():
    own = Schedule(Reference(0.1, 64), Limits(64), 1000, 1)
    other = Schedule(Reference(0.2, 64), Limits(64), 1000, 1)
    heard = run_fleet(2, lambda fleet: agree_on_decision(own if fleet.rank == 0 else other, 0, fleet))
    assert heard == [decide(own, 0, 2)] * 2


def test_a_decision_that_changes_on_its_way_is_noticed(monkeypatch):
    def work(fleet):
        if fleet.rank == 1:
            broadcast = fleet.broadcast

            def distorted(tensor, source_rank=0):
                heard = broadcast(tensor, source_rank)
                return heard.flip(0) if heard.numel() == 64 else reread(heard)

            fleet.broadcast = distorted
        with pytest.raises(TrainingError, match="epoch 0: rank 1 heard another decision than rank 0 sent"):
            agree_on_decision(Schedule(Reference(0.1, 64), Limits(64), 1000, 1), 0, fleet)
        return True

    def reread(heard):
        text = bytes(heard.tolist()) if heard.dtype.itemsize == 1 else b""
        return heard if not text else heard.new_tensor(list(text.replace(b'"lr": 0.1', b'"lr": 0.7')))

    assert all(run_fleet(2, work))
