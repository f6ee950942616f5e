"""A small run that fleets of other sizes do alike, to its last loss, and what its journal says of it."""

from __future__ import annotations

import json

import pytest
import torch

from tests.launching import run_trainer
from trainer.tracking import FINISHED, journals_in, read_journal

# Three epochs of one batch that 1 and 2 workers share in whole ghost batches, at an lr so low that rounding errors stay
# small.
THREE_EPOCHS = [
    "digits-decay-lr",
    "schedule.epochs=3",
    "schedule.reference={lr: 0.002, global_batch: 32, momentum: 0.9}",
    "schedule.curve={shape: constant}",
]
ONE_THEN_TWO = "fleet=[{epoch: 0, workers: 1}, {epoch: 1, workers: 2}]"
TWO_THEN_ONE = "fleet=[{epoch: 0, workers: 2}, {epoch: 1, workers: 1}]"


def train(folder, *arguments, **options):
    """Runs `trainer train`, with its record in the folder."""
    return run_trainer("train", *arguments, f"output={folder}", "tracking.mlflow=off", **options)


def the_run(folder):
    (journal,) = journals_in(folder)
    return journal.parent


def log_of(folder):
    return read_journal(the_run(folder) / "journal.jsonl")


def weights(folder):
    return torch.load(the_run(folder) / "weights.pt", weights_only=True)


def curve(log, metric):
    return [epoch.metrics[metric] for epoch in log.epochs]


def epochs_written(folder):
    """Every epoch's line in the journal, those too that a later one replaces."""
    lines = (the_run(folder) / "journal.jsonl").read_text().splitlines()
    return [record["epoch"] for record in map(json.loads, lines) if record["type"] == "epoch"]


def train_uninterrupted(folder):
    """One worker from the first epoch to the last."""
    finished = train(folder, *THREE_EPOCHS)
    assert finished.returncode == 0, finished.stderr


def assert_ends_like(folder, uninterrupted):
    """The run finished as one worker alone would have."""
    log, whole = log_of(folder), log_of(uninterrupted)
    assert log.status == FINISHED
    for metric in ("batch/global", "optim/lr", "updates", "samples_seen", "noise/sgd"):
        assert curve(log, metric) == curve(whole, metric), metric
    # float32 sums in another order: differences of 1e-7 grow over 135 updates, at the kinks of ReLU and pooling most
    for metric in ("train/loss", "val/loss"):
        assert curve(log, metric) == pytest.approx(curve(whole, metric), rel=1e-3), metric
