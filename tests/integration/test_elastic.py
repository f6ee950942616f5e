"""Elastic fleets of real processes: workers are killed, leave and come, and the run goes on without a person."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from tests.elastic_fleets import HOSTS, Hosts, elastic_horovodrun, horovod_fleet, kill, torchrun_agents
from tests.fleet_runs import (
    ONE_THEN_TWO,
    THREE_EPOCHS,
    assert_ends_like,
    curve,
    epochs_written,
    log_of,
    train_uninterrupted,
)
from tests.launching import needs_horovod, worker_environment
from tests.live_runs import LiveRun
from trainer.cli.planning.replay import replay
from trainer.config import load_config
from trainer.rule import EpochDecision, decide
from trainer.tracking import FINISHED, PAUSED, journals_in, read_journal
from trainer.tracking.mlflow_reader import load_run_logs

pytestmark = pytest.mark.integration

AUTO = ["--resume", "auto"]
QUIET = ["tracking.mlflow=off", *AUTO]
# A batch that two workers cannot share: they take one less, and lr falls with it.
BATCHES = {1: (25, 0.002), 2: (24, 0.00192)}
LONG = ["digits-decay-lr", "schedule.epochs=500", "schedule.reference={lr: 0.002, global_batch: 25, momentum: 0.9}"]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """One worker from the first epoch to the last; its folder."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    train_uninterrupted(folder)
    return folder


def has_saved(run):
    return any(run.output.glob("*/checkpoints/[0-9]*/SHA256SUMS"))


def decisions(log):
    names = [field.name for field in fields(EpochDecision)]  # and not what they were made from
    decided = [{name: event.fields[name] for name in names} for event in log.events if event.kind == "decision"]
    return [EpochDecision.from_json(json.dumps(decision)) for decision in decided]


def fleets(log):
    """Workers of each part of the run, without repetition: [2, 1] where one of two was lost."""
    workers = [decision.plan.world_size for decision in decisions(log)]
    return [now for now, before in zip(workers, [None, *workers], strict=False) if now != before]


def assert_every_decision_is_the_rules(log, words):
    """As the rule has it for the workers that there were."""
    schedule = load_config(words[0], words[1:]).rule_schedule(1440)
    for decision in decisions(log):
        assert decision == decide(schedule, decision.epoch, decision.plan.world_size)
    assert replay(Path(log.source)).is_same


def assert_nothing_was_repeated(log):
    """Every part of the run began where the one before it had stopped."""
    stops = [event.fields["samples_seen"] for event in log.events if event.kind == "stop"]
    resumes = [event.fields["samples_seen"] for event in log.events if event.kind == "resume"]
    assert resumes == stops[: len(resumes)]


@needs_horovod
def test_horovodrun_goes_on_without_rank_0(tmp_path, uninterrupted):
    arguments = ["train", *THREE_EPOCHS, *AUTO]
    with horovod_fleet(tmp_path / "runs", Hosts(tmp_path, HOSTS), 2, arguments) as run:
        run.wait_until(lambda: has_saved(run))
        kill(run.worker(0))
        assert run.wait() == 0, run.said()[-3000:]
        assert "another worker has ended (rank 0 does not answer" in run.said()
    assert_ends_like(run.output, uninterrupted)
    log = log_of(run.output)
    assert fleets(log) == [2, 1]
    assert_every_decision_is_the_rules(log, THREE_EPOCHS)
    assert epochs_written(run.output) == [1, 2, 3]
    # and MLflow has it as one run, with a point for each epoch
    (stored,) = load_run_logs(f"sqlite:///{run.output}/mlflow.db", experiment="digits")
    assert (stored.run.run_uid, stored.status) == (log.run.run_uid, log.status)
    assert [epoch.epoch for epoch in stored.epochs] == [1, 2, 3]


@pytest.mark.long
@needs_horovod
def test_a_run_that_loses_a_worker_before_its_first_checkpoint_begins_anew_and_leaves_a_closed_record(tmp_path):
    """Rank 0 is still waiting for MLflow, and has its journal open, when the other one is killed."""
    arguments = ["train", *THREE_EPOCHS, "schedule.epochs=1", *AUTO]
    with horovod_fleet(tmp_path / "runs", Hosts(tmp_path, HOSTS), 2, arguments) as run:
        run.wait_until(lambda: run.log() is not None)
        kill(run.worker(1))
        assert run.wait() == 0, run.said()[-3000:]
    lost, finished = sorted((read_journal(path) for path in journals_in(run.output)), key=lambda log: log.start_time_s)
    assert (lost.status, lost.error) == (PAUSED, "another worker has ended before the run began")
    assert (finished.status, fleets(finished), len(finished.epochs)) == (FINISHED, [1], 1)


@pytest.mark.long
@needs_horovod
def test_horovodrun_takes_up_a_planned_fleet_when_its_hosts_are_there(tmp_path, uninterrupted):
    hosts = Hosts(tmp_path, HOSTS[:1])
    with horovod_fleet(tmp_path / "runs", hosts, 1, ["train", *THREE_EPOCHS, ONE_THEN_TWO, *QUIET]) as run:
        waiting = "trainer: epoch 1 begins with 2 workers: waiting for 1 more, at most 30 minutes"
        run.wait_until(lambda: waiting in run.said())
        assert log_of(run.output).status == PAUSED
        hosts.set(HOSTS)
        assert run.wait() == 0, run.said()[-3000:]
    assert_ends_like(run.output, uninterrupted)
    assert epochs_written(run.output) == [1, 2, 3]
    assert fleets(log_of(run.output)) == [1, 2]


@needs_horovod
def test_horovodrun_uses_who_joins_lets_go_who_is_told_to_and_stops_when_it_is_told_itself(tmp_path):
    hosts = Hosts(tmp_path, HOSTS[:1])
    with horovod_fleet(tmp_path / "runs", hosts, 1, ["train", *LONG, *QUIET]) as run:
        run.wait_until(lambda: run.epochs() > 0)
        hosts.set(HOSTS)
        run.wait_until(lambda: fleets(run.log()) == [1, 2])
        os.kill(run.worker_with("HOROVOD_HOSTNAME", HOSTS[1]), signal.SIGTERM)
        run.wait_until(lambda: fleets(run.log()) == [1, 2, 1])
        os.kill(run.process.pid, signal.SIGTERM)
        run.wait()
        run.wait_until(lambda: run.pids() == [])
        assert "Traceback" not in run.said().partition("horovodrun")[0]
    log = log_of(run.output)
    assert log.status == PAUSED
    assert "trainer: rank 1: ended by SIGTERM: leaves; those that stay go on" in run.said()
    reasons = [event.fields["reason"] for event in log.events if event.kind == "stop"]
    assert reasons == ["workers come or go", "another worker was stopped", "ended by SIGTERM"]
    assert_nothing_was_repeated(log)
    assert_every_decision_is_the_rules(log, LONG)
    for decision in decisions(log):
        assert (decision.plan.global_batch, decision.lr) == BATCHES[decision.plan.world_size]
    assert curve(log, "samples_seen") == sorted(set(curve(log, "samples_seen")))


@needs_horovod
def test_a_worker_that_does_not_see_the_checkpoints_is_refused_at_the_start(tmp_path):
    python = tmp_path / "python"
    python.write_text(
        f'#!/bin/sh\n[ $HOROVOD_RANK = 0 ] || {{ mkdir elsewhere; cd elsewhere; }}\nexec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    command = [*elastic_horovodrun(Hosts(tmp_path, HOSTS), 2, 600), str(python), "-m", "trainer", "train"]
    finished = subprocess.run(
        [*command, *THREE_EPOCHS, "output=runs", *QUIET],
        env=worker_environment(), cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert finished.returncode != 0
    refusal = "trainer: rank 1: runs is another folder than rank 0's: whoever goes on when rank 0 is lost needs its"
    assert refusal in finished.stdout + finished.stderr
    assert list((tmp_path / "runs").iterdir()) == []


def test_torchrun_starts_all_workers_again_where_one_is_killed(tmp_path, uninterrupted):
    prefix = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1"]
    env = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    arguments = ["train", *THREE_EPOCHS, *QUIET]
    with LiveRun(tmp_path, "torchrun", 2, arguments, prefix, env) as run:
        run.wait_until(lambda: has_saved(run))
        kill(run.worker(1))
        assert run.wait() == 0, run.said()[-3000:]
    assert_ends_like(tmp_path, uninterrupted)
    assert epochs_written(tmp_path) == [1, 2, 3]
    assert fleets(log_of(tmp_path)) == [2]


@pytest.mark.long
def test_torchrun_goes_on_with_the_nodes_that_are_left(tmp_path, uninterrupted):
    with torchrun_agents(tmp_path, ["train", *THREE_EPOCHS, *QUIET]) as agents:
        first, second = agents.start(), agents.start()
        first.wait_until(lambda: has_saved(first))
        second.kill_all()
        assert first.wait() == 0, first.said()[-3000:]
    assert_ends_like(tmp_path, uninterrupted)
    assert epochs_written(tmp_path) == [1, 2, 3]
    log = log_of(tmp_path)
    assert fleets(log) == [2, 1]
    assert_every_decision_is_the_rules(log, THREE_EPOCHS)


def test_torchrun_goes_on_when_the_nodes_of_the_plan_are_there(tmp_path, uninterrupted):
    with torchrun_agents(tmp_path, ["train", *THREE_EPOCHS, ONE_THEN_TWO, *QUIET]) as agents:
        first = agents.start()
        waiting = "trainer: epoch 1 begins with 2 workers: waiting for 1 more, at most 30 minutes"
        first.wait_until(lambda: waiting in first.said())
        assert log_of(tmp_path).status == PAUSED
        second = agents.start()
        assert (first.wait(), second.wait()) == (0, 0), first.said()[-3000:]
    assert_ends_like(tmp_path, uninterrupted)
    assert epochs_written(tmp_path) == [1, 2, 3]
    assert fleets(log_of(tmp_path)) == [1, 2]


def test_a_torchrun_whose_restarts_would_meet_the_addresses_of_dead_workers_is_refused(tmp_path):
    with torchrun_agents(tmp_path, ["train", *THREE_EPOCHS, *QUIET], shares_store=True) as agents:
        agent = agents.start()
        agent.wait_until(lambda: "set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 where it is started" in agent.said())
