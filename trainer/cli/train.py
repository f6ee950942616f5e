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

    try:
        name = fleet.choose_collective(setting, launch)
    except fleet.FleetError:
        if launch.rank == 0:
            raise
        time.sleep(5)  # launchers end everybody at the first exit, and rank 0 has something to say
        return USER_ERROR
    fleet.share_threads(launch)
    collective = fleet.open_collective(name, launch)
    try:
        return _train(args, launch, collective)
    except fleet.StoppedElsewhere:
        return USER_ERROR
    finally:
        collective.close()


def _train(args: argparse.Namespace, launch: Launch, collective: Collective) -> int:
    """Everything that may go wrong before the first update does so on all ranks together; then the loop runs."""
    from trainer.cli import compose
    from trainer.cli.fleet import choose_device, together
    from trainer.cli.plan import plan_for_fleet
    from trainer.cli.plan_view import plain_console
    from trainer.cli.record import NO_RECORD, open_record
    from trainer.engine.train import Job

    console = plain_console(quiet=collective.rank != 0)
    config = together(collective, lambda: load_from_arguments(args))
    together(collective, lambda: _check_same_configuration(collective, config))
    device = together(collective, lambda: choose_device(config.device, launch))
    dataset = compose.open_data(config, launch, collective, console)
    plan = together(collective, lambda: plan_for_fleet(config, dataset.train_size, collective.world_size))
    parts = together(collective, lambda: compose.build_parts(config, dataset, launch, collective, device))
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
    from trainer.engine.errors import TrainingError
    from trainer.engine.train import train

    status, error, figures = "FAILED", None, dict[str, float]()
    try:
        with _on_sigterm(_interrupt):
            state, clock = train(job)
        status, figures = "FINISHED", summary(state, clock, job.target_top1)
        return 0
    except KeyboardInterrupt:
        status, error = "KILLED", "interrupted"
        return INTERRUPTED
    except TrainingError as failure:
        error = str(failure)
        return FAILED
    except Exception as failure:
        error = (str(failure) or type(failure).__name__).splitlines()[0]
        if not job.collective.is_lost_worker(failure):
            raise
        error = f"another worker has ended: its message says why ({error})"
        return FAILED
    finally:
        record.progress.close()
        # Whoever ends the job has been heard; the record is closed in bounded time. A second Ctrl-C cuts that short.
        with _on_sigterm(signal.SIG_IGN), contextlib.suppress(KeyboardInterrupt):
            record.tracker.close(status, figures, error)
        if error is None:
            console.print(closing_line(figures, record))
        elif job.collective.rank == 0:
            print(f"trainer: {error}", file=sys.stderr, flush=True)


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
    """Launchers and schedulers end a job with SIGTERM: it ends as Ctrl-C does, with the record closed."""
    raise KeyboardInterrupt
