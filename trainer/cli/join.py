"""Joining the fleet, agreeing on what is to be done, and leaving together: for every command that workers run."""

from __future__ import annotations

import contextlib
import gc
import signal
import sys
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING

from trainer.cli.exit_codes import FAILED, USER_ERROR
from trainer.config import ConfigError, TrainConfig, to_yaml
from trainer.environment import Launch, detect_launch
from trainer.passwords import fit_to_print
from trainer.tracking import LOST_WORKER
from trainer.user_errors import is_users

if TYPE_CHECKING:
    from trainer.collective.collective import Collective


class Terminated(KeyboardInterrupt):
    """SIGTERM: from a scheduler, or from a launcher because another worker has ended."""


def run_joined(load_setting: Callable[[Launch], str], work: Callable[[Launch, Collective], int | None]) -> int:
    """Joins the fleet, does the work on every worker, leaves the fleet; returns the exit code.

    Where workers rejoin (see Launch), it begins again on the fleet that there is then when work returns None, or when
    another worker is lost.
    load_setting: the configuration's `collective`, read from what was given. A mistake in that is raised at once by a
    worker alone; a fleet meets first, so that one of it speaks for all, and work has to come upon it again.
    """
    launch = detect_launch()
    try:
        setting = load_setting(launch)
    except ValueError as error:
        if launch.world_size == 1 or not is_users(error):
            raise  # before torch is imported
        setting = "auto"
    from trainer.cli import fleet
    from trainer.collective.leave import ignore_stops

    try:
        collective = fleet.open_collective(fleet.choose_collective(setting, launch), launch)
    except fleet.FleetError as error:
        if launch.rank > 0:
            # The same on all ranks as a rule: rank 0 says it, and its exit makes the launcher end the others.
            time.sleep(5)
            raise fleet.FleetError(f"rank {launch.rank}: {error}") from None
        raise
    try:
        while (code := _work_once(fleet.launch_now(launch, collective), collective, work)) is None:
            gc.collect()  # what the work leaves in cycles may be gigabytes, on a GPU too
            fleet.join_again(collective)
        return code
    finally:
        handlers = ignore_stops()  # leaving the fleet may take a second
        collective.close()
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _work_once(launch: Launch, collective: Collective, work: Callable[[Launch, Collective], int | None]) -> int | None:
    """Does the work on this fleet; returns the exit code, or None where it is to go on with another."""
    from trainer.cli import fleet
    from trainer.collective.agreement import WorkerError

    fleet.share_threads(launch)
    try:
        with on_sigterm(interrupt), interrupts_as_such():
            return work(launch, collective)
    except WorkerError as error:
        say(collective, str(error))
        return USER_ERROR
    except Exception as failure:
        if not collective.is_lost_worker(failure):
            raise
        say_lost_worker(failure, f"as rank {collective.rank} finds")
        return None if launch.rejoins else FAILED


def say(collective: Collective, message: str) -> None:
    """Rank 0 says what all ranks know; nobody leaves before, for launchers end everybody at the first exit."""
    from trainer.collective.agreement import first_rank_where

    if collective.rank == 0:
        print(f"trainer: {fit_to_print(message)}", file=sys.stderr, flush=True)
    first_rank_where(collective, False)


def say_lost_worker(failure: Exception, who: str | None) -> str:
    """Says that another worker is lost, on the one that knows who; returns what there is to say."""
    message = f"{LOST_WORKER} ({who}: {first_line(failure)})"
    if who is not None:
        print(f"trainer: {message}", file=sys.stderr, flush=True)
    return message


def first_line(failure: Exception) -> str:
    """Of what it says; its kind where it says nothing."""
    return (str(failure) or type(failure).__name__).splitlines()[0]


def check_same_configuration(collective: Collective, config: TrainConfig) -> None:
    """Raises ConfigError on every rank where one has another configuration than rank 0."""
    from trainer.collective.agreement import first_rank_that_differs

    differs = first_rank_that_differs(collective, to_yaml(config))
    if differs is not None:
        raise ConfigError(
            f"rank {differs} has another configuration than rank 0: start all workers with the same arguments, files "
            f"and version"
        )


@contextlib.contextmanager
def on_sigterm(handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> Iterator[None]:
    """Handles SIGTERM so while it is inside."""
    previous = signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextlib.contextmanager
def interrupts_as_such() -> Iterator[None]:
    """A signal in the middle of a compiled library's import comes out as that import's failure; not so in here."""
    try:
        yield
    except ImportError as error:
        if isinstance(error.__cause__, KeyboardInterrupt):
            raise error.__cause__ from None
        raise


def interrupt(signal_number: int, frame: FrameType | None) -> None:
    """For on_sigterm: raises Terminated."""
    raise Terminated
