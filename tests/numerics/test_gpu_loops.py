"""The two loops that are compared on a GPU make the same updates, so their times can be compared."""

from __future__ import annotations

import pytest
import torch

from benchmarks.gpu_loops import Setting, Synthetic, Window, bare, prepare, service

pytestmark = pytest.mark.numerics

CPU = torch.device("cpu")


def state_after(loop, updates, ghost_batch):
    setting = Setting(CPU, "small-convnet", 10, 16, 8, ghost_batch, torch.contiguous_format, autocast_to=None)
    torch.manual_seed(1)
    trained = prepare(setting, Synthetic(setting))
    window = Window(CPU, 1, updates - 1)
    loop(trained, window)
    assert window.is_over()
    assert window.seconds > 0
    running = [buffer for name, buffer in trained.model.named_buffers() if name.split(".")[-1].startswith("running_")]
    assert running, "the network has running statistics"
    return torch.cat([tensor.detach().flatten() for tensor in (*trained.model.parameters(), *running)])


@pytest.mark.parametrize("ghost_batch", [None, 4])
def test_the_service_and_the_bare_loop_leave_the_same_weights_and_running_statistics(ghost_batch):
    # The service is told to stop when the window is over, and does so with the next update.
    after, before = (state_after(bare, updates, ghost_batch) for updates in (5, 4))
    ours = state_after(service, 4, ghost_batch)
    assert torch.allclose(ours, after, rtol=0, atol=1e-6)  # float32: a sum over the batch against a mean
    assert not torch.allclose(ours, before, rtol=0, atol=1e-6)
