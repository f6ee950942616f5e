"""However an update is cut up, and whoever connects the workers, it is the same update."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.launching import DISTRIBUTED_LAUNCHERS, run_workers

pytestmark = pytest.mark.numerics

WORKER = str(Path(__file__).with_name("fleet_worker.py"))
COLLECTIVES = {"torchrun": "ddp", "horovodrun": "horovod", "alone": "local"}


GHOST_BATCHES = {"none": "without batch norm", "8": "ghost batch norm"}
CUTS = ("32:1", "8:4")  # micro-batch and accumulation of two workers; one has all 64 at once


def ten_updates(folder, launcher, workers, *cases):
    """Parameters and running statistics after ten updates on digits, in float64, by case."""
    finished = run_workers(launcher, workers, [WORKER, COLLECTIVES[launcher], str(folder), *cases])
    assert finished.returncode == 0, finished.stderr
    return {case: torch.load(folder / f"{case}.pt", weights_only=True) for case in cases}


@pytest.fixture(scope="module")
def one_worker(tmp_path_factory):
    return ten_updates(tmp_path_factory.mktemp("one"), "alone", 1, *(f"{ghost}:64:1" for ghost in GHOST_BATCHES))


@pytest.fixture(scope="module", params=DISTRIBUTED_LAUNCHERS)
def two_workers(request, tmp_path_factory):
    cases = (f"{ghost}:{cut}" for ghost in GHOST_BATCHES for cut in CUTS)
    return ten_updates(tmp_path_factory.mktemp("two"), request.param, 2, *cases)


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("ghost_batch", GHOST_BATCHES, ids=GHOST_BATCHES.values())
def test_two_workers_make_the_updates_of_one(one_worker, two_workers, ghost_batch, cut):
    one, two = one_worker[f"{ghost_batch}:64:1"], two_workers[f"{ghost_batch}:{cut}"]
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        # float64: ten updates of sums taken in another order, 64 terms each, leave about 1e-15
        torch.testing.assert_close(two[name], tensor, rtol=1e-12, atol=1e-12, msg=name)


@pytest.mark.parametrize("launcher", DISTRIBUTED_LAUNCHERS)
def test_three_workers_repeat_themselves_to_the_bit(tmp_path, launcher):
    first, second = (ten_updates(tmp_path, launcher, 3, "8:8:2")["8:8:2"] for _ in range(2))
    for name, tensor in first.items():
        assert torch.equal(second[name], tensor), name
