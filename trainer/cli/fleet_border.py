"""Where a fleet is to change: whether the workers that were started are the plan's, and what to do where they are not.

A run stops before the first epoch that is planned for another number of workers, with all it needs in its checkpoint.
Under a plain launcher somebody starts it again. An elastic one goes on by itself when more have come, so there they
wait for it, at most WAIT_S.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from trainer.cli.fleet import FleetError
from trainer.engine.run_state import RunState, epoch_ahead
from trainer.environment import Launch
from trainer.rule import Fleet, Schedule

WAIT_S = 1800.0


@dataclass(frozen=True, slots=True)
class Border:
    """The epoch ahead is planned for `planned` workers, and `present` are here."""

    epoch: int
    planned: int
    present: int

    def is_waited_for(self, launch: Launch) -> bool:
        """Whether more workers may come by themselves."""
        return launch.is_elastic and self.present < self.planned


def border_ahead(schedule: Schedule, fleet: Fleet, state: RunState, workers: int) -> Border | None:
    """The border that a run has reached; None where these workers can go on, or nothing is left to do."""
    epoch = epoch_ahead(schedule, fleet, state)
    if epoch is None or fleet.workers_at(epoch) == workers:
        return None
    return Border(epoch, fleet.workers_at(epoch), workers)


def check_workers(border: Border | None, launch: Launch, given: Sequence[str]) -> None:
    """Raises FleetError where another number of workers was started than the plan has. given: the arguments of `trainer
    train`."""
    if border is None:
        return
    started = "1 worker was" if border.present == 1 else f"{border.present} workers were"
    raise FleetError(
        f"{started} started, and the fleet has {border.planned} in epoch {border.epoch}: start "
        f"{launch_command(border.planned, launch, given)}, or set fleet=null to train on what there is"
    )


def start_again(border: Border, launch: Launch, arguments: Sequence[str]) -> str:
    """What to say where a run pauses. arguments: those that `trainer train` goes on with."""
    return f"{_begins(border)}: start again with {launch_command(border.planned, launch, arguments)}"


def waiting(border: Border) -> str:
    """What to say where workers wait for more."""
    return f"{_begins(border)}: waiting for {border.planned - border.present} more, at most {WAIT_S / 60:g} minutes"


def nobody_came(border: Border) -> str:
    """What to say where the wait was in vain."""
    return f"{_begins(border)}, and no more than {border.present} came in {WAIT_S / 60:g} minutes"


def _begins(border: Border) -> str:
    return f"epoch {border.epoch} begins with {border.planned} worker" + ("" if border.planned == 1 else "s")


def launch_command(workers: int, launch: Launch, arguments: Sequence[str]) -> str:
    """How the launcher starts that many workers of `trainer train` with these arguments."""
    train = shlex.join(["trainer", "train", *arguments])
    if launch.launcher in ("horovodrun", "mpirun"):
        return f"{launch.launcher} -np {workers} {train}"
    if launch.launcher == "srun":
        return f"srun -n {workers} {train}"
    nodes, rest = divmod(workers, launch.local_size)
    if launch.world_size > launch.local_size and rest == 0:
        return f"torchrun --nnodes {nodes} --nproc-per-node {launch.local_size} -m {train}"
    return train if workers == 1 else f"torchrun --nproc-per-node {workers} -m {train}"
