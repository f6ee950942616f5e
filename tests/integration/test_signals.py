"""SIGTERM and Ctrl-C: all workers stop in one place, saved, with a code of their own; a second one ends at once."""

from __future__ import annotations

import os
import signal
import time

import pytest

from tests.launching import needs_horovod
from tests.live_runs import LiveRun
from trainer.engine.checkpoint import newest_checkpoint
from trainer.tracking import KILLED, PAUSED

pytestmark = pytest.mark.integration

# A checkpoint every fifth of a second: a signal may well come while one is being written.
LONG = ["train", "digits-decay-lr", "schedule.epochs=500", "checkpoints.every_minutes=0.003", "tracking.mlflow=off"]


def checkpoint(run):
    """The newest, with nothing damaged."""
    (folder,) = run.output.glob("*/checkpoints")
    return newest_checkpoint(folder, pytest.fail)


def stopped_at(run):
    return [event.fields for event in run.log().events if event.kind == "stop"][-1]


@pytest.mark.parametrize(("number", "text"), [(signal.SIGTERM, "ended by SIGTERM"), (signal.SIGINT, "interrupted")])
def test_a_run_alone_stops_says_how_it_goes_on_and_does(tmp_path, number, text):
    with LiveRun(tmp_path, "alone", 1, LONG) as run:
        run.wait_until(lambda: run.epochs() > 0)
        os.kill(run.process.pid, number)
        assert run.wait() == 85
        (folder,) = tmp_path.glob("*/")
        assert f"trainer: {text}: stopped and saved; go on with trainer train --resume {folder}\n" in run.said()
        assert "Traceback" not in run.said()
        assert run.log().status == PAUSED
        assert stopped_at(run)["samples_seen"] == checkpoint(run).standing.state.samples_seen
    state = checkpoint(run).standing.state
    with LiveRun(tmp_path, "alone", 1, ["train", "--resume", str(folder)]) as run:
        run.wait_until(lambda: f"resumed after {state.samples_seen:,} samples: epoch {state.next_epoch} " in run.said())
        os.kill(run.process.pid, number)
        assert run.wait() == 85
        assert run.log().status == PAUSED
        assert checkpoint(run).standing.state.samples_seen >= state.samples_seen


@pytest.mark.parametrize(
    ("launcher", "whom"),
    [
        ("torchrun", "one rank"),
        pytest.param("horovodrun", "launcher", marks=needs_horovod),
        pytest.param("torchrun", "launcher", marks=pytest.mark.long),
        pytest.param("horovodrun", "one rank", marks=[needs_horovod, pytest.mark.long]),
    ],
)
def test_a_fleet_stops_in_one_place_whoever_is_told(tmp_path, launcher, whom):
    with LiveRun(tmp_path, launcher, 2, LONG) as run:
        run.wait_until(lambda: run.epochs() > 0)
        os.kill(run.process.pid if whom == "launcher" else run.worker(1), signal.SIGTERM)
        assert run.wait() != 0  # launchers have an exit code of their own
        run.wait_until(lambda: run.pids() == [])
        log = run.log()
        assert log.status == PAUSED
        assert stopped_at(run)["samples_seen"] == checkpoint(run).standing.state.samples_seen
        assert run.said().count("another worker has ended") == 0


def test_before_the_first_update_a_run_stops_too(tmp_path):
    with LiveRun(tmp_path, "alone", 1, LONG) as run:
        run.wait_until(lambda: run.log() is not None)  # the record is open, and the first batch not decoded yet
        os.kill(run.process.pid, signal.SIGTERM)
        assert run.wait() == 85
        assert run.log().status == PAUSED
        assert checkpoint(run).standing.state.next_epoch == 0


@pytest.mark.parametrize("launcher", ["torchrun", pytest.param("horovodrun", marks=[needs_horovod, pytest.mark.long])])
def test_a_second_signal_ends_at_once_and_the_last_checkpoint_is_whole(tmp_path, launcher):
    """A frozen worker keeps the other from agreeing to anything."""
    with LiveRun(tmp_path, launcher, 2, LONG) as run:
        run.wait_until(lambda: run.epochs() > 0)
        os.kill(run.worker(1), signal.SIGSTOP)
        time.sleep(0.5)
        waiting = run.worker(0)
        for _ in range(2):
            os.kill(waiting, signal.SIGTERM)
            time.sleep(1.2)
        run.wait_until(lambda: waiting not in run.pids())
        assert "trainer: ended at once; the last checkpoint is whole" in run.said()
        run.kill_all()
        assert run.log().status == KILLED
        assert checkpoint(run).standing.state.samples_seen > 0
