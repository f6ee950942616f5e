"""A file that disappears while a run goes on, under real launchers."""

from __future__ import annotations

import numpy as np
import pytest

from dali_pipelines.pipeline import open_dataset
from dali_pipelines.sample_order import sample_ids
from tests.live_runs import LiveRun
from trainer.tracking import FAILED, FINISHED

pytestmark = pytest.mark.integration

N = 1440
# Updates of 16 take the longest, so that the file is gone before it is due again.
RUN = ["train", "digits-decay-lr", "schedule.epochs=3", "schedule.reference.lr=0.002", "tracking.mlflow=off"]


def run_without(tmp_path, launcher, workers, max_unreadable):
    """The log, exit code and words of a run in which the last image of its second epoch disappears after its first."""
    data = tmp_path / "data"
    dataset = open_dataset("digits", data)
    victim = dataset.train.path(int(sample_ids(0, N, np.array([2 * N - 1]))[0]))
    settings = [f"data.path={data}", f"data.max_unreadable={max_unreadable}"]
    with LiveRun(tmp_path / "runs", launcher, workers, [*RUN, *settings]) as run:
        run.wait_until(run.epochs)
        victim.unlink()
        code = run.process.wait(120)
        return run.log(), code, run.said(), victim


@pytest.mark.parametrize(("launcher", "workers"), [("alone", 1), ("torchrun", 2)])
def test_it_stops_the_run_by_name(tmp_path, launcher, workers):
    log, code, said, victim = run_without(tmp_path, launcher, workers, max_unreadable=0)
    assert code != 0
    assert said.count(f"cannot be decoded: {victim} (No such file or directory): repair or remove the files") == 1
    assert log.status == FAILED
    assert str(victim) in log.close.error


def test_with_leave_the_run_goes_on_and_is_the_same_on_one_worker_and_two(tmp_path):
    one, two = (
        run_without(tmp_path / launcher, launcher, workers, max_unreadable=1)
        for launcher, workers in (("alone", 1), ("torchrun", 2))
    )
    for log, code, said, victim in (one, two):
        assert code == 0, said
        assert log.status == FINISHED
        assert [event.fields["files"] for event in log.events if event.kind == "unreadable"] == [
            {str(victim): "No such file or directory"}
        ]
        assert said.count(f"warning: {victim} cannot be decoded (No such file or directory)") == 1
    losses = [[epoch.metrics["train/loss"] for epoch in log.epochs] for log, *_ in (one, two)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)  # float32 gradients summed in another order
