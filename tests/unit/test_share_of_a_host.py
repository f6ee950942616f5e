"""Which cores and which GPU a worker takes of its host's."""

from __future__ import annotations

import os

import pytest
import torch

from trainer.cli.fleet import FleetError, choose_device, cores_per_worker
from trainer.environment import Launch, detect_launch

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("allowed", "workers", "given", "taken"),
    [
        (16, 4, None, 4),
        (16, 3, None, 5),
        (2, 8, None, 1),
        (4, 4, 4, 4),  # Slurm has bound each worker to its own four
        (16, 4, 2, 2),  # and here to none: all sixteen are seen
        (1, 4, 8, 1),  # a job has asked for eight a task, its step for one
    ],
)
def test_a_worker_takes_what_the_launcher_gave_it_or_an_even_share(monkeypatch, allowed, workers, given, taken):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(allowed)))
    assert cores_per_worker(Launch("srun", 0, workers, 0, workers, cores=given)) == taken


@pytest.fixture
def gpus(monkeypatch):
    """A machine that shows this process so many GPUs."""

    def show(count):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)

    return show


def a_task_of_slurm(local_rank, **variables):
    step = {"SLURM_PROCID": str(local_rank), "SLURM_STEP_NUM_TASKS": "4", "SLURM_LOCALID": str(local_rank)}
    names = {"SLURM_STEP_TASKS_PER_NODE": "4", "SLURM_STEP_ID": "0", "SLURM_NODEID": "0", "SLURM_JOB_ID": "7"}
    return detect_launch({**step, **names, "SLURM_STEP_NODELIST": "node0", **variables})


@pytest.mark.parametrize(
    ("shown", "asked", "taken"),
    [(4, {}, 3), (1, {"SLURM_GPUS_PER_TASK": "1"}, 0), (1, {"SLURM_GPUS_PER_TASK": "a100:1"}, 0),
     (4, {"SLURM_GPUS_PER_TASK": "1"}, 3)],  # --gpu-bind=none shows all of them
)  # fmt: skip
def test_a_worker_takes_the_gpu_of_its_place_or_the_only_one_that_slurm_shows_it(gpus, shown, asked, taken):
    gpus(shown)
    assert choose_device("auto", a_task_of_slurm(3, **asked)) == torch.device("cuda", taken)


def test_more_workers_than_gpus_are_refused(gpus):
    gpus(1)
    with pytest.raises(FleetError, match="start at most 1 workers a host"):
        choose_device("auto", a_task_of_slurm(3))
