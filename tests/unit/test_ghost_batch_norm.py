"""Ghost batch norm against plain batch norm run on every ghost batch."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from trainer.models import ModelError, build_model
from trainer.models.ghost_batch_norm import GhostBatchNorm, convert_batch_norm, finish_update
from trainer.models.ghost_normalise import _at_once, normalise

pytestmark = pytest.mark.unit

CHANNELS = 5


def images(samples, seed=0):
    return torch.randn(samples, CHANNELS, 4, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def plain_norm(momentum=0.1):
    norm = nn.BatchNorm2d(CHANNELS, momentum=momentum).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        norm.weight.copy_(torch.rand(CHANNELS, generator=generator))
        norm.bias.copy_(torch.randn(CHANNELS, generator=generator))
    return norm


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_output_and_gradient_are_those_of_plain_batch_norm_on_each_ghost(memory_format):
    plain, ghost = plain_norm(), convert_batch_norm(plain_norm(), 8)
    x = images(24).to(memory_format=memory_format).requires_grad_()
    y = images(24).requires_grad_()
    weights = images(24, seed=2)
    together = ghost(x)
    one_by_one = torch.cat([plain(part) for part in y.split(8)])
    torch.testing.assert_close(together, one_by_one)
    (together * weights).sum().backward()
    (one_by_one * weights).sum().backward()
    torch.testing.assert_close(x.grad, y.grad)
    torch.testing.assert_close(ghost.weight.grad, plain.weight.grad)
    torch.testing.assert_close(ghost.bias.grad, plain.bias.grad)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_output_and_gradient_keep_type_and_memory_format_under_mixed_precision(memory_format):
    ghost = convert_batch_norm(nn.BatchNorm2d(CHANNELS), 8)
    x = images(24).bfloat16().to(memory_format=memory_format).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = ghost(x)
    # not x.grad, which is laid out as x is, whatever arrives
    gradient, weight_gradient = torch.autograd.grad(y.square().sum(), (x, ghost.weight))
    for tensor in (y, gradient):
        assert tensor.dtype == torch.bfloat16
        assert tensor.is_contiguous(memory_format=memory_format)
    assert weight_gradient.dtype == ghost.update_statistics.dtype == torch.float32


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("samples", [3, 8, 11])  # one ghost, two alike, three of 4, 4 and 3
def test_the_gradient_is_that_of_finite_differences(samples, affine, memory_format):
    ghost = GhostBatchNorm(CHANNELS, 4, affine=affine).double()
    x = images(samples).to(memory_format=memory_format).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, *parameters: ghost(x), (x, *ghost.parameters()))


def test_an_input_in_no_memory_format_of_its_own_is_normalised_as_well():
    ghost, plain = convert_batch_norm(plain_norm(), 4), plain_norm()
    x = images(8).transpose(0, 1).contiguous().transpose(0, 1)
    torch.testing.assert_close(ghost(x), torch.cat([plain(part) for part in x.split(4)]))
    rows = x[:, :, 0, 0].t().contiguous().t()
    expected = torch.cat([nn.functional.batch_norm(part, None, None, training=True) for part in rows.split(4)])
    torch.testing.assert_close(GhostBatchNorm(CHANNELS, 4).double()(rows), expected)


def test_one_value_in_a_channel_has_no_variance_and_is_refused():
    with pytest.raises(ModelError, match=r"\(3, 5, 1, 1\): a ghost batch of one sample has one value in a channel"):
        GhostBatchNorm(CHANNELS, 1)(torch.ones(3, CHANNELS, 1, 1))
    GhostBatchNorm(CHANNELS, 1)(torch.ones(3, CHANNELS, 2, 1))
    GhostBatchNorm(CHANNELS, 2)(torch.ones(4, CHANNELS, 1, 1))


def test_parameters_that_are_held_fast_get_no_gradient_and_the_input_keeps_its_own():
    ghost, free = (convert_batch_norm(plain_norm(), 4) for _ in range(2))
    ghost.requires_grad_(False)
    x, y = (images(8).requires_grad_() for _ in range(2))
    ghost(x).square().sum().backward()
    free(y).square().sum().backward()
    assert ghost.weight.grad is None
    torch.testing.assert_close(x.grad, y.grad)


def test_all_ghosts_at_once_as_a_compiler_gets_them_are_each_by_itself():
    ghost, weights = convert_batch_norm(plain_norm(), 4), images(12, seed=2)
    x, y = (images(12).requires_grad_() for _ in range(2))
    apart, apart_sums = normalise(x, ghost.weight, ghost.bias, [4, 4, 4], ghost.eps)
    at_once, at_once_sums = _at_once(y, ghost.weight, ghost.bias, 3, ghost.eps)
    torch.testing.assert_close(at_once, apart)
    torch.testing.assert_close(at_once_sums, apart_sums)
    (apart * weights).sum().backward()
    (at_once * weights).sum().backward()
    torch.testing.assert_close(y.grad, x.grad)


def test_a_norm_that_saw_nothing_in_an_update_keeps_its_statistics():
    used, idle = (convert_batch_norm(plain_norm(), 8) for _ in range(2))
    used(images(8))
    finish_update(nn.ModuleList([used, idle]), 8)
    assert torch.equal(idle.running_mean, torch.zeros(CHANNELS, dtype=torch.float64))
    assert torch.equal(idle.running_var, torch.ones(CHANNELS, dtype=torch.float64))
    assert not torch.equal(used.running_mean, idle.running_mean)


def test_running_statistics_of_one_ghost_per_update_are_plain_batch_norms():
    plain, ghost = plain_norm(), convert_batch_norm(plain_norm(), 8)
    for seed in range(5):
        plain(images(8, seed))
        ghost(images(8, seed))
        finish_update(ghost, 8)
    torch.testing.assert_close(ghost.running_mean, plain.running_mean)
    torch.testing.assert_close(ghost.running_var, plain.running_var)


def test_running_statistics_move_as_far_as_plain_batch_norm_would_over_the_same_samples():
    # every ghost batch alike: three steps of plain batch norm, or one update of three ghosts
    plain, ghost = plain_norm(), convert_batch_norm(plain_norm(), 8)
    for _ in range(3):
        plain(images(8))
    ghost(images(8).repeat(3, 1, 1, 1))
    finish_update(ghost, 24)
    torch.testing.assert_close(ghost.running_mean, plain.running_mean)
    torch.testing.assert_close(ghost.running_var, plain.running_var)


@pytest.mark.parametrize("micro_batch", [8, 16, 24, 48])
def test_running_statistics_do_not_depend_on_how_the_update_is_cut(micro_batch):
    whole, cut = (convert_batch_norm(plain_norm(), 8) for _ in range(2))
    whole(images(48))
    for part in images(48).split(micro_batch):
        cut(part)
    finish_update(whole, 48)
    finish_update(cut, 48)
    torch.testing.assert_close(cut.running_mean, whole.running_mean)
    torch.testing.assert_close(cut.running_var, whole.running_var)


def test_evaluation_is_plain_batch_norms():
    plain, ghost = plain_norm().eval(), convert_batch_norm(plain_norm(), 8).eval()
    torch.testing.assert_close(ghost(images(5)), plain(images(5)))


@pytest.mark.parametrize(
    ("samples", "groups"), [(3, [3]), (8, [8]), (12, [6, 6]), (11, [11]), (20, [10, 10]), (25, [9, 8, 8])]
)
def test_a_batch_that_is_no_multiple_is_cut_into_nearly_equal_ghosts(samples, groups):
    # round(12 / 8) = round(1.5) = 2; round(20 / 8) = round(2.5) = 2; round(25 / 8) = 3
    plain, ghost = plain_norm(), convert_batch_norm(plain_norm(), 8)
    torch.testing.assert_close(
        ghost(images(samples)), torch.cat([plain(part) for part in images(samples).split(groups)])
    )


def test_conversion_keeps_parameters_and_state_dict_and_reaches_every_norm():
    model = nn.Sequential(nn.Conv2d(3, CHANNELS, 1), plain_norm(), nn.Sequential(nn.BatchNorm2d(CHANNELS)))
    expected = {key: value.clone() for key, value in model.state_dict().items() if "num_batches" not in key}
    converted = convert_batch_norm(model, 4)
    assert sum(isinstance(module, GhostBatchNorm) for module in converted.modules()) == 2
    assert not any(isinstance(module, nn.BatchNorm2d) for module in converted.modules())
    assert converted.state_dict().keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(converted.state_dict()[key], value)


def test_norms_that_have_no_ghost_form_are_refused():
    with pytest.raises(ModelError, match="cumulative average"):
        convert_batch_norm(nn.BatchNorm2d(3, momentum=None), 4)


def test_batch_norm_that_does_more_is_not_replaced_by_one_that_does_less():
    class BatchNormAndRelu(nn.BatchNorm2d):
        def forward(self, x):
            return super().forward(x).relu()

    with pytest.raises(ModelError, match="BatchNormAndRelu is batch norm with something else in one"):
        convert_batch_norm(nn.Sequential(BatchNormAndRelu(3)), 2)


def test_batch_norm_with_two_names_stays_one():
    norm = nn.BatchNorm2d(3)
    model = convert_batch_norm(nn.Sequential(norm, nn.Sequential(norm), norm), 2)
    assert isinstance(model[0], GhostBatchNorm)
    assert model[0] is model[1][0] is model[2]


def test_an_unknown_network_is_answered_with_the_nearest():
    with pytest.raises(ModelError, match=r"'small-convent' is no known network \(did you mean 'small-convnet'\?\)"):
        build_model("small-convent", 10, None)
