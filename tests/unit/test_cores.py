"""How many cores a worker takes of its host's."""

from __future__ import annotations

import os

import pytest

from trainer.cli.fleet import cores_per_worker
from trainer.environment import Launch

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
