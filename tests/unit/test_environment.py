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
# Read off a Slurm 22.05 of two hosts: a job's own shell, and of `srun --ntasks 4 --ntasks-per-node 2` the third task.
SLURM_SHELL = {
    "SLURM_JOB_ID": "4", "SLURM_JOB_NODELIST": "host[1-2]", "SLURM_NODELIST": "host[1-2]", "SLURM_NODEID": "0",
    "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "4", "SLURM_TASKS_PER_NODE": "2(x2)",
    "SLURM_CPUS_ON_NODE": "2", "SLURMD_NODENAME": "host1", "SLURM_GTIDS": "0", "SLURM_TASK_PID": "169",
}  # fmt: skip
SRUN = {
    "SLURM_JOB_ID": "2", "SLURM_JOB_NODELIST": "host[1-2]", "SLURM_NODELIST": "host[1-2]", "SLURM_NODEID": "1",
    "SLURM_PROCID": "2", "SLURM_LOCALID": "0", "SLURM_NTASKS": "4", "SLURM_TASKS_PER_NODE": "2(x2)",
    "SLURM_CPUS_ON_NODE": "2", "SLURMD_NODENAME": "host2", "SLURM_GTIDS": "2,3", "SLURM_TASK_PID": "47",
    "SLURM_STEP_ID": "0", "SLURM_STEPID": "0", "SLURM_STEP_NODELIST": "host[1-2]", "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_TASKS_PER_NODE": "2(x2)", "SLURM_STEP_LAUNCHER_PORT": "60080",
    "SLURM_LAUNCH_NODE_IPADDR": "10.77.1.1", "SLURM_SRUN_COMM_HOST": "10.77.1.1",
}  # fmt: skip
# `srun --ntasks 3 --nodes 2`: two tasks on the first host, one on the second.
UNEVEN = SRUN | {
    "SLURM_JOB_ID": "3", "SLURM_NTASKS": "3", "SLURM_TASKS_PER_NODE": "2,1",
    "SLURM_STEP_NUM_TASKS": "3", "SLURM_STEP_TASKS_PER_NODE": "2,1", "SLURM_CPUS_ON_NODE": "1", "SLURM_GTIDS": "2",
}  # fmt: skip
# `srun --ntasks 2 : --ntasks 1`, two jobs that make one step: the third task, on the second job's host.
HETEROGENEOUS = UNEVEN | {
    "SLURM_JOB_ID": "1", "SLURM_HET_SIZE": "2", "SLURM_JOB_ID_PACK_GROUP_0": "1", "SLURM_JOB_ID_PACK_GROUP_1": "2",
}  # fmt: skip
PMI = SRUN | {"PMI_FD": "11", "PMI_JOBID": "4.1", "PMI_RANK": "2", "PMI_SIZE": "4"}  # `srun --mpi=pmi2`
# `salloc`, where the shell is a step too (LaunchParameters=use_interactive_step).
SALLOC = SLURM_SHELL | {
    "SLURM_STEP_ID": "4294967290", "SLURM_STEP_NODELIST": "host1", "SLURM_STEP_NUM_TASKS": "1",
    "SLURM_STEP_TASKS_PER_NODE": "1",
}  # fmt: skip
# In a job: mpirun starts a daemon of its own as a step on the other host, torchrun is a step of one task a host, and
# horovodrun takes the variables of the job's shell to the other host.
MPIRUN_IN_SLURM = SRUN | {
    "SLURM_NODEID": "0", "SLURM_PROCID": "0", "SLURM_STEP_NODELIST": "host2", "SLURM_STEP_NUM_NODES": "1",
    "SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_TASKS_PER_NODE": "1",
    "OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2", "OMPI_COMM_WORLD_NODE_RANK": "1", "OMPI_UNIVERSE_SIZE": "4",
    "PMIX_RANK": "3", "PMIX_HOSTNAME": "host2",
}  # fmt: skip
TORCHRUN_IN_SLURM = SRUN | {
    "SLURM_NODEID": "1", "SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
    "RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "1", "ROLE_RANK": "3",
    "GROUP_WORLD_SIZE": "2", "ROLE_WORLD_SIZE": "4", "MASTER_ADDR": "host1", "MASTER_PORT": "40723",
    "TORCHELASTIC_MAX_RESTARTS": "0", "TORCHELASTIC_RESTART_COUNT": "0", "TORCHELASTIC_USE_AGENT_STORE": "True",
}  # fmt: skip
HOROVODRUN_IN_SLURM = SLURM_SHELL | {
    "HOROVOD_RANK": "3", "HOROVOD_SIZE": "4", "HOROVOD_LOCAL_RANK": "1", "HOROVOD_LOCAL_SIZE": "2",
    "HOROVOD_CROSS_RANK": "1", "HOROVOD_CROSS_SIZE": "2", "HOROVOD_HOSTNAME": "host2", "HOROVOD_CONTROLLER": "gloo",
    "HOROVOD_CPU_OPERATIONS": "gloo", "HOROVOD_GLOO_IFACE": "eth0", "HOROVOD_GLOO_RENDEZVOUS_ADDR": "10.77.1.1",
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
        (SRUN, Launch("srun", 2, 4, 0, 2, "host1:15032")),
        (PMI, Launch("srun", 2, 4, 0, 2, "host1:15032")),
        (UNEVEN, Launch("srun", 2, 3, 0, 1, "host1:15048")),
        (UNEVEN | {"SLURM_NODEID": "0"}, Launch("srun", 2, 3, 0, 2, "host1:15048")),
        (HETEROGENEOUS, Launch("srun", 2, 3, 0, 1, "host1:15016")),
        ({name: SRUN[name] for name in SRUN if name != "SLURM_NODEID"}, Launch("srun", 2, 4, 0, 2, "host1:15032")),
        (SRUN | {"SLURM_CPUS_PER_TASK": "8"}, Launch("srun", 2, 4, 0, 2, "host1:15032", cores=8)),
        (SRUN | {"SLURM_CPUS_PER_TASK": "0"}, Launch("srun", 2, 4, 0, 2, "host1:15032")),
        (SRUN | {"MASTER_ADDR": "", "MASTER_PORT": ""}, Launch("srun", 2, 4, 0, 2, "host1:15032")),
        (SRUN | {"MASTER_PORT": "29400"}, Launch("srun", 2, 4, 0, 2, "host1:29400")),
        (SLURM_SHELL, Launch("alone")),
        (SALLOC, Launch("alone")),
        (MPIRUN_IN_SLURM, Launch("mpirun", 3, 4, 1, 2)),
        (TORCHRUN_IN_SLURM, Launch("torchrun", 3, 4, 1, 2, shares_store=True)),
        (HOROVODRUN_IN_SLURM, Launch("horovodrun", 3, 4, 1, 2)),
    ],
)
def test_each_launcher_is_found_out_by_its_variables(environ, expected):
    assert detect_launch(environ) == expected


def slurm_step(job, step="0", **variables):
    return detect_launch(SRUN | {"SLURM_JOB_ID": str(job), "SLURM_STEP_ID": step} | variables)


def test_steps_that_may_share_a_host_meet_at_ports_of_their_own():
    ports = [slurm_step(job, step).rendezvous for job in range(4000, 4900) for step in ("0", "1", "2")]
    assert len(set(ports)) == len(ports)
    # Below 32768 Linux deals out none by itself.
    assert all(15000 <= int(port.rpartition(":")[2]) < 31000 for port in ports)
    assert slurm_step(2**31).rendezvous is not None


@pytest.mark.parametrize(
    ("counts", "here"),
    [("4", [4]), ("4(x3),2", [4, 4, 4, 2]), ("1,8(x2),3(x1)", [1, 8, 8, 3]), ("8(x32)", [8] * 32)],
)
def test_the_tasks_of_this_host_are_read_off_slurms_list(counts, here):
    environments = [{"SLURM_NODEID": str(node), "SLURM_STEP_TASKS_PER_NODE": counts} for node in range(len(here))]
    assert [slurm_step(1, **environment).local_size for environment in environments] == here
    with pytest.raises(LaunchError, match=f"says nothing of host SLURM_NODEID={len(here)}"):
        slurm_step(1, SLURM_NODEID=str(len(here)), SLURM_STEP_TASKS_PER_NODE=counts)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("gpu[03-06,9],login1", "gpu03"), ("gpu1", "gpu1"), ("a-b[7]", "a-b7"), ("x,y", "x"), ("", None),
        ("tux[0,2-3]", "tux0"), ("dgx-[001-256]", "dgx-001"), ("rack[1-2]n[03-04]", "rack1n03"), ("a[1-2][3-4]", "a13"),
    ],
)  # fmt: skip
def test_the_first_host_of_a_slurm_list_as_scontrol_show_hostnames_has_it(nodes, first):
    assert first_slurm_host(nodes) == first


@pytest.mark.parametrize(
    ("variable", "text", "message"),
    [
        ("MASTER_PORT", "tcp://10.0.0.1:80", "MASTER_PORT='tcp://10.0.0.1:80' is no whole number"),
        ("MASTER_PORT", "65536", "MASTER_PORT=65536 is no port"),
        ("MASTER_PORT", "0", "MASTER_PORT=0 is no port"),
        ("SLURM_CPUS_PER_TASK", "many", "SLURM_CPUS_PER_TASK='many' is no whole number"),
        ("SLURM_NODEID", "host2", "SLURM_NODEID='host2' is no whole number"),
    ],
)
def test_what_is_no_number_where_one_is_needed_is_refused_by_name(variable, text, message):
    with pytest.raises(LaunchError, match=message):
        slurm_step(2, **{variable: text})


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
