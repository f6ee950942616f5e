"""Launchers, recognised by the variables that they really set."""

from __future__ import annotations

import pytest

from tests.launching import needs_horovod
from trainer.cli.fleet import FleetError, _horovod_runs_under_mpi, choose_collective
from trainer.environment import Launch, LaunchError, detect_launch, first_slurm_host

pytestmark = pytest.mark.unit

HOROVODRUN = {
    "HOROVOD_RANK": "5", "HOROVOD_SIZE": "8", "HOROVOD_LOCAL_RANK": "1", "HOROVOD_LOCAL_SIZE": "4",
    "HOROVOD_CROSS_RANK": "1", "HOROVOD_CROSS_SIZE": "2", "HOROVOD_CONTROLLER": "gloo",
}  # fmt: skip
TORCHRUN = {
    "RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4", "GROUP_RANK": "1",
    "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29400",
}  # fmt: skip
ELASTIC = TORCHRUN | {"TORCHELASTIC_MAX_RESTARTS": "3", "TORCHELASTIC_USE_AGENT_STORE": "True"}
MPIRUN = {
    "OMPI_COMM_WORLD_RANK": "5", "OMPI_COMM_WORLD_SIZE": "8", "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "4", "OMPI_COMM_WORLD_NODE_RANK": "1",
}  # fmt: skip
SLURM_SHELL = {
    "SLURM_JOB_ID": "77", "SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_LOCALID": "0",
    "SLURM_NODELIST": "gpu[03-04]",
}  # fmt: skip
SRUN = SLURM_SHELL | {
    "SLURM_STEP_ID": "0", "SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2)", "SLURM_STEP_NODELIST": "gpu[03-04]",
}  # fmt: skip


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, Launch("alone")),
        (HOROVODRUN, Launch("horovodrun", 5, 8, 1, 4)),
        (HOROVODRUN | {"HOROVOD_ELASTIC": "1"}, Launch("horovodrun", 5, 8, 1, 4, is_elastic=True)),
        (TORCHRUN, Launch("torchrun", 5, 8, 1, 4)),
        (ELASTIC, Launch("torchrun", 5, 8, 1, 4, is_elastic=True, shares_store=True)),
        (ELASTIC | {"TORCHELASTIC_USE_AGENT_STORE": "False"}, Launch("torchrun", 5, 8, 1, 4, is_elastic=True)),
        (TORCHRUN | {"TORCHELASTIC_MAX_RESTARTS": "0"}, Launch("torchrun", 5, 8, 1, 4)),
        (HOROVODRUN | {"TORCHELASTIC_MAX_RESTARTS": "3"}, Launch("horovodrun", 5, 8, 1, 4)),
        (MPIRUN, Launch("mpirun", 5, 8, 1, 4)),
        (MPIRUN | {"MASTER_ADDR": "10.0.0.1"}, Launch("mpirun", 5, 8, 1, 4, "10.0.0.1:29500")),
        (MPIRUN | {"OMPI_COMM_WORLD_LOCAL_SIZE": "8"}, Launch("mpirun", 5, 8, 1, 8, "127.0.0.1:29500")),
        (SRUN, Launch("srun", 5, 8, 1, 4, "gpu03:29500")),
        (SLURM_SHELL, Launch("alone")),  # a job's own shell: nothing was launched yet
        (SRUN | TORCHRUN, Launch("torchrun", 5, 8, 1, 4)),
        (SLURM_SHELL | HOROVODRUN, Launch("horovodrun", 5, 8, 1, 4)),
    ],
)
def test_each_launcher_is_found_out_by_its_variables(environ, expected):
    assert detect_launch(environ) == expected


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("gpu[03-06,9],login1", "gpu03"), ("gpu1", "gpu1"), ("a-b[7]", "a-b7"), ("x,y", "x"), ("", None)],
)
def test_the_first_host_of_a_slurm_list(nodes, first):
    assert first_slurm_host(nodes) == first


def test_variables_that_contradict_each_other_are_refused():
    with pytest.raises(LaunchError, match="RANK=9 with WORLD_SIZE=8: the rank must be below the world size"):
        detect_launch(TORCHRUN | {"RANK": "9"})
    with pytest.raises(LaunchError, match="WORLD_SIZE='eight' is no whole number"):
        detect_launch(TORCHRUN | {"WORLD_SIZE": "eight"})
    with pytest.raises(LaunchError, match="MASTER_ADDR is not: start the workers with torchrun"):
        detect_launch({"RANK": "0", "WORLD_SIZE": "2"})


def launched(launcher, workers=2):
    return Launch(launcher, 0, workers, 0, workers)


@pytest.mark.parametrize(
    ("setting", "launch", "name"),
    [
        ("auto", Launch("alone"), "local"),
        ("ddp", Launch("alone"), "ddp"),
        ("auto", launched("torchrun"), "ddp"),
        ("auto", launched("srun"), "ddp"),
        ("ddp", launched("mpirun"), "ddp"),
    ],
)
def test_the_collective_follows_the_launcher(setting, launch, name):
    assert choose_collective(setting, launch) == name


@pytest.mark.parametrize(
    ("setting", "launch", "message"),
    [
        ("local", launched("torchrun"), "cannot join the 2 workers that torchrun started: set collective=auto"),
        ("horovod", launched("torchrun"), "use horovodrun -np 2 trainer"),
        ("horovod", launched("srun"), "use horovodrun -np 2 trainer"),
        pytest.param(
            "horovod",
            launched("mpirun"),
            "built without MPI, and mpirun cannot start it: use horovodrun",
            marks=[
                needs_horovod,
                pytest.mark.skipif(_horovod_runs_under_mpi(), reason="needs a Horovod that was built without MPI"),
            ],
        ),
        ("ddp", launched("horovodrun"), "use torchrun --nproc-per-node 2 -m trainer"),
    ],
)
def test_a_collective_that_the_launcher_cannot_start_is_refused(setting, launch, message):
    with pytest.raises(FleetError, match=message):
        choose_collective(setting, launch)


@pytest.mark.parametrize(
    ("launcher", "is_elastic", "rejoins"),
    [("horovodrun", True, True), ("horovodrun", False, False), ("torchrun", True, False), ("alone", False, False)],
)
def test_only_workers_of_an_elastic_horovodrun_stay_in_their_processes(launcher, is_elastic, rejoins):
    assert Launch(launcher, is_elastic=is_elastic).rejoins == rejoins
