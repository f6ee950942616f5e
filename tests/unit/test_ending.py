"""How a run ends: what its record says, what the workers say, in which order, and who waits."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from tests.fleet_in_threads import run_fleet
from trainer.cli import ending as module
from trainer.cli.ending import Ending, Run, run_to_the_end, what_follows
from trainer.cli.exit_codes import FAILED, FLEET_CHANGES, STOPPED
from trainer.cli.fleet_border import Border
from trainer.cli.planning.view import plain_console
from trainer.cli.record import Record
from trainer.collective.agreement import WorkerError
from trainer.collective.local import LocalCollective
from trainer.collective.watchdog import Watchdog
from trainer.collective.whereabouts import Whereabouts
from trainer.engine.errors import TrainingError
from trainer.environment import Launch
from trainer.rule import Fleet
from trainer.tracking import Trackers
from trainer.tracking.progress import SilentProgress

pytestmark = pytest.mark.unit

BORDER = Border(epoch=3, planned=4, present=2)
TORCHRUN = Launch("torchrun", 0, 2, 0, 2, is_elastic=True)


class SayingTracker:
    """Says how the record was closed, on the stream that workers speak on."""

    def close(self, status, summary, error=None):
        print(f"closed: {status}, {error}", file=sys.stderr)


def run_of(collective, launch, is_stop_wanted=False):
    """A run of which nothing but its end is there."""
    record = Record(Trackers((SayingTracker(),)), SilentProgress(), None)
    signals = SimpleNamespace(is_stop_wanted=is_stop_wanted, text="ended by SIGTERM")
    job = SimpleNamespace(collective=collective)
    arguments = ["--resume", "runs/a"]
    return Run(job, Fleet.of(collective.world_size), launch, record, plain_console(quiet=True), signals, arguments)


@pytest.mark.parametrize("failure", [TrainingError, WorkerError])
def test_a_failure_is_said_when_the_record_is_closed(monkeypatch, capsys, failure):
    """Whoever hears of it leaves, and then a launcher ends rank 0, which would have no time for its record."""

    def fail(job):
        raise failure("the disk is full")

    monkeypatch.setattr(module, "train", fail)
    run = run_of(LocalCollective(), Launch("alone"))
    ending = run_to_the_end(run, Watchdog(run.job.collective, Whereabouts(), 60.0, close_record=print))
    assert what_follows(run, ending) == (FAILED, None)
    assert capsys.readouterr().err == "closed: FAILED, the disk is full\ntrainer: the disk is full\n"


def test_an_error_that_nobody_foresaw_is_recorded_and_goes_on(monkeypatch, capsys):
    def fail(job):
        raise RuntimeError("CUDA out of memory\nand much more")

    monkeypatch.setattr(module, "train", fail)
    run = run_of(LocalCollective(), Launch("alone"))
    with pytest.raises(RuntimeError, match="CUDA out of memory"):
        run_to_the_end(run, Watchdog(run.job.collective, Whereabouts(), 60.0, close_record=print))
    assert capsys.readouterr().err == "closed: FAILED, CUDA out of memory\n"


def test_all_workers_wait_at_a_border_for_those_that_are_missing():
    reached = Ending(FLEET_CHANGES, "PAUSED", border=BORDER)
    waits = run_fleet(2, lambda collective: what_follows(run_of(collective, TORCHRUN), reached))
    assert waits == [(FLEET_CHANGES, BORDER)] * 2


def test_none_of_them_waits_where_one_was_asked_to_stop(capsys):
    """The one that leaves would leave the others in a collective."""
    reached = Ending(FLEET_CHANGES, "PAUSED", border=BORDER)

    def follow(collective):
        return what_follows(run_of(collective, TORCHRUN, is_stop_wanted=collective.rank == 1), reached)

    assert run_fleet(2, follow) == [(STOPPED, None)] * 2
    assert "stopped and saved; go on with torchrun --nproc-per-node 2 -m trainer train --resume runs/a" in (
        capsys.readouterr().err
    )


def test_under_a_launcher_whose_workers_rejoin_the_others_go_on_from_there(capsys):
    launch = Launch("horovodrun", 0, 2, 0, 2, is_elastic=True)
    reached = Ending(FLEET_CHANGES, "PAUSED", border=BORDER)

    def follow(collective):
        return what_follows(run_of(Announced(collective), launch, is_stop_wanted=collective.rank == 1), reached)

    assert run_fleet(2, follow) == [(None, None), (STOPPED, None)]
    assert "rank 1: ended by SIGTERM: leaves; those that stay go on" in capsys.readouterr().err


class Announced:
    """A fleet in threads, to whose workers a change is announced."""

    def __init__(self, collective):
        self.rank, self.world_size, self.all_reduce = collective.rank, collective.world_size, collective.all_reduce

    def is_change_announced(self):
        return True


def test_a_lost_worker_ends_those_that_cannot_rejoin():
    run = run_of(LocalCollective(), TORCHRUN)
    assert what_follows(run, Ending(None, "PAUSED", error="another worker has ended")) == (FAILED, None)
