"""Where a fleet is to change: who waits, who stops, and how it is said."""

from __future__ import annotations

import pytest

from trainer.cli.fleet import FleetError
from trainer.cli.fleet_border import (
    Border,
    border_ahead,
    check_workers,
    nobody_came,
    start_again,
    waiting,
)
from trainer.engine.run_state import RunState
from trainer.environment import Launch
from trainer.rule import Fleet, FleetStep, Limits, Reference, Schedule

pytestmark = pytest.mark.unit

SCHEDULE = Schedule(Reference(0.1, 10), Limits(10), 100, 6)
GROWS = Fleet((FleetStep(0, 2), FleetStep(3, 4)))
ELASTIC = Launch("torchrun", 0, 2, 0, 1, is_elastic=True)


@pytest.mark.parametrize(
    ("next_epoch", "workers", "border"),
    [
        (0, 2, None),
        (2, 2, None),
        (3, 2, Border(3, planned=4, present=2)),
        (3, 4, None),
        (0, 4, Border(0, planned=2, present=4)),
        (6, 2, None),  # nothing is left to do, whoever is here
    ],
)
def test_a_border_is_an_epoch_planned_for_another_number_of_workers(next_epoch, workers, border):
    state = RunState(samples_seen=100 * next_epoch, updates=10 * next_epoch, next_epoch=next_epoch)
    assert border_ahead(SCHEDULE, GROWS, state, workers) == border


@pytest.mark.parametrize(
    ("launch", "planned", "command"),
    [
        (Launch("horovodrun", 0, 2, 0, 2), 4, "horovodrun -np 4 trainer train --resume runs/a"),
        (Launch("mpirun", 0, 2, 0, 2), 4, "mpirun -np 4 trainer train --resume runs/a"),
        (Launch("srun", 0, 2, 0, 2), 4, "srun -n 4 trainer train --resume runs/a"),
        (Launch("torchrun", 0, 2, 0, 2), 4, "torchrun --nproc-per-node 4 -m trainer train --resume runs/a"),
        (
            Launch("torchrun", 0, 16, 0, 8),
            32,
            "torchrun --nnodes 4 --nproc-per-node 8 -m trainer train --resume runs/a",
        ),
        (Launch("torchrun", 0, 2, 0, 2), 1, "trainer train --resume runs/a"),
        (Launch("alone"), 2, "torchrun --nproc-per-node 2 -m trainer train --resume runs/a"),
    ],
)
def test_a_run_that_stops_says_how_it_is_started_again_in_the_launchers_own_words(launch, planned, command):
    workers = "1 worker" if planned == 1 else f"{planned} workers"
    border = Border(3, planned, launch.world_size)
    assert (
        start_again(border, launch, ["--resume", "runs/a"])
        == f"epoch 3 begins with {workers}: start again with {command}"
    )


def test_a_folder_with_a_blank_is_quoted():
    assert start_again(Border(3, 4, 2), Launch("horovodrun", 0, 2), ["--resume", "my runs/a"]).endswith(
        "--resume 'my runs/a'"
    )


def test_only_under_an_elastic_launcher_more_workers_are_waited_for():
    assert Border(3, planned=4, present=2).is_waited_for(ELASTIC)
    assert not Border(3, planned=4, present=2).is_waited_for(Launch("torchrun", 0, 2))
    assert not Border(3, planned=2, present=4).is_waited_for(ELASTIC)  # nobody leaves by himself
    assert waiting(Border(3, planned=4, present=1)) == (
        "epoch 3 begins with 4 workers: waiting for 3 more, at most 30 minutes"
    )
    assert nobody_came(Border(3, planned=4, present=1)) == (
        "epoch 3 begins with 4 workers, and no more than 1 came in 30 minutes"
    )


def test_the_wrong_number_of_workers_is_refused_with_the_command_as_it_was_given():
    launch = Launch("horovodrun", 0, 2, 0, 2)
    with pytest.raises(FleetError) as refused:
        check_workers(Border(0, 4, 2), launch, ["digits-hybrid", "seed=1"])
    assert str(refused.value) == (
        "2 workers were started, and the fleet has 4 in epoch 0: start horovodrun -np 4 trainer train digits-hybrid "
        "seed=1, or set fleet=null to train on what there is"
    )
    with pytest.raises(FleetError, match=r"start horovodrun -np 4 trainer train --resume runs/a, or"):
        check_workers(Border(3, 4, 2), launch, ["--resume", "runs/a"])
    check_workers(None, launch, [])
