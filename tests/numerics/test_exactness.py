"""However an update is cut up, and whoever connects the workers, it is the same update."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.launching import DISTRIBUTED_LAUNCHERS, run_workers

pytestmark = pytest.mark.numerics

WORKER = str(Path(__file__).with_name("fleet_worker.py"))
COLLECTIVES = {"torchrun": "ddp", "horovodrun": "horovod", "alone": "local"}


def ten_updates(folder, launcher, workers, ghost_batch, micro_batch, accumulation_steps):
    """Parameters and running statistics after ten updates on digits, in float64."""
    out = folder / "state.pt"
    arguments = [WORKER, COLLECTIVES[launcher], ghost_batch, str(micro_batch), str(accumulation_steps), str(out)]
    finished = run_workers(launcher, workers, arguments)
    assert finished.returncode == 0, finished.stderr
    return torch.load(out, weights_only=True)


@pytest.fixture(scope="module", params=["none", "8"], ids=["without batch norm", "ghost batch norm"])
def one_worker(request, tmp_path_factory):
    """The ghost batch, and the state after ten updates of one micro-batch of 64 on one worker."""
    return request.param, ten_updates(tmp_path_factory.mktemp("one"), "alone", 1, request.param, 64, 1)


@pytest.mark.parametrize("launcher", DISTRIBUTED_LAUNCHERS)
@pytest.mark.parametrize(("micro_batch", "accumulation_steps"), [(32, 1), (8, 4)])
def test_two_workers_make_the_updates_of_one(tmp_path, one_worker, launcher, micro_batch, accumulation_steps):
    ghost_batch, one = one_worker
    two = ten_updates(tmp_path, launcher, 2, ghost_batch, micro_batch, accumulation_steps)
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        # float64: ten updates of sums taken in another order, 64 terms each, leave about 1e-15
        torch.testing.assert_close(two[name], tensor, rtol=1e-12, atol=1e-12, msg=name)


@pytest.mark.parametrize("launcher", DISTRIBUTED_LAUNCHERS)
def test_three_workers_repeat_themselves_to_the_bit(tmp_path, launcher):
    first, second = (ten_updates(tmp_path, launcher, 3, "8", 8, 2) for _ in range(2))
    for name, tensor in first.items():
        assert torch.equal(second[name], tensor), name
