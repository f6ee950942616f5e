"""Memory that DALI owns is not handed back before the device has read it."""

from __future__ import annotations

import weakref

import pytest
import torch

from dali_pipelines import transfer
from dali_pipelines.transfer import LentMemory

pytestmark = pytest.mark.unit


class Device:
    """A queue of work, of which some has been done; its marks are as torch.cuda.Event."""

    def __init__(self) -> None:
        self.queued = self.done = self.waits = 0

    def mark(self) -> Mark:
        self.queued += 1
        return Mark(self, self.queued)


class Mark:
    def __init__(self, device: Device, place: int) -> None:
        self.device, self.place = device, place

    def query(self) -> bool:
        return self.device.done >= self.place

    def synchronize(self) -> None:
        self.device.waits += not self.query()
        self.device.done = max(self.device.done, self.place)


def lend(lent: LentMemory, device: Device) -> weakref.ref[torch.Tensor]:
    tensor = torch.zeros(3)
    lent.keep(tensor, device.mark())
    return weakref.ref(tensor)


def test_a_tensor_is_kept_until_the_device_has_read_it():
    lent, device = LentMemory(), Device()
    first, second = lend(lent, device), lend(lent, device)
    assert None not in (first(), second())
    device.done = 1
    third = lend(lent, device)
    assert first() is None
    assert None not in (second(), third())
    assert device.waits == 0


def test_a_host_far_ahead_waits_for_the_oldest_so_that_memory_stays_bounded():
    lent, device = LentMemory(), Device()
    tensors = [lend(lent, device) for _ in range(10)]
    alive = [number for number, tensor in enumerate(tensors) if tensor() is not None]
    assert alive == list(range(10))[-transfer._LENT_BATCHES :]
    assert device.waits == 10 - transfer._LENT_BATCHES
