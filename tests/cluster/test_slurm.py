"""Runs under a real Slurm of two hosts: steps, jobs of each launcher, signals and requeueing."""

from __future__ import annotations

import subprocess

import pytest

from tests.fleet_runs import THREE_EPOCHS, assert_ends_like, log_of, train_uninterrupted
from tests.hosts import joined_hosts
from tests.launching import needs_horovod
from tests.slurm_cluster import needs_slurm, slurm_on
from tests.waiting import told_time, wait_until
from trainer.environment import first_slurm_host
from trainer.tracking import FINISHED, PAUSED, TrackingError

pytestmark = [pytest.mark.cluster, needs_slurm]

TRAIN = [*THREE_EPOCHS, "tracking.mlflow=off"]
LONG = ["digits-decay-lr", "schedule.epochs=2000", "tracking.mlflow=off", "--resume", "auto"]
# What users write, as in docs/cluster.md.
TORCHRUN = """
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 torchrun --nnodes "$SLURM_JOB_NUM_NODES" \\
    --nproc-per-node "$SLURM_NTASKS_PER_NODE" --rdzv-backend c10d --rdzv-endpoint "$head:29400" \\
    --rdzv-id "$SLURM_JOB_ID" -m trainer train {words}
"""
HOROVODRUN = """
hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed "s/$/:$SLURM_NTASKS_PER_NODE/" | paste -sd,)
exec horovodrun -np "$SLURM_NTASKS" -H "$hosts" --network-interfaces eth0 trainer train {words}
"""
MPIRUN = """
export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
mpirun --allow-run-as-root --bind-to none -x MASTER_ADDR trainer train {words}
"""
REQUEUED = """
srun trainer train {words}
code=$?
[ $code = 85 ] && scontrol requeue "$SLURM_JOB_ID"
exit $code
"""


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """Two idle hosts."""
    folder = tmp_path_factory.mktemp("slurm")
    with joined_hosts(folder / "net", 2) as network, slurm_on(network, folder / "slurm") as slurm:
        yield slurm


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The run of one process; its folder."""
    folder = tmp_path_factory.mktemp("alone")
    train_uninterrupted(folder)
    return folder


def submit(slurm, folder, script, words, *options):
    """Submits a job of two hosts with two workers each, whose run goes into the folder; returns its number."""
    quoted = " ".join(f"'{word}'" for word in [*words, f"output={folder / 'runs'}"])
    job = folder / "job.sh"
    job.write_text(f"#!/bin/bash\n{script.format(words=quoted)}")
    shape = ["--nodes=2", "--ntasks-per-node=2", "--requeue", "--open-mode=append", f"--output={folder}/job.log"]
    return slurm.output_of("sbatch", "--parsable", *shape, *options, str(job)).strip()


def wait_for(condition, folder):
    log = folder / "job.log"
    wait_until(condition, 120, lambda: log.read_text()[-3000:] if log.exists() else "the job has not begun", 0.2)


def log_so_far(folder):
    try:
        return log_of(folder / "runs")
    except (TrackingError, ValueError):
        return None


def trains(folder):
    """Whether the run is under way and has a checkpoint."""
    return any((folder / "runs").glob("*/checkpoints/[0-9]*/SHA256SUMS"))


def is_paused(folder):
    log = log_so_far(folder)
    return log is not None and log.status == PAUSED


def has_ended(slurm, job):
    return slurm.job(job)["JobState"] not in ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING")


def runs_now(slurm, job):
    """Whether a requeued job runs; Slurm is told not to wait two minutes first."""
    if slurm.job(job)["JobState"] == "PENDING":
        slurm.run("scontrol", "update", f"JobId={job}", "StartTime=now").wait()
    return slurm.job(job)["JobState"] == "RUNNING"


def test_a_step_of_srun_trains_what_one_process_does(tmp_path, slurm, alone):
    words = ["trainer", "train", *TRAIN, f"output={tmp_path}"]
    slurm.output_of("srun", "--ntasks", "4", "--ntasks-per-node", "2", *words)
    assert_ends_like(tmp_path, alone)
    tags = log_of(tmp_path).run.tags
    assert (tags["launcher"], tags["collective"], tags["world_size"], tags["host"]) == ("srun", "ddp", "4", "host1")


def test_two_steps_on_the_same_hosts_at_once_do_not_meet(tmp_path, slurm):
    def start(folder):
        words = ["trainer", "train", *TRAIN, "schedule.epochs=1", f"output={folder}"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        return slurm.run("srun", "--ntasks", "2", "--ntasks-per-node", "1", *words, **pipes)

    folders = [tmp_path / "one", tmp_path / "two"]
    for step in [start(folder) for folder in folders]:
        said, _ = step.communicate(timeout=120)
        assert step.returncode == 0, said
    assert [log_of(folder).run.tags["world_size"] for folder in folders] == ["2", "2"]


@pytest.mark.parametrize(
    ("script", "launcher"),
    [(TORCHRUN, "torchrun"), pytest.param(HOROVODRUN, "horovodrun", marks=needs_horovod), (MPIRUN, "mpirun")],
    ids=["torchrun", "horovodrun", "mpirun"],
)
def test_a_launcher_within_a_job_trains_what_one_process_does(tmp_path, slurm, alone, script, launcher):
    job = submit(slurm, tmp_path, script, TRAIN)
    wait_for(lambda: has_ended(slurm, job), tmp_path)
    assert slurm.job(job)["JobState"] == "COMPLETED", (tmp_path / "job.log").read_text()[-3000:]
    assert_ends_like(tmp_path / "runs", alone)
    tags = log_of(tmp_path / "runs").run.tags
    assert (tags["launcher"], tags["world_size"]) == (launcher, "4")


@pytest.mark.parametrize("one_ends_all", ["0", "1"])
def test_a_cancelled_job_has_saved(tmp_path, slurm, one_ends_all):
    """Whether or not Slurm ends a step at the first worker that leaves it."""
    job = submit(slurm, tmp_path, f"srun --kill-on-bad-exit={one_ends_all} trainer train {{words}}", LONG)
    wait_for(lambda: trains(tmp_path), tmp_path)
    slurm.output_of("scancel", job)
    wait_for(lambda: has_ended(slurm, job) and is_paused(tmp_path), tmp_path)
    (stop,) = [event for event in log_of(tmp_path / "runs").events if event.kind == "stop"]
    assert stop.fields["reason"] == "ended by SIGTERM"
    assert "stopped and saved; go on with srun -n 4 trainer train --resume" in (tmp_path / "job.log").read_text()


@needs_horovod
def test_a_job_whose_shell_is_horovodrun_saves_when_it_is_told_to(tmp_path, slurm):
    job = submit(slurm, tmp_path, HOROVODRUN, LONG)
    wait_for(lambda: trains(tmp_path), tmp_path)
    slurm.output_of("scancel", "--batch", "--signal=TERM", job)  # as --signal=B:TERM@60 does
    wait_for(lambda: has_ended(slurm, job) and is_paused(tmp_path), tmp_path)


def test_a_job_that_is_requeued_goes_on_where_it_stopped(tmp_path, slurm):
    """Told to stop before its time is up, by its own script; then by an operator."""
    job = submit(slurm, tmp_path, REQUEUED, LONG, "--signal=TERM@60")
    wait_for(lambda: trains(tmp_path), tmp_path)
    with told_time("stops, is requeued (Slurm does not wait its two minutes) and has trained an epoch after"):
        slurm.output_of("scancel", "--signal=TERM", job)  # as at the time that --signal names
        wait_for(lambda: slurm.job(job)["JobState"] == "PENDING", tmp_path)
        wait_for(lambda: runs_now(slurm, job), tmp_path)
        epochs = len(log_of(tmp_path / "runs").epochs)
        wait_for(lambda: len(log_of(tmp_path / "runs").epochs) > epochs, tmp_path)
    slurm.output_of("scontrol", "requeue", job)
    wait_for(lambda: is_paused(tmp_path), tmp_path)
    slurm.output_of("scancel", job)
    log = log_of(tmp_path / "runs")
    assert [event.kind for event in log.events if event.kind in ("stop", "resume")] == ["stop", "resume", "stop"]
    first, resumed, second = (e.fields["samples_seen"] for e in log.events if e.kind in ("stop", "resume"))
    assert first == resumed < second


def test_a_jobs_own_shell_is_no_worker(tmp_path, slurm):
    job = submit(slurm, tmp_path, "trainer train {words}", [*TRAIN, "schedule.epochs=1"])
    wait_for(lambda: has_ended(slurm, job), tmp_path)
    log = log_of(tmp_path / "runs")
    assert (log.status, log.run.tags["launcher"], log.run.tags["world_size"]) == (FINISHED, "alone", "1")


@pytest.mark.parametrize("nodes", ["gpu[03-06,9],login1", "a-b[7]", "tux[0,2-3]", "dgx-[001-256]", "rack[1-2]n[03-04]"])
def test_the_first_host_of_a_list_is_the_one_that_slurm_finds(slurm, nodes):
    assert first_slurm_host(nodes) == slurm.output_of("scontrol", "show", "hostnames", nodes).split()[0]
