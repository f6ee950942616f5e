"""How a run ends: its record is closed with what became of it, and then all workers hear what follows from that."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from rich.console import Console

from trainer.cli.exit_codes import FAILED, FLEET_CHANGES, STOPPED
from trainer.cli.fleet_border import (
    WAIT_S,
    Border,
    border_ahead,
    launch_command,
    nobody_came,
    start_again,
    waiting,
)
from trainer.cli.join import first_line, say, say_lost_worker
from trainer.cli.record import Record, closing_line, summary
from trainer.cli.signals import StopSignals
from trainer.collective.agreement import WorkerError, first_rank_where, together
from trainer.collective.collective import Collective
from trainer.collective.watchdog import Watchdog
from trainer.engine.errors import TrainingError
from trainer.engine.job import Job
from trainer.engine.run_state import epoch_ahead
from trainer.engine.train import train
from trainer.environment import Launch
from trainer.rule import Fleet
from trainer.tracking import LOST_WORKER

_TOLD_WITHIN_S = 1.0


@dataclass(frozen=True, slots=True)
class Run:
    """A run that has been put together. arguments: those with which `trainer train` goes on with it, on rank 0."""

    job: Job
    fleet: Fleet
    launch: Launch
    record: Record
    console: Console
    signals: StopSignals
    arguments: Sequence[str]


@dataclass(frozen=True, slots=True)
class Ending:
    """What became of a run. code: for the shell, None where another worker is lost. status, figures and error: as the
    record says it. border: of the planned fleet, where it was reached."""

    code: int | None
    status: str
    figures: Mapping[str, float] = field(default_factory=dict)
    error: str | None = None
    border: Border | None = None


def run_to_the_end(run: Run, watchdog: Watchdog) -> Ending:
    """Trains, and closes the record with how it went: FINISHED, FAILED, or PAUSED by a signal or a change of the fleet.

    Says nothing but that another worker is lost, which that one cannot hear any more.
    """
    ending = Ending(FAILED, "FAILED")
    try:
        with watchdog:
            ending = _train(run)
    except (TrainingError, WorkerError) as failure:
        ending = Ending(FAILED, "FAILED", error=str(failure))
    except Exception as failure:
        if not run.job.collective.is_lost_worker(failure):
            ending = Ending(FAILED, "FAILED", error=first_line(failure))
            raise
        ending = Ending(None, lost_status(run.launch), error=say_lost_worker(failure, watchdog.lost()))
    finally:
        run.record.close(ending.status, ending.figures, ending.error)
    return ending


def what_follows(run: Run, ending: Ending) -> tuple[int | None, Border | None]:
    """Says what is to be said, after the record is closed: launchers end everybody at the first exit.

    Returns the exit code, None where this worker is to join the fleet again; and the border at which all are to wait
    for more workers, if so.
    """
    collective, launch, signals = run.job.collective, run.launch, run.signals
    code, border = ending.code, ending.border
    if ending.figures:
        run.console.print(closing_line(ending.figures, run.record))
    if border is not None and border.is_waited_for(launch):
        # Nobody waits for one that has been asked to stop meanwhile.
        if first_rank_where(collective, signals.is_stop_wanted) is None:
            return code, border
        code, border = STOPPED, None
    if launch.rejoins and (code is None or (code == STOPPED and _some_stay(collective, signals))):
        return _leave_or_stay(collective, signals, is_lost=code is None), None
    if code is None:
        return FAILED, None
    if ending.error is not None:
        say(collective, ending.error)
    if code == STOPPED:
        again = launch_command(collective.world_size, launch, run.arguments)
        say(collective, f"{signals.text}: stopped and saved; go on with {again}")
    if border is not None:
        say(collective, start_again(border, launch, run.arguments))
    return code, None


def wait_for_more(border: Border, launch: Launch, collective: Collective) -> int | None:
    """Until an elastic launcher has more workers: horovodrun announces them, and this one joins again; torchrun ends it
    with SIGTERM, and starts another. Returns the exit code, None where this worker is to join the fleet again."""
    say(collective, waiting(border))
    for _ in range(int(WAIT_S)):
        time.sleep(1)
        if launch.rejoins and first_rank_where(collective, collective.is_change_announced()) is not None:
            return None
    say(collective, nobody_came(border))
    return FLEET_CHANGES


def lost_status(launch: Launch) -> str:
    """What becomes of a run that has lost a worker."""
    return "PAUSED" if launch.is_elastic else "FAILED"


def _train(run: Run) -> Ending:
    job = run.job
    state, clock = train(job)
    border = border_ahead(job.schedule, run.fleet, state, job.collective.world_size)
    if border is not None:
        together(job.collective, job.tracker.event, "fleet", asdict(border))
        return Ending(FLEET_CHANGES, "PAUSED", border=border)
    if epoch_ahead(job.schedule, run.fleet, state) is not None:
        # Whichever worker notices first that the launcher has gone, all leave for that reason.
        if first_rank_where(job.collective, run.signals.has_lost_launcher) is not None:
            run.signals.launcher_is_gone()
        reason = _reason(run.signals, job.collective)
        stop = {"reason": reason, "epoch": state.next_epoch, "samples_seen": state.samples_seen}
        together(job.collective, job.tracker.event, "stop", stop)
        return Ending(STOPPED, "PAUSED")
    return Ending(0, "FINISHED", summary(state, clock, job.target_top1))


def _some_stay(collective: Collective, signals: StopSignals) -> bool:
    """Where all were asked to stop, it was the launcher that was, and nobody stays. It tells one after the other."""
    time.sleep(_TOLD_WITHIN_S)
    return first_rank_where(collective, not signals.is_stop_wanted) is not None


def _leave_or_stay(collective: Collective, signals: StopSignals, is_lost: bool) -> int | None:
    """Who was asked to stop leaves the others to go on; all of them, where the launcher was. Returns as
    wait_for_more."""
    if signals.is_stop_wanted:
        print(f"trainer: rank {collective.rank}: {signals.text}: leaves; those that stay go on", file=sys.stderr)
        return STOPPED
    if collective.rank == 0:
        reason = LOST_WORKER if is_lost else _reason(signals, collective)
        print(f"trainer: {reason}: going on with those that there are", file=sys.stderr)
    return None


def _reason(signals: StopSignals, collective: Collective) -> str:
    """Why a run stops, as far as this worker knows."""
    if collective.is_change_announced() and not signals.is_stop_wanted:
        return "workers come or go"
    return signals.text
