"""`trainer train`: joins the fleet, puts a run together, starts it, and records how it ended."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING

from trainer.cli.config_arguments import add_config_arguments, load_from_arguments
from trainer.cli.exit_codes import FAILED, INTERRUPTED, USER_ERROR
from trainer.config import ConfigError, TrainConfig, to_yaml
from trainer.environment import Launch, detect_launch

if TYPE_CHECKING:
    from rich.console import Console

    from trainer.cli.record import Record
    from trainer.collective.collective import Collective
    from trainer.engine.train import Job


class _Terminated(KeyboardInterrupt):
    """SIGTERM: from a scheduler, or from a launcher because another worker has ended."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "train",
        help="train (the default)",
        description="Trains, alone or as one worker of horovodrun, torchrun, mpirun or srun (it finds out which).",
    )
    add_config_arguments(parser)
    parser.add_argument("--print-config", action="store_true", help="show the whole configuration and stop")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    if args.print_config:
        sys.stdout.write(to_yaml(load_from_arguments(args)))
        return 0
    launch = detect_launch()
    try:
        setting = load_from_arguments(args).collective
    except ConfigError:
        if launch.world_size == 1:
            raise  # before torch is imported: a mistake is answered at once
        setting = "auto"  # the workers have to meet first, so that one of them speaks for all
    from trainer.cli import fleet
    from trainer.collective.agreement import WorkerError

    try:
        collective = fleet.open_collective(fleet.choose_collective(setting, launch), launch)
    except fleet.FleetError as error:
        if launch.rank > 0:
            # The same on all ranks as a rule: rank 0 says it, and its exit makes the launcher end the others.
            time.sleep(5)
            raise fleet.FleetError(f"rank {launch.rank}: {error}") from None
        raise
    fleet.share_threads(launch)
    try:
        with _on_sigterm(_interrupt):
            return _train(args, launch, collective)
    except WorkerError as error:
        _say(collective, str(error))
        return USER_ERROR
    finally:
        collective.close()


def _train(args: argparse.Namespace, launch: Launch, collective: Collective) -> int:
    """Everything that may go wrong before the first update does so on all ranks together; then the loop runs."""
    from trainer.cli import compose
    from trainer.cli.fleet import choose_device
    from trainer.cli.plan import plan_for_fleet
    from trainer.cli.plan_view import plain_console
    from trainer.cli.record import NO_RECORD, open_record
    from trainer.collective.agreement import together
    from trainer.engine.train import Job

    console = plain_console(quiet=collective.rank != 0)
    config = together(collective, load_from_arguments, args)
    together(collective, _check_same_configuration, collective, config)
    device = together(collective, choose_device, config.device, launch)
    promised_size = config.data.train_size
    if promised_size is not None:  # an impossible fleet is told so before any image is looked for
        together(collective, plan_for_fleet, config, promised_size, collective.world_size)
    dataset = compose.open_data(config, launch, collective, console)
    plan = together(collective, plan_for_fleet, config, dataset.train_size, collective.world_size)
    parts = together(collective, compose.build_parts, config, dataset, launch, device)
    about = compose.describe(config, launch, collective, dataset, parts, device)
    record = together(
        collective, lambda: open_record(config, plan, about, console) if collective.rank == 0 else NO_RECORD
    )
    job = Job(
        schedule=config.rule_schedule(dataset.train_size),
        collective=collective,
        model=parts.model,
        optimizer=parts.optimizer,
        pipeline=parts.pipeline,
        tracker=record.tracker,
        progress=record.progress,
        device=device,
        target_top1=config.target_top1,
        autocast_to=compose.autocast_type(config),
        weights_path=record.weights_path,
    )
    with contextlib.closing(parts.pipeline):
        return _run_to_the_end(job, record, console)


def _run_to_the_end(job: Job, record: Record, console: Console) -> int:
    """Trains, and closes the record with how it went: FINISHED, FAILED or KILLED."""
    from trainer.cli.record import closing_line, summary
    from trainer.collective.agreement import WorkerError
    from trainer.engine.errors import TrainingError
    from trainer.engine.train import train
    from trainer.tracking import LOST_WORKER

    status, error, figures = "FAILED", None, dict[str, float]()
    try:
        state, clock = train(job)
        status, figures = "FINISHED", summary(state, clock, job.target_top1)
        return 0
    except KeyboardInterrupt as stop:
        status = "KILLED"
        error = "ended by SIGTERM, or another worker has ended" if isinstance(stop, _Terminated) else "interrupted"
        return INTERRUPTED
    except TrainingError as failure:
        error = str(failure)
        _say(job.collective, error)
        return FAILED
    except WorkerError as failure:
        error = str(failure)
        raise
    except Exception as failure:
        error = (str(failure) or type(failure).__name__).splitlines()[0]
        if not job.collective.is_lost_worker(failure):
            raise
        error = f"{LOST_WORKER} ({error})"
        print(f"trainer: rank {job.collective.rank}: {error}", file=sys.stderr, flush=True)
        return FAILED
    finally:
        # Whoever ends the job has been heard; the record is closed in bounded time. A second Ctrl-C cuts that short.
        with _on_sigterm(signal.SIG_IGN), contextlib.suppress(KeyboardInterrupt):
            record.close(status, figures, error)
        if figures:
            console.print(closing_line(figures, record))


def _say(collective: Collective, message: str) -> None:
    """Rank 0 says what all ranks know; nobody leaves before, for launchers end everybody at the first exit."""
    from trainer.collective.agreement import first_rank_where

    if collective.rank == 0:
        print(f"trainer: {message}", file=sys.stderr, flush=True)
    first_rank_where(collective, False)


def _check_same_configuration(collective: Collective, config: TrainConfig) -> None:
    from trainer.collective.agreement import first_rank_that_differs

    differs = first_rank_that_differs(collective, to_yaml(config))
    if differs is not None:
        raise ConfigError(
            f"rank {differs} has another configuration than rank 0: start all workers with the same arguments, files "
            f"and version"
        )


@contextlib.contextmanager
def _on_sigterm(handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> Iterator[None]:
    previous = signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _interrupt(signal_number: int, frame: FrameType | None) -> None:
    raise _Terminated
