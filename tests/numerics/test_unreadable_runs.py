"""Runs on files of which some cannot be read: the same run, the same record and the same end on every fleet."""

from __future__ import annotations

import copy
import shutil
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from dali_pipelines.augmentation import Augmentation
from dali_pipelines.digits import digits_folder
from dali_pipelines.pipeline import open_dataset, open_pipeline
from dali_pipelines.sample_order import sample_ids
from tests.digits_jobs import SEED, Curves, job_of, network
from tests.fleet_in_threads import run_fleet
from trainer.collective.agreement import WorkerError
from trainer.engine.evaluate import evaluate
from trainer.engine.guarded_input import GuardedInput
from trainer.engine.train import train

pytestmark = pytest.mark.numerics

SPOILT = (100, 101, 700)
OPTIONS = {
    "seed": SEED,
    "image_size": 8,
    "augmentation": Augmentation(crop="none", flip=False),
    "mean": (0.5,) * 3,
    "std": (0.5,) * 3,
    "max_micro_batch": 357,
    "device": torch.device("cpu"),
    "threads": 1,
}


class Record(Curves):
    """Keeps events too, and counts updates."""

    def __init__(self):
        super().__init__()
        self.events, self.updates = [], 0

    def epoch_started(self, decision, on_schedule, advance, updates):
        return None

    def update_done(self, samples, loss, lr):
        self.updates += 1

    def epoch_done(self, epoch, metrics):
        return None

    def event(self, kind, fields):
        self.events.append((kind, fields))


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory):
    """The digits, of which two training images are gone and one is a text."""
    root = shutil.copytree(digits_folder(), tmp_path_factory.mktemp("digits") / "digits")
    dataset = open_dataset("folder", root)
    for sample in SPOILT[:2]:
        dataset.train.path(sample).unlink()
    dataset.train.path(SPOILT[2]).write_text("no image any more")
    return dataset


def run_on(dataset, workers, folder, max_unreadable):
    """Each worker's record, and the error that ended its run, if any."""

    def work(collective):
        record, error = Record(), None
        with closing(open_pipeline(dataset, **OPTIONS, max_unreadable=max_unreadable)) as pipeline:
            job = job_of(folder, record, collective=collective)
            job = replace(job, pipeline=pipeline, unreadable=pipeline.unreadable, progress=record)
            try:
                train(job)
            except WorkerError as failure:
                error = str(failure)
        return record, error

    return run_fleet(workers, work)


def files_told(record):
    return [fields["files"] for kind, fields in record.events if kind == "unreadable"]


def test_a_run_that_goes_on_without_some_files_is_the_same_on_every_fleet(spoilt, tmp_path):
    ((alone, _),) = run_on(spoilt, 1, tmp_path / "1", max_unreadable=3)
    assert sorted(alone.metrics) == [1, 2, 3, 4, 5]
    assert sum(len(files) for files in files_told(alone)) == 3
    for workers in (2, 4):
        for record, error in run_on(spoilt, workers, tmp_path / str(workers), max_unreadable=3):
            assert error is None
            told = [path for files in files_told(record) for path in files]
            assert sorted(told) == sorted(path for files in files_told(alone) for path in files)
            for epoch, values in record.metrics.items():
                cut = {key: values[key] for key in ("batch/micro", "batch/accumulation_steps")}
                # float32: sums in another order, grown over 150 updates
                assert values == pytest.approx({**alone.metrics[epoch], **cut}, rel=1e-3, abs=5 / 357), epoch


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_one_file_too_many_stops_all_workers_in_the_update_that_needs_it(spoilt, tmp_path, workers):
    last_met = max(sample_ids(SEED, 1440, np.arange(1440)).tolist().index(sample) for sample in SPOILT)
    outcomes = run_on(spoilt, workers, tmp_path, max_unreadable=2)
    assert len({error for _, error in outcomes}) == 1
    for record, error in outcomes:
        assert "and data.max_unreadable allows 2: repair or remove the files" in error
        assert all(spoilt.train.path(sample).name in error for sample in SPOILT)
        assert record.updates <= last_met // 32  # of 32 samples; decoding ahead may meet the file earlier


def test_without_leave_the_first_file_stops_the_run(spoilt, tmp_path):
    for _, error in run_on(spoilt, 2, tmp_path, max_unreadable=0):
        assert "cannot be decoded: " in error
        assert "repair or remove the files and index them again" in error


@pytest.mark.parametrize("workers", [1, 3])
def test_an_unreadable_validation_image_counts_as_guessed_wrong_and_not_in_the_loss(tmp_path, workers):
    model = network("plain")

    def evaluated(dataset, max_unreadable):
        def work(collective):
            with closing(open_pipeline(dataset, **OPTIONS, max_unreadable=max_unreadable)) as pipeline:
                images = GuardedInput(lambda: pipeline.evaluation_batches(collective.rank, workers, 50))
                return evaluate(copy.deepcopy(model), images, collective, torch.device("cpu"))

        return run_fleet(workers, work)[0]

    root = shutil.copytree(digits_folder(), tmp_path / "digits")
    dataset = open_dataset("folder", root)
    with closing(open_pipeline(dataset, **OPTIONS)) as pipeline:
        ((images, labels),) = pipeline.evaluation_batches(0, 1, 357)
    with torch.inference_mode():
        logits = model.eval()(images)
    guessed, losses = logits.argmax(1) == labels, F.cross_entropy(logits, labels, reduction="none")
    victim = int(torch.nonzero(guessed)[0])
    dataset.validation.path(victim).unlink()
    evaluation = evaluated(dataset, max_unreadable=1)
    assert evaluation.images == 357
    assert evaluation.top1 == (int(guessed.sum()) - 1) / 357
    others = torch.arange(357) != victim
    assert evaluation.loss == pytest.approx(float(losses[others].mean()), rel=1e-6)  # float32
