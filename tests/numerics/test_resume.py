"""A run that was broken off and taken up again ends as if nothing had happened."""

from __future__ import annotations

import pytest
import torch

from tests.digits_jobs import SCHEDULE, Curves, assert_same_tensors, job_of, timeless
from tests.fleet_in_threads import run_fleet
from trainer.engine.checkpoint import newest_checkpoint
from trainer.engine.run_state import RunState, epoch_ahead
from trainer.engine.train import train
from trainer.rule import Fleet, FleetStep, Limits, Reference, Schedule

pytestmark = pytest.mark.numerics


@pytest.mark.parametrize(
    ("kind", "optimizer"),
    [("ghost", "nesterov"), ("plain", "momentum"), ("dropout", "adam"), ("ghost", "lars"), ("ghost", "adamw")],
)
def test_a_run_that_is_resumed_twice_is_the_run_that_was_not_broken_off_to_the_bit(tmp_path, kind, optimizer):
    whole = job_of(tmp_path / "whole", whole_curves := Curves(), kind, optimizer)
    whole_state, _ = train(whole)

    broken = tmp_path / "broken"
    curves = []
    for killed_after in (2, 4):  # both times the last epoch is lost, and repeated
        curves.append(Curves(killed_after))
        with pytest.raises(KeyboardInterrupt):
            train(job_of(broken, curves[-1], kind, optimizer))
    curves.append(Curves())
    last = job_of(broken, curves[-1], kind, optimizer)
    state, _ = train(last)

    assert [sorted(each.metrics) for each in curves] == [[1, 2], [2, 3, 4], [4, 5]]
    for each in curves:
        for epoch, metrics in each.metrics.items():
            assert metrics == whole_curves.metrics[epoch], epoch
    assert_same_tensors(whole.model.state_dict(), last.model.state_dict())
    for index, tensors in whole.optimizer.state_dict()["state"].items():
        assert_same_tensors(tensors, last.optimizer.state_dict()["state"][index])
    assert timeless(state) == timeless(whole_state)


def test_the_clock_goes_on_where_it_was_saved(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(job_of(tmp_path, Curves(killed_after=4)))
    saved = newest_checkpoint(tmp_path, pytest.fail).standing
    assert saved.state.next_epoch == 3
    assert 0 < saved.seconds["train"] < saved.elapsed_s
    state, clock = train(job_of(tmp_path, Curves()))
    assert state.target == saved.state.target  # met in an earlier part: its time stays
    assert clock.elapsed() > saved.elapsed_s
    assert clock.seconds["train"] > saved.seconds["train"]
    assert clock.seconds["evaluate"] > saved.seconds["evaluate"]
    # two of five epochs were left: the clock did not begin anew, nor count anything twice
    assert sum(clock.seconds[part] for part in ("train", "evaluate", "record")) < clock.elapsed()


FLEET = Fleet((FleetStep(0, 1), FleetStep(2, 2), FleetStep(4, 1)))


def test_a_run_on_changing_fleets_is_the_run_on_one_worker_to_rounding(tmp_path):
    train(whole := job_of(tmp_path / "whole", whole_curves := Curves(), dtype=torch.float64))

    folder = tmp_path / "changing"
    parts = []

    def go_on(collective):
        job = job_of(folder, curves := Curves(), fleet=FLEET, dtype=torch.float64, collective=collective)
        state, _ = train(job)
        if collective.rank == 0:
            parts.append((curves.metrics, epoch_ahead(SCHEDULE, FLEET, state), job.model.state_dict()))

    for workers in (1, 2, 1):
        run_fleet(workers, go_on)
    assert [(sorted(metrics), ahead) for metrics, ahead, _ in parts] == [([1, 2], 2), ([3, 4], 4), ([5], None)]
    for metrics, _, _ in parts:
        for epoch, values in metrics.items():
            cut = {key: values[key] for key in ("batch/micro", "batch/accumulation_steps")}
            # losses are added up in float32
            assert values == pytest.approx({**whole_curves.metrics[epoch], **cut}, rel=1e-6), epoch
    *_, (_, _, tensors) = parts
    for name, tensor in whole.model.state_dict().items():
        # float64: sums in another order, 1e-16 each, grown over 150 updates
        torch.testing.assert_close(tensors[name], tensor, rtol=1e-12, atol=1e-12, msg=name)


def test_a_border_where_nothing_is_left_to_do_stops_nobody():
    # 2.1 epochs of 100 are 210 samples: seven updates of 30, and none of them starts in epoch 2
    schedule = Schedule(Reference(0.1, 30), Limits(30, max_global_batch=30), 100, 2.1)
    state = RunState(samples_seen=210, updates=7, next_epoch=2)
    assert epoch_ahead(schedule, Fleet((FleetStep(0, 1), FleetStep(2, 3))), state) is None


def test_a_run_that_was_complete_when_it_was_killed_has_nothing_to_train(tmp_path):
    whole = job_of(tmp_path, Curves())
    train(whole)
    curves = Curves()
    again = job_of(tmp_path, curves)
    state, _ = train(again)
    assert curves.metrics == {}
    assert state.samples_seen == newest_checkpoint(tmp_path, pytest.fail).standing.state.samples_seen
    assert_same_tensors(whole.model.state_dict(), again.model.state_dict())
