"""`trainer sweep` as people start it: real runs, alone and under a launcher, broken off and taken up again."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.launching import DISTRIBUTED_LAUNCHERS, REPOSITORY, heed_signals, run_trainer, worker_environment
from trainer.sweep.attempts import settled_by
from trainer.tracking import FAILED, FINISHED, KILLED, PAUSED, read_journal
from trainer.tracking.mlflow_store import open_client
from trainer.tracking.tracking_uri import sqlite_uri

pytestmark = pytest.mark.integration

LAUNCHER = {
    "alone": [],
    "torchrun": ["--launcher", "torchrun --standalone --nproc-per-node 2"],
    "horovodrun": ["--launcher", "horovodrun -np 2"],
}


def command(folder, *words):
    return ["sweep", "digits-increase-batch", f"output={folder}", "--name", "grid", *words]


def logs_of(folder):
    """The sweep's runs so far, in the order in which they began."""
    journals = [path for path in (folder / "grid").glob("*/journal.jsonl") if path.stat().st_size > 0]
    return sorted(map(read_journal, journals), key=lambda log: log.start_time_s)


def sweeps_own(folder):
    return read_journal(folder / "grid" / "sweep.jsonl")


def test_a_grid_is_run_point_by_point_and_a_run_that_diverges_is_noted(tmp_path):
    words = ["schedule.epochs=0.2", "--vary", "schedule.reference.lr=0.1,1.0e+9", "--seeds", "2"]
    finished = run_trainer(*command(tmp_path, "tracking.mlflow=off", *words))
    assert (finished.returncode, finished.stderr) == (1, "")
    _, *lines, last = finished.stdout.splitlines()
    points = [(lr, seed) for seed in (0, 1) for lr in ("0.1", "1.0e+9")]
    for number, (line, (lr, seed)) in enumerate(zip(lines, points, strict=True), 1):
        assert line.startswith(f"{number}/4 schedule.reference.lr={lr} seed={seed}: ")
        # 0.2 epochs of 1,440 images in batches of 16
        assert (": top-1 " in line and " 18 updates, " in line) if lr == "0.1" else ": failed: the loss" in line
    assert last.startswith(f"sweep grid: 2 of 4 points finished, 2 failed; compare them: trainer compare {tmp_path}")

    logs = logs_of(tmp_path)
    assert [log.status for log in logs] == [FINISHED, FAILED, FINISHED, FAILED]
    assert [log.run.params["seed"] for log in logs] == ["0", "0", "1", "1"]
    assert all("18 updates" in (tmp_path / "grid" / log.run.run_uid / "output.log").read_text() for log in logs)
    own = sweeps_own(tmp_path)
    assert (own.status, own.error) == (FAILED, "2 of 4 points failed")
    assert [entry.metrics["sweep/finished"] for entry in own.epochs] == [1, 1, 2, 2]
    assert [entry.metrics["sweep/failed"] for entry in own.epochs] == [0, 1, 1, 2]
    assert own.epochs[2].metrics["sweep/final_top1"] == logs[2].close.summary["final_top1"]

    compared = run_trainer("compare", str(tmp_path / "grid"))
    assert compared.returncode == 0, compared.stderr
    assert (tmp_path / "grid" / "comparison" / "report.html").exists()


def break_off(folder, words, signal_number, runs):
    """Starts the sweep and signals it in the middle of the last of so many runs; returns its exit code and output."""
    sweep = subprocess.Popen(
        [sys.executable, "-m", "trainer", *words],
        cwd=REPOSITORY,
        env=worker_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=heed_signals,
    )
    end = time.monotonic() + 120
    try:
        while not any(log.epochs for log in logs_of(folder)[runs - 1 :]):
            assert time.monotonic() < end
            assert sweep.poll() is None
            time.sleep(0.2)
    finally:
        sweep.send_signal(signal_number)
        out, _ = sweep.communicate(timeout=100)
    return sweep.returncode, out


def test_a_sweep_that_is_broken_off_goes_on_where_it_was(tmp_path):
    words = command(tmp_path, "--vary", "schedule.epochs=0.2,6", "--seeds", "1")
    code, out = break_off(tmp_path, words, signal.SIGINT, runs=2)
    assert code == 130, out
    assert "stopping: the run under way is saved" in out
    assert "1 of 2 points finished; interrupted: the same command goes on from here" in out
    first, broken_off = logs_of(tmp_path)
    assert first.status == FINISHED
    assert broken_off.status == PAUSED
    own = sweeps_own(tmp_path)
    assert (own.status, own.error) == (KILLED, "interrupted")

    again = run_trainer(*words)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "2 points, 1 of them done before" in again.stdout
    assert "2/2 schedule.epochs=6 seed=0: top-1 " in again.stdout
    _, gone_on = logs_of(tmp_path)  # the same two runs
    assert (gone_on.status, gone_on.run.run_uid) == (FINISHED, broken_off.run.run_uid)
    assert [event.kind for event in gone_on.events].count("resume") == 1
    ended = sweeps_own(tmp_path)
    assert (ended.status, ended.run.run_uid) == (FINISHED, own.run.run_uid)
    assert [entry.metrics["sweep/finished"] for entry in ended.epochs] == [1, 2]

    client = open_client(sqlite_uri(tmp_path))  # beside the sweep's folder, where other runs' is
    runs = client.search_runs([client.get_experiment_by_name("digits").experiment_id])
    (parent,) = [run for run in runs if run.data.tags.get("kind") == "sweep"]
    assert (parent.info.run_name, parent.info.status) == ("grid", FINISHED)
    children = {run.data.tags["run_uid"]: run.info.run_id for run in runs if run is not parent}
    assert set(children) == {log.run.run_uid for log in logs_of(tmp_path)}
    # As MLflow itself finds the parent of a run, its pages too
    assert {client.get_parent_run(run_id).info.run_id for run_id in children.values()} == {parent.info.run_id}


def test_a_run_whose_checkpoints_are_damaged_ends_the_sweep_and_says_how_to_begin_it_anew(tmp_path):
    words = command(tmp_path, "tracking.mlflow=off", "schedule.epochs=1000")
    code, out = break_off(tmp_path, words, signal.SIGTERM, runs=1)
    assert code == 130, out
    (broken_off,) = logs_of(tmp_path)
    folder = Path(broken_off.source).parent
    for sums in folder.glob("checkpoints/[0-9]*/SHA256SUMS"):
        sums.unlink()
    again = run_trainer(*words)
    assert again.returncode == 2
    assert "SHA256SUMS: cannot be read" in again.stderr
    assert again.stderr.endswith(f"; to begin this run anew, remove {folder}\n")
    assert again.stderr.count("\n") == 1


@pytest.mark.parametrize("launcher", DISTRIBUTED_LAUNCHERS)
def test_all_workers_of_a_run_end_with_its_sweep(tmp_path, launcher):
    words = command(tmp_path, "tracking.mlflow=off", "schedule.epochs=1000", *LAUNCHER[launcher])
    code, out = break_off(tmp_path, words, signal.SIGTERM, runs=1)
    assert code == 130, out
    (broken_off,) = logs_of(tmp_path)
    assert broken_off.run.tags["world_size"] == "2"
    assert broken_off.status == PAUSED
    assert settled_by([broken_off]) is None
    assert sweeps_own(tmp_path).status == KILLED


@pytest.mark.parametrize("launcher", ["alone", *DISTRIBUTED_LAUNCHERS])
def test_what_no_run_can_begin_with_ends_the_sweep_with_the_runs_own_words(tmp_path, launcher):
    words = ["tracking.mlflow=off", "data.train_size=2000", "--seeds", "3", *LAUNCHER[launcher]]
    finished = run_trainer(*command(tmp_path, *words))
    assert finished.returncode == 2
    assert finished.stderr.startswith("trainer: seed=0: data.train_size is 2000, and the training set has 1440 images")
    assert finished.stderr.count("\n") == 1
    assert "seed=1" not in finished.stdout + finished.stderr
    own = sweeps_own(tmp_path)
    assert own.status == FAILED
    assert "the training set has 1440 images" in own.error
    assert not list((tmp_path / "grid").glob("*/journal.jsonl"))
