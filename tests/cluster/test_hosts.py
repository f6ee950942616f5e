"""Runs over several hosts: the same as on one, and what becomes of them when a host, a link or the launcher is lost.

Hosts are namespaces of this machine, each with its own processes, network and sshd; launchers reach them over ssh.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time

import pytest

from tests.elastic_fleets import Hosts
from tests.fleet_runs import THREE_EPOCHS, assert_ends_like, log_of, train_uninterrupted
from tests.host_fleets import elastic_horovod_job, horovod_job, launcher_of, mpi_job, torchrun_job, torchrun_node
from tests.hosts import joined_hosts, needs_hosts
from tests.launching import needs_horovod
from tests.waiting import told_time
from trainer.tracking import FAILED, PAUSED

pytestmark = [pytest.mark.cluster, needs_hosts]

LIMIT_S = 4
TRAIN = ["train", *THREE_EPOCHS, "tracking.mlflow=off"]
LONG = ["train", "digits-decay-lr", "schedule.epochs=2000", "tracking.mlflow=off", f"hang_timeout_s={LIMIT_S}"]
STOPPED = ("ended by SIGTERM", "another worker was stopped")  # as rank 0 heard it itself, or from others
AUTO = ["--resume", "auto"]
HOROVODRUN = pytest.param("horovodrun", marks=needs_horovod)


@contextlib.contextmanager
def job_over(folder, hosts, launcher, arguments, own_name_at=None, **options):
    """The network, and what was started in it: torchrun on each host, others on the first."""
    start = {"horovodrun": horovod_job, "torchrun": torchrun_job, "mpirun": mpi_job}[launcher]
    with joined_hosts(folder / "net", hosts, own_name_at=own_name_at) as network, contextlib.ExitStack() as stack:
        started = start(folder / "runs", network, arguments, **options)
        runs = started if isinstance(started, list) else [started]
        yield network, [stack.enter_context(run) for run in runs]


def codes_of(runs, timeout_s=90):
    """Exit codes, when all of it has ended and nothing is left on any host."""
    codes = [run.wait(timeout_s) for run in runs]
    runs[0].wait_until(lambda: not any(run.pids() for run in runs), 20)
    return codes


def fleets(run):
    """Workers of each part of the run, without repetition."""
    log = run.log()
    workers = [] if log is None else [e.fields["plan"]["world_size"] for e in log.events if e.kind == "decision"]
    return [now for now, before in zip(workers, [None, *workers], strict=False) if now != before]


def stops(log):
    return [event.fields["reason"] for event in log.events if event.kind == "stop"]


def has_saved(run):
    return any(run.output.glob("*/checkpoints/[0-9]*/SHA256SUMS"))


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The run of one process; its folder."""
    folder = tmp_path_factory.mktemp("alone")
    train_uninterrupted(folder)
    return folder


@pytest.mark.parametrize(
    ("launcher", "hosts", "collective"),
    [
        pytest.param("horovodrun", 2, "horovod", marks=needs_horovod),
        pytest.param("horovodrun", 4, "horovod", marks=needs_horovod),
        ("torchrun", 2, "ddp"),
        ("torchrun", 4, "ddp"),
        ("mpirun", 2, "ddp"),
    ],
)
def test_four_workers_on_several_hosts_train_what_one_process_does(tmp_path, alone, launcher, hosts, collective):
    with job_over(tmp_path, hosts, launcher, TRAIN, per_host=4 // hosts) as (_, runs):
        assert set(codes_of(runs)) == {0}, runs[0].said()[-3000:]
    assert_ends_like(tmp_path / "runs", alone)
    tags = log_of(tmp_path / "runs").run.tags
    assert (tags["launcher"], tags["collective"], tags["world_size"]) == (launcher, collective, "4")
    # torchrun deals out ranks as its agents come
    assert tags["host"] in ({"host1", "host2", "host3", "host4"} if launcher == "torchrun" else {"host1"})


@pytest.mark.parametrize("launcher", [HOROVODRUN, "torchrun", "mpirun"])
def test_a_job_whose_host_is_killed_ends_and_says_who_is_gone(tmp_path, launcher):
    with job_over(tmp_path, 2, launcher, LONG) as (network, runs):
        runs[0].wait_until(runs[0].epochs, 120)
        network.hosts[1].kill()
        assert 0 not in codes_of(runs)
        log, said = runs[0].log(), runs[0].said()
    gone = 1 if log.run.tags["host"] == "host1" else 0  # torchrun deals out ranks as it likes
    line = f"another worker has ended (rank {gone} does not answer, "
    if launcher == "mpirun" and line not in said:  # it was faster, and has ended rank 0 too
        assert re.search("lost communication with a remote daemon.*Remote daemon: .* on node host2", said, re.DOTALL)
    else:
        assert f"trainer: {line}" in said
        assert gone == 0 or (log.status == FAILED and log.error.startswith(line))  # rank 0 keeps the record


@pytest.mark.parametrize("launcher", [HOROVODRUN, "torchrun", "mpirun"])
def test_a_link_that_is_down_for_seconds_changes_nothing_and_one_that_stays_down_ends_both_sides(tmp_path, launcher):
    with job_over(tmp_path, 2, launcher, LONG) as (network, runs):
        first, far = runs[0], network.hosts[1]
        for host in network.hosts:  # or launchers wait for a quarter of an hour until TCP gives up
            host.output_of("sysctl", "-qw", "net.ipv4.tcp_retries2=6")
        first.wait_until(first.epochs, 120)
        far.set_link(up=False)
        time.sleep(LIMIT_S - 2)
        far.set_link(up=True)
        epochs = first.epochs()
        first.wait_until(lambda: first.epochs() > epochs + 1)
        assert "nothing moved" not in first.said()
        far.set_link(up=False)
        with told_time(f"{launcher}, a link is lost, no process is left after"):
            with told_time(f"{launcher}, a link is lost, said after"):
                first.wait_until(lambda: "nothing moved" in first.said())
            assert 0 not in codes_of(runs)
        log, said = first.log(), first.said()
    assert log.status == FAILED or log.run.tags["host"] == "host2"
    gone = 1 if log.run.tags["host"] == "host1" else 0
    line = f"nothing moved for {LIMIT_S} s (hang_timeout_s): rank {gone} does not answer (stopped, or the host or the"
    assert f"trainer: {line}" in said


@needs_horovod
def test_an_elastic_horovodrun_goes_on_without_a_host_that_loses_its_power_and_takes_it_back(tmp_path):
    """ssh asks for a sign of life here (ServerAliveInterval); horovodrun would wait for it for a quarter of an hour."""
    with joined_hosts(tmp_path / "net", 3) as network:
        hosts = Hosts(tmp_path, [host.name for host in network.hosts])
        with elastic_horovod_job(tmp_path / "runs", network, [*LONG, *AUTO], hosts, cooldown_s=3) as run:
            run.wait_until(lambda: has_saved(run), 120)
            network.hosts[2].cut_power()
            with told_time("horovodrun, a host loses its power, goes on after"):
                run.wait_until(lambda: fleets(run) == [3, 2], 120)
            network.hosts[2].start()
            with told_time("horovodrun, the host is there again, has it back after"):
                run.wait_until(lambda: fleets(run) == [3, 2, 3], 120)
            os.kill(launcher_of(run), signal.SIGTERM)
            codes_of([run])
            log = run.log()
    assert log.status == PAUSED
    assert stops(log)[-1] in STOPPED


def test_torchrun_goes_on_without_a_node_that_loses_its_power_and_takes_it_back(tmp_path):
    with joined_hosts(tmp_path / "net", 2) as network, contextlib.ExitStack() as stack:

        def start(host):
            node = torchrun_node(tmp_path / "runs", network, host, [*LONG, *AUTO], restarts=5)
            return stack.enter_context(node)

        first, _ = start(network.hosts[0]), start(network.hosts[1])
        first.wait_until(lambda: has_saved(first), 120)
        network.hosts[1].cut_power()
        with told_time("torchrun, a host loses its power, goes on after"):
            first.wait_until(lambda: fleets(first) == [2, 1], 120)
        network.hosts[1].start()
        again = start(network.hosts[1])
        with told_time("torchrun, the host is there again, has it back after"):
            first.wait_until(lambda: fleets(first) == [2, 1, 2], 120)
        for run in (first, again):
            os.kill(launcher_of(run), signal.SIGTERM)
        codes_of([first, again])
        log = first.log()
    assert log.status == PAUSED
    assert stops(log)[-1] in STOPPED


@pytest.mark.parametrize("launcher", [HOROVODRUN, "torchrun", "mpirun"])
def test_a_launcher_that_is_told_to_stop_has_the_workers_of_all_hosts_save(tmp_path, launcher):
    with job_over(tmp_path, 2, launcher, LONG) as (_, runs):
        runs[0].wait_until(runs[0].epochs, 120)
        os.kill(launcher_of(runs[0]), signal.SIGTERM)
        codes_of(runs)
        log, said = runs[0].log(), runs[0].said()
    assert (log.status, log.error) == (PAUSED, None)
    (reason,) = stops(log)
    assert reason in STOPPED
    assert "stopped and saved; go on with " in said


@needs_horovod
def test_workers_on_other_hosts_stop_and_save_when_horovodrun_has_ended(tmp_path):
    """A host that knows itself as 127.0.1.1 reaches its own workers over ssh too, and nobody passes a signal on."""
    with job_over(tmp_path, 2, "horovodrun", LONG, own_name_at="127.0.1.1") as (_, [run]):
        run.wait_until(run.epochs, 120)
        os.kill(launcher_of(run), signal.SIGTERM)
        codes_of([run])
        log = run.log()
    assert (log.status, stops(log)) == (PAUSED, ["the launcher has ended"])


@needs_horovod
def test_a_frozen_worker_alone_on_its_host_stays_until_it_is_continued(tmp_path):
    """The connection that started it is closed, and neither sshd nor anybody else ends it."""
    with job_over(tmp_path, 2, "horovodrun", LONG) as (_, [run]):
        run.wait_until(run.epochs, 120)
        frozen = run.worker(1)
        os.kill(frozen, signal.SIGSTOP)
        assert run.wait() != 0
        assert run.log().error.startswith(f"nothing moved for {LIMIT_S} s (hang_timeout_s): rank 1 does not answer")
        time.sleep(1)
        assert run.pids() == [frozen]
        os.kill(frozen, signal.SIGCONT)
        run.wait_until(lambda: not run.pids(), 30)
