"""A run whose batch changes at every epoch holds no more after many changes than after a few."""

from __future__ import annotations

import dataclasses
import gc
import threading

import pytest
import torch

from dali_pipelines.augmentation import Augmentation
from dali_pipelines.pipeline import open_dataset, open_pipeline
from tests.digits_jobs import Curves, job_of
from trainer.engine.saving import SavingPlan
from trainer.engine.train import train
from trainer.rule import Limits, NoiseCurve, NoiseDrop, Reference, Schedule
from trainer.tracking.progress import SilentProgress

pytestmark = pytest.mark.numerics

CHANGES, EARLY = 12, 2
# 96 = 2 x 48 and 384 = 6 x 64 in turns: other micro-batches, and another number of them
SCHEDULE = Schedule(
    Reference(0.01, 384),
    Limits(64, max_global_batch=384),
    1440,
    CHANGES + 1,
    NoiseCurve("steps", "batch", tuple(NoiseDrop(i, 0.25 if i % 2 else 4.0) for i in range(1, CHANGES + 1))),
)


class Holdings(SilentProgress):
    """What the process holds after EARLY and after CHANGES changes: tensors, their bytes, threads."""

    def __init__(self):
        self.cuts, self.held = [], []

    def epoch_started(self, decision, on_schedule, advance, updates):
        self.cuts.append((decision.plan.micro_batch, decision.plan.accumulation_steps))

    def epoch_done(self, epoch, metrics):
        if epoch not in (1 + EARLY, 1 + CHANGES):
            return
        gc.collect()
        tensors = [each for each in gc.get_objects() if type(each) in (torch.Tensor, torch.nn.Parameter)]
        storages = {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in tensors}
        self.held.append((len(tensors), sum(storages.values()), threading.active_count()))


def stream(in_memory):
    dataset = dataclasses.replace(open_dataset("digits"), in_memory=in_memory)
    return open_pipeline(
        dataset, seed=3, image_size=10, max_micro_batch=64, device=torch.device("cpu"), threads=1,
        augmentation=Augmentation(crop="pad" if in_memory else "random_resized"), mean=(0.3,) * 3, std=(0.4,) * 3,
    )  # fmt: skip


@pytest.mark.parametrize("in_memory", [True, False], ids=["held in memory", "read from files"])
def test_nothing_is_left_behind_by_a_change_of_the_batch(tmp_path, in_memory):
    holdings, pipeline = Holdings(), stream(in_memory)
    job = job_of(tmp_path, Curves(), saving=SavingPlan(every_epochs=100))
    train(dataclasses.replace(job, schedule=SCHEDULE, pipeline=pipeline, progress=holdings))
    pipeline.close()
    assert len(set(holdings.cuts)) == 2, "the batch changes"
    assert all(a != b for a, b in zip(holdings.cuts, holdings.cuts[1:], strict=False)), "with every epoch"
    early, late = holdings.held
    assert late == early
