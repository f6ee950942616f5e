"""Optimizers: each does what its source says, and hears every decision."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from trainer.engine.optimizer import apply_decision, build_optimizer
from trainer.rule import AdamConstants, Limits, NoiseCurve, NoiseDrop, Reference, Schedule, decide

pytestmark = pytest.mark.unit

CIFAR = 50_000


def network():
    """A matrix and a vector: weight [[3, 4]], bias [2]."""
    linear = nn.Linear(2, 1)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[3.0, 4.0]]))
        linear.bias.copy_(torch.tensor([2.0]))
    return linear


def step(optimizer, linear, weight_gradient, bias_gradient):
    linear.weight.grad, linear.bias.grad = torch.tensor([weight_gradient]), torch.tensor(bias_gradient)
    optimizer.step()
    return linear.weight.tolist()[0], linear.bias.item()


def test_weight_decay_leaves_norms_and_biases_alone_unless_asked():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    groups = build_optimizer("momentum", model, lr=0.1, momentum=0.9, weight_decay=5e-4).param_groups
    assert {(parameter.ndim > 1, group["weight_decay"]) for group in groups for parameter in group["params"]} == {
        (True, 5e-4),
        (False, 0.0),
    }
    (group,) = build_optimizer(
        "momentum", model, lr=0.1, momentum=0.9, weight_decay=5e-4, decay_norms_and_biases=True
    ).param_groups
    assert group["weight_decay"] == 5e-4
    assert len(group["params"]) == len(list(model.parameters()))


@pytest.mark.parametrize(
    ("name", "momentum", "first", "second"),
    [  # on a slope of 1 from w = 3 at lr 0.1; the paper's form: A <- m A + dC/dw, w <- w - lr A
        ("sgd", 0.0, 0.1, 0.1),
        ("momentum", 0.9, 0.1, 0.19),
        ("nesterov", 0.9, 0.19, 0.271),  # each step already follows the momentum of the next
        ("adam", 0.9, 0.1, 0.1),  # a constant slope is divided by itself
        ("adamw", 0.9, 0.1, 0.1),
    ],
)
def test_the_first_two_steps_on_a_constant_slope(name, momentum, first, second):
    linear = network()
    optimizer = build_optimizer(name, linear, lr=0.1, momentum=momentum, weight_decay=0.0)
    (one, _), _ = step(optimizer, linear, [1.0, 0.0], [0.0])
    (two, _), _ = step(optimizer, linear, [1.0, 0.0], [0.0])
    assert (3 - one, one - two) == pytest.approx((first, second), rel=1e-5)


def test_adamw_shrinks_the_weights_and_adam_the_gradient():
    # no slope: AdamW takes lr d w, and Adam's L2 term d w is divided by itself to a step of lr
    for name, step_taken in (("adam", 0.1), ("adamw", 0.1 * 0.01 * 3)):
        linear = network()
        optimizer = build_optimizer(name, linear, lr=0.1, momentum=0.9, weight_decay=0.01)
        (weight, _), bias = step(optimizer, linear, [0.0, 0.0], [0.0])
        assert (3 - weight, bias) == (pytest.approx(step_taken, rel=1e-4), 2.0)


def test_lars_takes_the_steps_of_its_published_formula():
    linear = network()
    optimizer = build_optimizer("lars", linear, lr=2.0, momentum=0.5, weight_decay=0.1, trust_coefficient=0.01)
    # |w| = 5, |g| = 2: local lr = 0.01 * 5 / (2 + 0.1 * 5) = 0.02; v = 2 * 0.02 * (g + 0.1 w) = 0.04 * (0.3, 2.4)
    weights, bias = step(optimizer, linear, [0.0, 2.0], [1.0])
    assert weights == pytest.approx([3 - 0.012, 4 - 0.096], rel=1e-6)
    assert bias == 0.0  # 2 - lr * 1: no decay, no local lr
    w = math.hypot(2.988, 3.904)
    local = 0.01 * w / (1.0 + 0.1 * w)
    v = [0.5 * 0.012 + 2 * local * (1.0 + 0.2988), 0.5 * 0.096 + 2 * local * 0.3904]
    weights, bias = step(optimizer, linear, [1.0, 0.0], [0.0])
    assert weights == pytest.approx([2.988 - v[0], 3.904 - v[1]], rel=1e-6)
    assert bias == -1.0  # half of the last step


def test_lars_steps_plainly_where_a_norm_is_zero():
    linear = network()
    with torch.no_grad():
        linear.weight.zero_()
    optimizer = build_optimizer("lars", linear, lr=0.5, momentum=0.0, weight_decay=0.0)
    assert step(optimizer, linear, [1.0, 0.0], [0.0])[0] == [-0.5, 0.0]
    assert step(optimizer, linear, [0.0, 0.0], [0.0])[0] == [-0.5, 0.0]


def test_a_decision_reaches_every_parameter_group():
    optimizer = build_optimizer("momentum", network(), lr=1.0, momentum=0.9, weight_decay=0.1)
    decision = decide(Schedule(Reference(0.3, 16, 0.8), Limits(16), 1000, 2), 0, 1)
    apply_decision(optimizer, decision, warmup_factor=0.5)
    assert [(group["lr"], group["momentum"]) for group in optimizer.param_groups] == [(0.15, 0.8)] * 2


def test_adam_hears_its_momentum_and_keeps_its_constants_under_the_linear_rule():
    optimizer = build_optimizer(
        "adam", network(), lr=1.0, momentum=0.9, weight_decay=0.0, adam=AdamConstants(0.99, 1e-6)
    )
    curve = NoiseCurve("steps", drops=(NoiseDrop(1, 2, "momentum"),))
    apply_decision(optimizer, decide(Schedule(Reference(0.3, 16, 0.9), Limits(16), 1000, 2, curve), 1, 1), 1.0)
    for group in optimizer.param_groups:
        assert (group["lr"], group["betas"], group["eps"]) == (0.3, (0.8, 0.99), 1e-6)


def test_adam_hears_the_constants_of_the_square_root_rule():
    optimizer = build_optimizer("adamw", network(), lr=1.0, momentum=0.9, weight_decay=0.0)
    curve = NoiseCurve("steps", drops=(NoiseDrop(1, 2, "batch"),))
    schedule = Schedule(
        Reference(0.001, 128, 0.9), Limits(128), CIFAR, 2, curve, "square_root", adam=AdamConstants(0.999, 1e-8)
    )
    apply_decision(optimizer, decide(schedule, 1, 1), 1.0)
    for group in optimizer.param_groups:  # batch x 4
        assert (group["lr"], group["eps"]) == pytest.approx((0.001, 5e-9))
        assert group["betas"] == pytest.approx((0.6, 0.996))


@pytest.mark.parametrize("name", ["sgd", "momentum", "nesterov", "adam", "adamw"])
def test_a_fused_step_is_the_step(name):
    def trained(fused):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(36, 2)).double()
        momentum = 0.0 if name == "sgd" else 0.9
        optimizer = build_optimizer(name, model, lr=0.1, momentum=momentum, weight_decay=0.01, fused=fused)
        group = optimizer.param_groups[0]
        # None, not False: torch chooses then, and takes all parameters in each operation on a GPU
        assert (group["fused"], group["foreach"]) == (None if fused is False else True, None)
        for _ in range(5):
            model(torch.randn(6, 3, 5, 5, dtype=torch.float64)).square().sum().mul(0.01).backward()
            optimizer.step()
            optimizer.zero_grad()
        return [parameter.detach() for parameter in model.parameters()]

    torch.testing.assert_close(trained(None), trained(False), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(trained(True), trained(False), rtol=1e-12, atol=1e-12)


def test_lars_leaves_alone_what_has_no_gradient():
    linear = network()
    optimizer = build_optimizer("lars", linear, lr=1.0, momentum=0.5, weight_decay=0.1)
    linear.bias.grad = torch.tensor([1.0])
    optimizer.step()
    assert linear.weight.tolist() == [[3.0, 4.0]]
    assert linear.bias.item() == 1.0


def test_lars_steps_all_layers_at_once_as_on_a_gpu_as_it_steps_each():
    def trained(step):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(36, 2)).double()
        optimizer = build_optimizer(
            "lars", model, lr=0.1, momentum=0.9, weight_decay=0.01, decay_norms_and_biases=True, trust_coefficient=0.1
        )
        for _ in range(3):
            for parameter in model.parameters():
                parameter.grad = torch.randn_like(parameter)
            step(optimizer, list(model.parameters()))
        return [parameter.detach() for parameter in model.parameters()]

    def at_once(optimizer, parameters):
        with torch.no_grad():
            optimizer._step(parameters, optimizer.param_groups[0])

    torch.testing.assert_close(trained(at_once), trained(lambda optimizer, _: optimizer.step()), rtol=1e-12, atol=1e-12)
