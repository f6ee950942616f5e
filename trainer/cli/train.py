"""`trainer train`: joins the fleet, puts a run together on all workers, and starts it; ending.py sees to the rest."""

from __future__ import annotations

import argparse
import contextlib
import sys
from functools import partial
from typing import TYPE_CHECKING

from trainer.cli.config_arguments import add_config_arguments
from trainer.cli.join import run_joined
from trainer.cli.resume_arguments import add_resume_argument, collective_setting, load_alone
from trainer.cli.signals import stop_signals
from trainer.config import to_yaml
from trainer.environment import Launch
from trainer.tracking import LOST_WORKER

if TYPE_CHECKING:
    from trainer.cli.record import Record
    from trainer.collective.collective import Collective


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
    from trainer.cli.compiler import COMPILING_S, compiler
    from trainer.cli.ending import Run, lost_status, run_to_the_end, wait_for_more, what_follows
    from trainer.cli.planning.view import plain_console
    from trainer.cli.prepare import prepare
    from trainer.cli.record import NO_RECORD, open_record
    from trainer.collective.agreement import together
    from trainer.collective.watchdog import Watchdog
    from trainer.collective.watched import WatchedCollective
    from trainer.collective.whereabouts import Whereabouts
    from trainer.engine.checkpoint import restore
    from trainer.engine.gradient_probe import ProbePlan
    from trainer.engine.job import Job
    from trainer.engine.saving import SavingPlan
    from trainer.processor import computes_bfloat16

    console = plain_console(quiet=collective.rank != 0, lasting=True)
    task = prepare(args, launch, collective, console)
    config, device = task.config, task.device
    if task.resumed is not None and task.resumed.is_finished:
        console.print(f"{args.resume}: this run is finished, there is nothing to do")
        return 0
    if device.type == "cpu" and config.precision == "bfloat16" and not computes_bfloat16():
        console.print(
            "warning: this processor only emulates bfloat16: precision=float32 is likely to be faster", soft_wrap=True
        )
    border = fleet_border.border_ahead(task.schedule, task.fleet, task.start.state, collective.world_size)
    if border is not None and border.is_waited_for(launch):
        return wait_for_more(border, launch, collective)
    given = [*args.words, *([] if args.resume is None else ["--resume", args.resume])]
    together(collective, fleet_border.check_workers, border, launch, given)

    compiled = together(collective, compiler, config.compile, device)
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
            unless_begun.callback(record.close, lost_status(launch), {}, f"{LOST_WORKER} before the run began")
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
            compiled=compiled,
            wire=compose.wire_type(config),
            fleet=task.fleet,
            seed=config.seed,
            probe=ProbePlan(**config.gradient_probe.model_dump()),
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
            max(config.hang_timeout_s, COMPILING_S) if config.compile else config.hang_timeout_s,
            close_record=lambda text: record.close("FAILED", {}, text),
            rejoins=launch.rejoins,
            board_is_gone=signals.launcher_is_gone,
        )
        unless_begun.pop_all()  # from here on the record is closed by what it records
        # Overrides of a run that was taken up are in no record: they are to be given again.
        arguments = ["--resume", str(record.folder)] if task.resumed is None else given
        run = Run(job, task.fleet, launch, record, console, signals, arguments)
        with contextlib.closing(parts.pipeline):
            ending = run_to_the_end(run, watchdog)
        code, awaited = what_follows(run, ending)
    return code if awaited is None else wait_for_more(awaited, launch, collective)
