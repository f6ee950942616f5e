"""`trainer train` as people start it: alone, under torchrun, under horovodrun."""

from __future__ import annotations

import functools
import json
import subprocess
import sys

import pytest
import torch

from dali_pipelines.digits import digits_folder
from dali_pipelines.pipeline import open_dataset
from tests.launching import (
    DISTRIBUTED_LAUNCHERS,
    REPOSITORY,
    run_trainer,
    run_workers,
    worker_environment,
)
from trainer import __version__
from trainer.cli.main import main
from trainer.tracking import FINISHED, journals_in, read_journal

pytestmark = pytest.mark.integration

# Three epochs, one in each phase, at an lr so low that rounding errors stay small.
SHORT = [
    "schedule.reference.lr=0.002",
    "schedule.epochs=3",
    "schedule.curve.drops.0.epoch=1",
    "schedule.curve.drops.1.epoch=2",
]


def train(folder, *overrides, preset="digits-increase-batch", mlflow="off", **options):
    """One short run; returns the finished process, and the run's log where there is one."""
    arguments = ["train", preset, *SHORT, f"output={folder}", f"tracking.mlflow={mlflow}", *overrides]
    finished = run_trainer(*arguments, **options)
    logs = [read_journal(path) for path in journals_in(folder)] if any(folder.glob("*/journal.jsonl")) else []
    return finished, logs[-1] if logs else None


@pytest.fixture(scope="module")
def short_run(tmp_path_factory):
    """The log and the weights of a short run under a launcher, on one worker alone or on two; launched once."""

    @functools.cache
    def run(launcher):
        folder = tmp_path_factory.mktemp(launcher)
        finished, log = train(folder, launcher=launcher, workers=1 if launcher == "alone" else 2)
        assert finished.returncode == 0, finished.stderr
        return log, weights(folder)

    return run


@pytest.fixture(scope="module")
def one_worker(short_run):
    return short_run("alone")


def weights(folder):
    (file,) = folder.glob("*/weights.pt")
    return torch.load(file, weights_only=True)


def curve(log, metric):
    return [epoch.metrics[metric] for epoch in log.epochs]


def test_a_run_alone_follows_the_plan_and_learns(one_worker):
    log, _ = one_worker
    assert log.status == FINISHED
    assert curve(log, "batch/global") == [16, 48, 144]
    assert curve(log, "updates") == [90, 120, 130]
    assert curve(log, "samples_seen") == [1440, 2880, 4320]
    assert curve(log, "optim/lr") == [0.002, 0.002, 0.002]
    assert curve(log, "val/loss")[-1] < curve(log, "val/loss")[0]
    assert curve(log, "val/top1")[-1] > 0.3  # ten classes: chance is 0.1
    assert [event.fields["limited_by"] for event in log.events if event.kind == "decision"] == ["schedule"] * 3
    plan = json.loads(log.run.artifacts["plan.json"])
    assert plan["total_updates"] == log.close.summary["updates"] == 130


@pytest.mark.parametrize("launcher", DISTRIBUTED_LAUNCHERS)
def test_two_workers_follow_the_curve_of_one(short_run, one_worker, launcher):
    (log_of_one, weights_of_one), (log, weights_of_two) = one_worker, short_run(launcher)
    assert log.run.tags["world_size"] == "2"
    assert log.run.tags["launcher"] == launcher
    for metric in ("batch/global", "optim/lr", "updates", "samples_seen", "noise/sgd"):
        assert curve(log, metric) == curve(log_of_one, metric), metric
    # float32 gradients summed in another order: differences of 1e-7 grow over 130 updates
    for metric in ("train/loss", "val/loss"):
        assert curve(log, metric) == pytest.approx(curve(log_of_one, metric), rel=1e-3), metric
    for metric in ("val/top1", "val/top5"):  # of 357 images, a few lie on the border of two guesses
        assert curve(log, metric) == pytest.approx(curve(log_of_one, metric), abs=5 / 357), metric
    assert weights_of_two.keys() == weights_of_one.keys()


@pytest.mark.parametrize("launcher", ["alone", *DISTRIBUTED_LAUNCHERS])
def test_a_run_repeats_itself_to_the_bit(tmp_path, short_run, launcher):
    finished, log = train(tmp_path, launcher=launcher, workers=1 if launcher == "alone" else 2)
    assert finished.returncode == 0, finished.stderr
    log_before, weights_before = short_run(launcher)
    for metric in ("train/loss", "val/loss"):
        assert curve(log, metric) == curve(log_before, metric), metric
    for name, tensor in weights(tmp_path).items():
        assert torch.equal(tensor, weights_before[name]), name


def test_only_rank_0_speaks(tmp_path):
    finished, _ = train(tmp_path, launcher="torchrun", workers=3)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.count(f"trainer {__version__}: 3 workers (torchrun, ddp) on cpu, float32") == 1
    assert finished.stdout.count("finished: top-1") == 1
    assert finished.stdout.count("epoch   1/3") == 1
    assert len(list(tmp_path.glob("*/journal.jsonl"))) == 1


def test_a_run_goes_on_when_nobody_reads_what_it_says_any_more(tmp_path):
    arguments = ["train", "digits-increase-batch", *SHORT, f"output={tmp_path}", "tracking.mlflow=off"]
    run = subprocess.Popen(
        [sys.executable, "-m", "trainer", *arguments], env=worker_environment(), cwd=REPOSITORY,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert run.stdout.readline().startswith("trainer ")
    run.stdout.close()
    errors = run.stderr.read()
    assert (run.wait(60), errors) == (0, "")
    (journal,) = journals_in(tmp_path)
    assert read_journal(journal).status == FINISHED


def test_divergence_stops_the_run_before_the_update_and_marks_it_failed(tmp_path):
    words = "schedule.reference.lr=1.0e+30", "gradients.wire=float16"
    finished, log = train(tmp_path, *words, launcher="torchrun", workers=2)
    assert finished.returncode == 1
    assert (
        finished.stderr.count("trainer: the loss or its gradient is not finite in epoch 0, update 1, at lr 1e+30") == 1
    )
    assert "lower schedule.reference.lr" in finished.stderr
    assert "or gradients.wire=float32 (float16 carries a worker's gradient of up to 32 here)" in finished.stderr
    assert log.status == "FAILED"
    assert "gradient is not finite in epoch 0" in log.error


def test_the_variable_names_the_run_where_the_command_line_does_not(tmp_path):
    config = tmp_path / "mine.yaml"
    settings = ["name=mine", f"output={tmp_path}", "tracking.mlflow=off", *SHORT]
    printed = run_trainer("train", "digits-hybrid", "--print-config", *settings)
    config.write_text(printed.stdout)
    finished = run_trainer(env={"TRAINER_CONFIG": str(config)}, cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert "mine on 1 worker" in finished.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "digit-hybrid"], "neither a preset nor a .yaml file (did you mean 'digits-hybrid'?)"),
        (["train", "folder", "data.path=/nowhere"], "/nowhere: there is no such folder"),
        (["train", "digits-hybrid", "target_top1=76"], "target_top1: 76: should be less than or equal to 1"),
        (["train", "digits-hybrid", "model.name=resnet"], "is no known network"),
        (
            ["train", "digits-hybrid", "data.train_size=2000"],
            "data.train_size is 2000, and the training set has 1440 images",
        ),
        (["train", "digits-hybrid", "device=cuda"], "set device=cpu"),
        (["train", "digits-hybrid", "tracking.mlflow=ftp://x"], "is none that MLflow can use"),
        (["plan", "digits-hybrid", "--workers", "500"], "500 workers cannot share a global batch of 16 samples"),
        (["plan", "digits-hybrid", "--workers", "0"], "a fleet has at least one worker"),
        (["plan", "folder"], "add data.train_size=N"),
    ],
)
def test_bad_input_gets_one_line_and_exit_code_2(tmp_path, arguments, message):
    if "device=cuda" in arguments and torch.cuda.is_available():
        pytest.skip("needs a machine without a CUDA device")
    finished = run_trainer(*arguments, *([f"output={tmp_path}"] if arguments[0] == "train" else []))
    assert finished.returncode == 2
    assert finished.stderr.startswith("trainer: ")
    assert finished.stderr.count("\n") == 1
    assert message in finished.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("precision", "emulates"), [("bfloat16", True), ("bfloat16", False), ("float32", True)])
def test_a_processor_that_only_emulates_bfloat16_is_warned_of(monkeypatch, capsys, tmp_path, precision, emulates):
    monkeypatch.setattr("trainer.processor.computes_bfloat16", lambda: not emulates)
    refused = "fleet=[{epoch: 0, workers: 2}]"  # right after that, so that nothing is trained
    words = [f"precision={precision}", "device=cpu", f"output={tmp_path}", "tracking.mlflow=off", refused]
    assert main(["train", "digits-hybrid", *words]) == 2
    is_warned = "warning: this processor only emulates bfloat16" in capsys.readouterr().out
    assert is_warned == (precision == "bfloat16" and emulates)


@pytest.mark.parametrize("launcher", DISTRIBUTED_LAUNCHERS)
def test_under_a_launcher_one_worker_speaks_for_all(tmp_path, launcher):
    finished = run_trainer(
        "train",
        "digits-hybrid",
        "schedule.reference.global_batch=1",
        f"output={tmp_path}",
        launcher=launcher,
        workers=2,
    )
    assert finished.returncode != 0
    output = finished.stdout + finished.stderr
    assert output.count("2 workers cannot share a global batch of 1 samples") == 1
    assert "Traceback (most recent call last)" not in output.replace("torch/distributed", "").split("trainer:")[0]


def test_an_output_folder_that_cannot_be_written_is_named(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("a file where the folder should be")
    finished = run_trainer("train", "digits-hybrid", *SHORT, f"output={blocked}", "tracking.mlflow=off")
    assert finished.returncode == 2
    assert "choose another output folder" in finished.stderr
    assert "Traceback" not in finished.stderr


def test_an_unreachable_mlflow_server_costs_a_warning_and_nothing_else(tmp_path):
    finished, log = train(tmp_path, mlflow="http://127.0.0.1:9")
    assert finished.returncode == 0, finished.stderr
    assert log.status == FINISHED
    assert "training goes on, the journal keeps everything" in finished.stdout
    assert "trainer sync" in finished.stdout


def test_the_learning_rate_and_the_noise_of_a_warm_up_are_logged_as_they_were(tmp_path):
    finished, log = train(tmp_path, "schedule.warmup.epochs=2", "schedule.warmup.start_factor=0.5",
                          "schedule.curve.shape=constant", "schedule.curve.drops=[]")  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    # the last of 90 updates an epoch starts after 89/90 and 1 + 89/90 of the two epochs' line from 0.5 to 1
    lrs = [0.002 * (0.5 + 0.5 * 89 / 180), 0.002 * (0.5 + 0.5 * 179 / 180), 0.002]
    assert curve(log, "optim/lr") == pytest.approx(lrs)
    # g = lr/(1-m) N/B = 10 x 90 x lr
    assert curve(log, "noise/sgd") == pytest.approx([900 * lr for lr in lrs])


@pytest.fixture(scope="module")
def broken_photos(tmp_path_factory):
    """Digits of which one was damaged after they were indexed."""
    folder = digits_folder(tmp_path_factory.mktemp("digits"))
    open_dataset("folder", folder)
    broken = sorted((folder / "train" / "3").iterdir())[5]
    broken.write_bytes(broken.read_bytes()[:45])
    return folder, broken.name


@pytest.mark.parametrize("launcher", ["alone", *DISTRIBUTED_LAUNCHERS])
def test_an_image_that_cannot_be_decoded_stops_all_workers_and_is_named_once(tmp_path, broken_photos, launcher):
    folder, name = broken_photos
    finished, log = train(
        tmp_path,
        "data.format=folder",
        f"data.path={folder}",
        launcher=launcher,
        workers=1 if launcher == "alone" else 2,
    )
    output = finished.stdout + finished.stderr
    assert finished.returncode == 1
    assert sum("trainer: " in line and name in line for line in output.splitlines()) == 1
    assert "another worker has ended" not in output
    assert log.status == "FAILED"
    assert name in log.error


@pytest.mark.parametrize("launcher", DISTRIBUTED_LAUNCHERS)
def test_a_worker_that_is_killed_ends_the_others_and_is_named(tmp_path, launcher):
    suicide = tmp_path / "worker.py"
    suicide.write_text(
        "import os, pathlib, sys, threading, time\n"
        "from trainer.cli.main import main\n"
        "def die_after_an_epoch():\n"
        "    here = pathlib.Path(__file__).parent\n"
        "    while not any('train/loss' in journal.read_text() for journal in here.glob('*/journal.jsonl')):\n"
        "        time.sleep(0.2)\n"
        "    os.kill(os.getpid(), 9)\n"
        "if os.environ.get('HOROVOD_RANK', os.environ.get('RANK')) == '1':\n"
        "    threading.Thread(target=die_after_an_epoch, daemon=True).start()\n"
        "raise SystemExit(main(sys.argv[1:]))\n"
    )
    arguments = ["train", "digits-decay-lr", "schedule.epochs=500", f"output={tmp_path}", "tracking.mlflow=off"]
    finished = run_workers(launcher, 2, [str(suicide), *arguments], timeout_s=90)
    assert finished.returncode != 0
    (journal,) = journals_in(tmp_path)
    log = read_journal(journal)
    assert log.status == "FAILED"
    assert log.error.startswith("another worker has ended (rank 1 does not answer, ")


def test_workers_with_different_settings_do_not_start(tmp_path):
    differing = tmp_path / "worker.py"
    differing.write_text(
        "import os, sys\n"
        "from trainer.cli.main import main\n"
        "raise SystemExit(main([*sys.argv[1:], 'seed=' + os.environ['RANK']]))\n"
    )
    arguments = [str(differing), "train", "digits-hybrid", f"output={tmp_path}"]
    finished = run_workers("torchrun", 2, arguments)
    assert finished.returncode != 0
    assert finished.stderr.count("trainer: rank 1 has another configuration than rank 0") == 1
    assert not list(tmp_path.glob("*/journal.jsonl"))
