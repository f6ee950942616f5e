"""Runs that are taken up again, by `--resume`, on the same fleet and on others."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest
import torch

from dali_pipelines.digits import digits_folder
from tests.fleet_runs import (
    ONE_THEN_TWO,
    THREE_EPOCHS,
    TWO_THEN_ONE,
    assert_ends_like,
    curve,
    epochs_written,
    log_of,
    the_run,
    train,
    train_uninterrupted,
    weights,
)
from tests.launching import (
    DISTRIBUTED_LAUNCHERS,
    REPOSITORY,
    heed_signals,
    needs_horovod,
    run_trainer,
    run_workers,
    worker_environment,
)
from trainer.cli.main import main
from trainer.tracking import FINISHED, KILLED, PAUSED, journals_in, read_journal

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """One worker from the first epoch to the last; its folder."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    train_uninterrupted(folder)
    return folder


@pytest.fixture(scope="module")
def paused_template(tmp_path_factory):
    """A run on one worker that waits for a second one; its folder."""
    folder = tmp_path_factory.mktemp("paused")
    finished = train(folder, *THREE_EPOCHS, ONE_THEN_TWO)
    assert finished.returncode == 75, finished.stderr
    return folder, finished


@pytest.fixture
def paused(tmp_path, paused_template):
    """A copy of the run that waits, to try things on."""
    folder = tmp_path / "runs"
    shutil.copytree(paused_template[0], folder)
    return folder


def test_a_run_pauses_before_the_epoch_of_another_fleet_and_says_how_it_goes_on(paused_template):
    folder, finished = paused_template
    run, log = the_run(folder), log_of(folder)
    assert finished.stderr == (
        f"trainer: epoch 1 begins with 2 workers: start again with torchrun --nproc-per-node 2 -m trainer train "
        f"--resume {run}\n"
    )
    assert (log.status, log.error) == (PAUSED, None)
    assert curve(log, "updates") == [45]
    (event,) = [event for event in log.events if event.kind == "fleet"]
    assert event.fields == {"epoch": 1, "planned": 2, "present": 1}
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["1440", "best"]


def test_a_run_killed_in_an_epoch_and_resumed_is_the_uninterrupted_one_to_the_bit(tmp_path, uninterrupted, capsys):
    process = subprocess.Popen(
        [sys.executable, "-m", "trainer", "train", *THREE_EPOCHS, f"output={tmp_path}", "tracking.mlflow=off"],
        env=worker_environment(), cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, preexec_fn=heed_signals,
    )  # fmt: skip
    try:
        lines = iter(process.stdout.readline, "")
        assert any(line.startswith("epoch   2/3") for line in lines)
    finally:
        process.kill()
        process.communicate(timeout=30)
    assert log_of(tmp_path).status == KILLED
    before = epochs_written(tmp_path)
    finished = run_trainer("train", "--resume", str(the_run(tmp_path)))
    assert finished.returncode == 0, finished.stderr
    log, whole = log_of(tmp_path), log_of(uninterrupted)
    for metric in ("train/loss", "val/loss", "val/top1", "updates"):
        assert curve(log, metric) == curve(whole, metric), metric
    for name, tensor in weights(uninterrupted).items():
        assert torch.equal(weights(tmp_path)[name], tensor), name
    (event,) = [event for event in log.events if event.kind == "resume"]
    assert event.fields["samples_seen"] == 1440 * event.fields["epoch"]
    assert epochs_written(tmp_path) == [*before, *range(event.fields["epoch"] + 1, 4)]
    times = curve(log, "elapsed_s")
    assert times == sorted(times)
    assert main(["train", "--resume", str(the_run(tmp_path))]) == 0
    assert capsys.readouterr() == (f"{the_run(tmp_path)}: this run is finished, there is nothing to do\n", "")


@pytest.mark.parametrize("launcher", DISTRIBUTED_LAUNCHERS)
def test_a_run_of_two_workers_goes_on_with_one(tmp_path, uninterrupted, launcher):
    first = train(tmp_path, *THREE_EPOCHS, TWO_THEN_ONE, launcher=launcher, workers=2)
    run = the_run(tmp_path)
    commands = {"torchrun": "trainer", "horovodrun": "horovodrun -np 1 trainer"}
    assert first.returncode != 0  # launchers have an exit code of their own
    output = first.stdout + first.stderr
    said = f"trainer: epoch 1 begins with 1 worker: start again with {commands[launcher]} train --resume {run}"
    assert output.count(said) == 1
    assert log_of(tmp_path).status == PAUSED
    assert main(["train", "--resume", str(run)]) == 0
    assert_ends_like(tmp_path, uninterrupted)
    assert epochs_written(tmp_path) == [1, 2, 3]


@needs_horovod
def test_a_run_goes_on_with_twice_the_workers_on_other_micro_batches_where_only_rank_0_has_the_folder(
    paused, tmp_path, uninterrupted
):
    """The other worker runs in a folder where the run is not. (How runs grow by themselves: test_elastic.py.)"""
    worker = tmp_path / "worker.py"
    worker.write_text(
        "import os, sys\n"
        "from trainer.cli.main import command\n"
        "if os.environ['HOROVOD_RANK'] != '0':\n"
        "    os.mkdir('elsewhere'); os.chdir('elsewhere')\n"
        "command()\n"
    )
    run = the_run(paused).relative_to(tmp_path)
    arguments = [str(worker), "train", "--resume", str(run), "schedule.limits.max_micro_batch=8"]
    finished = run_workers("horovodrun", 2, arguments, cwd=tmp_path)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert_ends_like(paused, uninterrupted)
    assert curve(log_of(paused), "batch/micro") == [32, 8, 8]
    assert epochs_written(paused) == [1, 2, 3]


def test_a_run_that_pauses_again_is_started_again_with_what_was_given_to_go_on(paused, capsys):
    run = the_run(paused)
    fleet = "fleet=[{epoch: 0, workers: 1}, {epoch: 2, workers: 2}]"
    assert main(["train", "--resume", str(run), fleet]) == 75
    assert capsys.readouterr().err == (
        f"trainer: epoch 2 begins with 2 workers: start again with torchrun --nproc-per-node 2 -m trainer train "
        f"'{fleet}' --resume {run}\n"
    )


def test_the_run_of_the_configuration_is_found_or_a_new_one_starts(paused, capsys):
    auto = [f"output={paused}", "tracking.mlflow=off", "--resume", "auto"]
    assert main(["train", *THREE_EPOCHS, "schedule.epochs=1", *auto]) == 0  # one epoch is another run than three
    said = capsys.readouterr().out
    assert f"--resume auto: {paused} holds no unfinished run of this configuration: a new one starts\n" in said
    assert len(journals_in(paused)) == 2
    assert main(["train", *THREE_EPOCHS, *auto]) == 0  # the fleet may be another
    assert "resumed after 1,440 samples: epoch 1 is next\n" in capsys.readouterr().out
    assert [read_journal(path).status for path in journals_in(paused)] == [FINISHED] * 2


def other_data(folder):
    """Digits without one of them."""
    data = digits_folder(folder)
    next((data / "train" / "3").iterdir()).unlink()
    return data


def test_what_is_another_run_is_refused_and_named(paused, tmp_path, capsys):
    run = the_run(paused)
    before = (run / "journal.jsonl").read_bytes()

    def refusal(*arguments):
        assert main(["train", *arguments]) == 2
        said = capsys.readouterr().err
        assert said.startswith("trainer: ")
        assert said.count("\n") == 1
        return said

    assert (
        f"{run}: cannot go on as another run: seed was 0 and is 1 now: give the run's own settings (trainer train "
        f"--resume {run}), or train anew" in refusal("--resume", str(run), "fleet=null", "seed=1")
    )
    several = refusal(*THREE_EPOCHS, "target_top1=0.5", "optimizer.weight_decay=0", "--resume", str(run))
    assert "target_top1 was 0.985 and is 0.5 now, optimizer.weight_decay was 0.0005 and is 0.0 now: " in several
    changed = refusal(
        "--resume", str(run), "data.format=folder", "data.train_size=null", f"data.path={other_data(tmp_path)}"
    )
    assert "data.format was digits and is folder now" in changed
    assert "the data set's digest was " in changed
    assert (
        "1 worker was started, and the fleet has 2 in epoch 1: start torchrun --nproc-per-node 2 -m trainer train "
        f"--resume {run}, or set fleet=null" in refusal("--resume", str(run))
    )
    assert "/nowhere: there is no such folder: give --resume the folder of a run, or auto" in refusal(
        "--resume", "/nowhere"
    )
    assert f"{tmp_path}: holds no run: give --resume" in refusal("--resume", str(tmp_path))
    assert (run / "journal.jsonl").read_bytes() == before

    saved = run / "checkpoints" / "1440" / "model.pt"
    saved.write_bytes(saved.read_bytes()[:1000])
    assert f"{saved}: is damaged (its SHA-256 is not the one in SHA256SUMS)" in refusal(
        "--resume", str(run), "fleet=null"
    )
    shutil.rmtree(run / "checkpoints")
    assert f"{run}: has no checkpoint, as a run that ended before its first: train anew" in refusal(
        "--resume", str(run)
    )


def test_a_start_with_the_wrong_number_of_workers_is_refused(tmp_path, capsys):
    assert main(["train", *THREE_EPOCHS, TWO_THEN_ONE, f"output={tmp_path}", "tracking.mlflow=off"]) == 2
    assert "1 worker was started, and the fleet has 2 in epoch 0: start torchrun --nproc-per-node 2" in (
        capsys.readouterr().err
    )
    assert list(tmp_path.iterdir()) == []
