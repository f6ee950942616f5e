"""`trainer train`: joins the fleet, puts a run together, starts it, and records how it ended."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING

from trainer.cli.config_arguments import add_config_arguments
from trainer.cli.exit_codes import FAILED, FLEET_CHANGES, STOPPED
from trainer.cli.join import first_line, run_joined, say, say_lost_worker
from trainer.cli.resume_arguments import add_resume_argument, collective_setting, load_alone
from trainer.cli.signals import StopSignals, stop_signals
from trainer.config import to_yaml
from trainer.environment import Launch
from trainer.tracking import LOST_WORKER

if TYPE_CHECKING:
    from rich.console import Console

    from trainer.cli.fleet_border import Border
    from trainer.cli.record import Record
    from trainer.collective.collective import Collective
    from trainer.collective.watchdog import Watchdog
    from trainer.engine.job import Job
    from trainer.rule import Fleet


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "train",
        help="train (the default)",
        description="Trains, alone or as one worker of horovodrun, torchrun, mpirun or srun (it finds out which).",
    )
    add_config_arguments(parser)
    add_resume_argument(parser)
    parser.add_argument("--print-config", action="store_true", help="show the whole configuration and stop")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    if args.print_config:
        sys.stdout.write(to_yaml(load_alone(args)))
        return 0
    return run_joined(partial(_collective_setting, args), partial(_train, args))


def _collective_setting(args: argparse.Namespace, launch: Launch) -> str:
    return load_alone(args).collective if launch.world_size == 1 else collective_setting(args)


def _train(args: argparse.Namespace, launch: Launch, collective: Collective) -> int | None:
    """Everything that may go wrong before the first update does so on all ranks together; then the loop runs.

    Returns the exit code; None where this worker is to join the fleet again.
    """
    from trainer.cli import compose, fleet_border
    from trainer.cli.planning.view import plain_console
    from trainer.cli.prepare import prepare
    from trainer.cli.record import NO_RECORD, open_record
    from trainer.collective.agreement import together
    from trainer.collective.watchdog import Watchdog
    from trainer.collective.watched import WatchedCollective
    from trainer.collective.whereabouts import Whereabouts
    from trainer.engine.checkpoint import restore
    from trainer.engine.job import Job
    from trainer.engine.saving import SavingPlan

    console = plain_console(quiet=collective.rank != 0)
    task = prepare(args, launch, collective, console)
    config, device = task.config, task.device
    if task.resumed is not None and task.resumed.is_finished:
        console.print(f"{args.resume}: this run is finished, there is nothing to do")
        return 0
    border = fleet_border.border_ahead(task.schedule, task.fleet, task.start.state, collective.world_size)
    if border is not None and border.is_waited_for(launch):
        return _wait(border, launch, collective)
    given = [*args.words, *([] if args.resume is None else ["--resume", args.resume])]
    together(collective, fleet_border.check_workers, border, launch, given)

    parts = together(collective, compose.build_parts, config, task.dataset, launch, device)
    if task.resumed is not None:
        restore(task.resumed.checkpoint, parts.model, parts.optimizer, collective)
    whereabouts = Whereabouts()
    collective = WatchedCollective(collective, whereabouts)
    about = compose.describe(config, launch, collective, task.dataset, parts, device)
    with stop_signals() as signals, contextlib.ExitStack() as unless_begun:

        def open_ours() -> Record:
            if collective.rank > 0:
                return NO_RECORD
            record = open_record(task, about, console)
            unless_begun.callback(record.close, _lost_status(launch), {}, f"{LOST_WORKER} before the run began")
            return record

        record = together(collective, open_ours)
        saving = SavingPlan(**config.checkpoints.model_dump())
        job = Job(
            schedule=task.schedule,
            collective=collective,
            model=parts.model,
            optimizer=parts.optimizer,
            pipeline=parts.pipeline,
            tracker=record.tracker,
            progress=record.progress,
            device=device,
            target_top1=config.target_top1,
            autocast_to=compose.autocast_type(config),
            fleet=task.fleet,
            seed=config.seed,
            start=task.start,
            saving=saving,
            writer=record.checkpoint_writer(task.identity, saving),
            # a fleet that is planned changes where it is planned
            wants_stop=lambda: signals.is_stop_wanted or (config.fleet is None and collective.is_change_announced()),
            whereabouts=whereabouts,
            unreadable=parts.pipeline.unreadable,
            warn=lambda text: console.print(f"warning: {text}", soft_wrap=True),
        )
        watchdog = Watchdog(
            collective,
            whereabouts,
            config.hang_timeout_s,
            close_record=lambda text: record.close("FAILED", {}, text),
            rejoins=launch.rejoins,
        )
        unless_begun.pop_all()  # from here on the record is closed by what it records
        with contextlib.closing(parts.pipeline):
            code, border = _run_to_the_end(job, task.fleet, launch, record, console, signals, watchdog)
        if launch.rejoins and code in (None, STOPPED):
            return _leave_or_stay(collective, signals, is_lost=code is None)
        # Overrides of a run that was taken up are in no record: they are to be given again.
        arguments = ["--resume", str(record.folder)] if task.resumed is None else given
        if code == STOPPED:
            again = fleet_border.launch_command(collective.world_size, launch, arguments)
            say(collective, f"{signals.text}: stopped and saved; go on with {again}")
        if border is not None and not border.is_waited_for(launch):
            say(collective, fleet_border.start_again(border, launch, arguments))
    if border is not None and border.is_waited_for(launch) and not signals.is_stop_wanted:
        return _wait(border, launch, collective)
    return FAILED if code is None else code


def _run_to_the_end(
    job: Job,
    fleet: Fleet,
    launch: Launch,
    record: Record,
    console: Console,
    signals: StopSignals,
    watchdog: Watchdog,
) -> tuple[int | None, Border | None]:
    """Trains, and closes the record with how it went: FINISHED, FAILED, or PAUSED by a signal or a change of the fleet.

    Returns the exit code, None where another worker is lost; and the border of the planned fleet that was reached.
    """
    from trainer.cli.fleet_border import border_ahead
    from trainer.cli.record import closing_line, summary
    from trainer.collective.agreement import WorkerError, together
    from trainer.engine.errors import TrainingError
    from trainer.engine.run_state import epoch_ahead
    from trainer.engine.train import train

    status, error, figures = "FAILED", None, dict[str, float]()
    try:
        with watchdog:
            state, clock = train(job)
        border = border_ahead(job.schedule, fleet, state, job.collective.world_size)
        if border is not None:
            together(job.collective, job.tracker.event, "fleet", asdict(border))
            status = "PAUSED"
            return FLEET_CHANGES, border
        if epoch_ahead(job.schedule, fleet, state) is not None:
            reason = _reason(signals, job.collective)
            stop = {"reason": reason, "epoch": state.next_epoch, "samples_seen": state.samples_seen}
            together(job.collective, job.tracker.event, "stop", stop)
            status = "PAUSED"
            return STOPPED, None
        status, figures = "FINISHED", summary(state, clock, job.target_top1)
        return 0, None
    except (TrainingError, WorkerError) as failure:
        error = str(failure)
        say(job.collective, error)
        return FAILED, None
    except Exception as failure:
        if not job.collective.is_lost_worker(failure):
            error = first_line(failure)
            raise
        error = say_lost_worker(failure, watchdog.lost())
        status = _lost_status(launch)
        return None, None
    finally:
        record.close(status, figures, error)
        if figures:
            console.print(closing_line(figures, record))


def _leave_or_stay(collective: Collective, signals: StopSignals, is_lost: bool) -> int | None:
    """Who was asked to stop leaves the others to go on; all of them, where the launcher was. Returns as _train."""
    if signals.is_stop_wanted:
        print(f"trainer: rank {collective.rank}: {signals.text}: leaves; those that stay go on", file=sys.stderr)
        return STOPPED
    if collective.rank == 0:
        reason = LOST_WORKER if is_lost else _reason(signals, collective)
        print(f"trainer: {reason}: going on with those that there are", file=sys.stderr)
    return None


def _lost_status(launch: Launch) -> str:
    """What becomes of a run that has lost a worker."""
    return "PAUSED" if launch.is_elastic else "FAILED"


def _reason(signals: StopSignals, collective: Collective) -> str:
    """Why a run stops, as far as this worker knows."""
    if collective.is_change_announced() and not signals.is_stop_wanted:
        return "workers come or go"
    return signals.text


def _wait(border: Border, launch: Launch, collective: Collective) -> int | None:
    """Until an elastic launcher has more workers: horovodrun announces them, and this one joins again; torchrun ends it
    with SIGTERM, and starts another."""
    from trainer.cli.fleet_border import WAIT_S, nobody_came, waiting
    from trainer.collective.agreement import first_rank_where

    say(collective, waiting(border))
    for _ in range(int(WAIT_S)):
        time.sleep(1)
        if launch.rejoins and first_rank_where(collective, collective.is_change_announced()) is not None:
            return None
    say(collective, nobody_came(border))
    return FLEET_CHANGES
