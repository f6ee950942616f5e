"""From bytes to floats: the same values in every layout, and memory that is used again only when nobody looks at it."""

from __future__ import annotations

import pytest
import torch

from dali_pipelines import normalisation
from dali_pipelines.normalisation import BatchMemory, Normalisation

pytestmark = pytest.mark.unit

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
CPU = torch.device("cpu")
FORMATS = (torch.contiguous_format, torch.channels_last)


def some_images(n: int, side: int) -> torch.Tensor:
    return torch.randint(0, 256, (n, side, side, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("at_once", [1, 7 * 7 * 3 * 4, 1 << 20])
def test_values_are_the_formulas_in_every_layout_and_in_blocks_of_any_size(memory_format, at_once, monkeypatch):
    monkeypatch.setattr(normalisation, "_VALUES_AT_ONCE", at_once)
    images = some_images(10, 7)
    normalised = Normalisation(MEAN, STD, 7, CPU, memory_format)(images)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    # To the bit: what a run has seen must not change from one version to the next.
    assert torch.equal(normalised, (images.permute(0, 3, 1, 2).float() - 255 * mean) * (1 / (255 * std)))
    assert torch.allclose(normalised, (images.permute(0, 3, 1, 2) / 255 - mean) / std, atol=1e-5)
    assert normalised.dtype == torch.float32
    assert normalised.is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("memory_format", FORMATS)
def test_images_may_be_part_of_something_larger(memory_format):
    images, normalise = some_images(6, 12), Normalisation(MEAN, STD, 5, CPU, memory_format)
    assert torch.equal(normalise(images[::2, 2:7, 3:8]), normalise(images[::2, 2:7, 3:8].contiguous()))


def test_other_layouts_are_a_programmers_error():
    with pytest.raises(AssertionError, match="NCHW or NHWC"):
        Normalisation(MEAN, STD, 7, CPU, torch.preserve_format)


def test_memory_that_is_free_is_used_again():
    memory = BatchMemory()
    first = memory.empty((4, 5))
    place = first.data_ptr()
    del first
    assert memory.empty((5, 4)).data_ptr() == place
    assert memory.empty((2, 3)).shape == (2, 3)  # a smaller one fits too
    assert memory.empty((40, 5)).shape == (40, 5)  # a larger one is made


@pytest.mark.parametrize("values", [1, 17, 1000, 100_003])
def test_batches_begin_where_pytorchs_own_memory_would(values):
    # In a run, its repetition and its resumption: a product of matrices may depend on it in the last bit.
    memory = BatchMemory()
    held = [memory.empty((values,)) for _ in range(20)]
    again = [memory.empty((values,)) for _ in range(2) if held.pop() is not None]
    assert {batch.data_ptr() % 64 for batch in (*held, *again)} == {0}


def test_memory_is_not_used_again_while_a_part_of_the_batch_is_in_use():
    memory = BatchMemory()
    batch = memory.empty((4, 5)).fill_(7)
    part = batch[1:3, 2].detach()
    del batch
    others = [memory.empty((4, 5)).zero_() for _ in range(5)]
    assert part.tolist() == [7, 7]
    assert len({other.data_ptr() for other in others}) == 5


def test_memory_is_not_used_again_while_a_backward_will_need_the_batch():
    memory = BatchMemory()
    weight = torch.ones(5, requires_grad=True)
    batch = memory.empty((4, 5)).fill_(7)
    loss = (batch * weight).sum()
    del batch
    memory.empty((4, 5)).zero_()
    loss.backward()
    assert weight.grad.tolist() == [28] * 5


def test_few_free_batches_are_kept():
    memory = BatchMemory()
    batches = [memory.empty((4, 5)) for _ in range(20)]
    del batches
    assert len(memory._spare) == normalisation._SPARE_BATCHES
