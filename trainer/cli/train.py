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

if TYPE_CHECKING:
    from rich.console import Console

    from trainer.cli.fleet_border import Border
    from trainer.cli.record import Record
    from trainer.collective.collective import Collective
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


def _train(args: argparse.Namespace, launch: Launch, collective: Collective) -> int:
    """Everything that may go wrong before the first update does so on all ranks together; then the loop runs."""
    from trainer.cli import compose, fleet_border
    from trainer.cli.planning.view import plain_console
    from trainer.cli.prepare import prepare
    from trainer.cli.record import NO_RECORD, open_record
    from trainer.collective.agreement import together
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
        return _wait(border, collective)
    given = [*args.words, *([] if args.resume is None else ["--resume", args.resume])]
    together(collective, fleet_border.check_workers, border, launch, given)

    parts = together(collective, compose.build_parts, config, task.dataset, launch, device)
    if task.resumed is not None:
        restore(task.resumed.checkpoint, parts.model, parts.optimizer, collective)
    about = compose.describe(config, launch, collective, task.dataset, parts, device)
    with stop_signals() as signals:
        record = together(collective, lambda: open_record(task, about, console) if collective.rank == 0 else NO_RECORD)
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
            wants_stop=lambda: signals.is_stop_wanted,
        )
        with contextlib.closing(parts.pipeline):
            code, border = _run_to_the_end(job, task.fleet, record, console, signals)
        # Overrides of a run that was taken up are in no record: they are to be given again.
        arguments = ["--resume", str(record.folder)] if task.resumed is None else given
        if code == STOPPED:
            again = fleet_border.launch_command(collective.world_size, launch, arguments)
            say(collective, f"{signals.text}: stopped and saved; go on with {again}")
        if border is not None and not border.is_waited_for(launch):
            say(collective, fleet_border.start_again(border, launch, arguments))
    if border is not None and border.is_waited_for(launch):
        return _wait(border, collective)
    return code


def _run_to_the_end(
    job: Job, fleet: Fleet, record: Record, console: Console, signals: StopSignals
) -> tuple[int, Border | None]:
    """Trains, and closes the record with how it went: FINISHED, FAILED, or PAUSED by a signal or the fleet's border."""
    from trainer.cli.fleet_border import border_ahead
    from trainer.cli.record import closing_line, summary
    from trainer.collective.agreement import WorkerError, together
    from trainer.engine.errors import TrainingError
    from trainer.engine.run_state import epoch_ahead
    from trainer.engine.train import train

    status, error, figures = "FAILED", None, dict[str, float]()
    try:
        state, clock = train(job)
        border = border_ahead(job.schedule, fleet, state, job.collective.world_size)
        if border is not None:
            together(job.collective, job.tracker.event, "fleet", asdict(border))
            status = "PAUSED"
            return FLEET_CHANGES, border
        if epoch_ahead(job.schedule, fleet, state) is not None:
            stop = {"reason": signals.text, "epoch": state.next_epoch, "samples_seen": state.samples_seen}
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
        error = say_lost_worker(job.collective, failure)
        return FAILED, None
    finally:
        record.close(status, figures, error)
        if figures:
            console.print(closing_line(figures, record))


def _wait(border: Border, collective: Collective) -> int:
    """Until an elastic launcher has more workers: it ends this one then with SIGTERM, and starts another."""
    from trainer.cli.fleet_border import WAIT_S, nobody_came, waiting

    say(collective, waiting(border))
    time.sleep(WAIT_S)
    say(collective, nobody_came(border))
    return FLEET_CHANGES
