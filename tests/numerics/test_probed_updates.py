"""The gradient noise that updates measure beside their work is that of single gradients, and measuring it changes
nothing of the updates."""

from __future__ import annotations

import copy
import dataclasses
import math
from statistics import mean, stdev

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.digits_jobs import SCHEDULE, Curves, Digits, StopAt, assert_same_tensors, job_of, timeless
from trainer.collective.local import LocalCollective
from trainer.engine.gradient_probe import ProbePlan, Probing
from trainer.engine.optimizer import build_optimizer
from trainer.engine.readings import Readings
from trainer.engine.saving import SavingPlan
from trainer.engine.train import train
from trainer.engine.update import run_update
from trainer.models import build_model
from trainer.models.ghost_batch_norm import convert_batch_norm
from trainer.rule import BatchPlan, NoiseAverages

pytestmark = pytest.mark.numerics

CPU = torch.device("cpu")
SIZE, GHOST = 512, 8  # samples of the data set; of a ghost batch
CLASSES = 10
FOR_EVER = ProbePlan(every=1, memory_epochs=math.inf)


@pytest.fixture(scope="module")
def data():
    """(SIZE, 3, 4, 4) float64 and their labels: digits at half their size, with noise."""
    digits, generator = Digits(torch.float64), torch.Generator().manual_seed(5)
    images = F.avg_pool2d(digits.images[:SIZE], 2)
    return images + 0.3 * torch.randn(images.shape, generator=generator, dtype=images.dtype), digits.labels[:SIZE]


def network(unit):
    """Small; of single samples, or with ghost batch norm."""
    torch.manual_seed(1)
    if unit == 1:
        return nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.Tanh(), nn.Linear(8, CLASSES)).double()
    parts = nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(24, CLASSES)
    return convert_batch_norm(nn.Sequential(*parts), unit).double()


def gradient_of(model, images, labels):
    """Of the mean loss, as one vector, from autograd alone."""
    loss = F.cross_entropy(model(images), labels)
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])


def by_brute_force(data, unit, orders):
    """tr(S) and |G|^2 from the gradients of single units of so many samples, in so many random orders.

    A batch's gradient is the mean of some of the SIZE / unit gradients that an order has. tr(S) is their variance,
    counted with one less, times the unit, and |G|^2 the square of the mean of all: for single samples the same in any
    order. A ghost batch's gradient depends on who else is in it, so there both are means over orders.
    """
    (images, labels), model = data, network(unit)
    traces, squares = [], []
    for order in range(orders):
        ids = torch.randperm(SIZE, generator=torch.Generator().manual_seed(1000 + order)).split(unit)
        gradients = torch.stack([gradient_of(model, images[part], labels[part]) for part in ids])
        traces.append(unit * float(gradients.var(0).sum()))
        squares.append(float(gradients.mean(0).square().sum()))
    return traces, squares


def by_probes(data, unit, plan, seed, epochs):
    """What the averages say after epochs of updates that change nothing."""
    images, labels = data
    model, collective, readings = network(unit), LocalCollective(), Readings(CPU)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    probing = Probing.of(model, FOR_EVER, plan, SIZE, 1.0)
    for epoch in range(epochs):
        ids = torch.randperm(SIZE, generator=torch.Generator().manual_seed(seed * epochs + epoch))
        batches = ((images[part], labels[part]) for part in ids.split(plan.micro_batch))
        for update in range(SIZE // plan.global_batch):
            probe = probing.probe(update)

            def note(loss, gradients, probe=probe):
                readings.note(loss, gradients, str, probe.caught)

            run_update(model, optimizer, collective, batches, plan, note=note, probe=probe)
    return probing.add(NoiseAverages(), readings.take_squares(), collective).estimate()


@pytest.mark.parametrize(
    ("unit", "orders", "plan"),
    [(1, 1, BatchPlan(32, 2, 1)), (GHOST, 15, BatchPlan(64, 1, 1))],
    ids=["samples, two micro-batches", "ghost batches, one micro-batch cut in two"],
)
def test_what_updates_measure_is_the_noise_of_single_gradients_and_its_error_is_their_spread(data, unit, orders, plan):
    truth = by_brute_force(data, unit, orders)
    found = [by_probes(data, unit, plan, seed, epochs=3) for seed in range(36)]
    for expected, values in zip(truth, zip(*((n.trace, n.squared_norm) for n in found), strict=True), strict=True):
        error_of_truth = stdev(expected) / math.sqrt(len(expected)) if len(expected) > 1 else 0.0
        error = math.hypot(stdev(values) / math.sqrt(len(values)), error_of_truth)
        assert abs(mean(values) - mean(expected)) < 3 * error
        assert error < 0.07 * mean(expected), "so large an error would hide one"
    for name in ("trace", "squared_norm"):
        said = math.sqrt(mean(getattr(n, f"{name}_variance") for n in found))
        # 36 values tell their spread to an eighth
        assert said == pytest.approx(stdev(getattr(n, name) for n in found), rel=0.35), name
    assert mean(n.error for n in found) == pytest.approx(stdev(n.scale for n in found), rel=0.35)


def small_network(kind):
    torch.manual_seed(1)
    return build_model("small-convnet", CLASSES, GHOST).double() if kind == "ghost" else network(1)


def batches(size, count):
    generator = torch.Generator().manual_seed(2)
    images = torch.randn(count, size, 3, 4, 4, generator=generator, dtype=torch.float64)
    return list(zip(images, torch.randint(CLASSES, (count, size), generator=generator), strict=True))


def updates(model, plan, every):
    """Six updates: their losses, and of the probed ones the mean over the micro-batches of the squared norm of the mean
    gradient, by the probe and by autograd alone."""
    optimizer = build_optimizer("nesterov", model, lr=0.1, momentum=0.9, weight_decay=1e-3)
    probing = Probing.of(model, ProbePlan(every and every * plan.accumulation_steps), plan, SIZE, 1.0)
    micro_batches = batches(plan.micro_batch, 6 * plan.accumulation_steps)
    losses, caught, expected = [], [], []
    for update in range(6):
        if (probe := probing.probe(update)) is not None:
            parts = micro_batches[update * plan.accumulation_steps :][: plan.accumulation_steps]
            if probe.cut is not None:
                images, labels = parts[0]
                parts = [(images[: probe.cut], labels[: probe.cut]), (images[probe.cut :], labels[probe.cut :])]
            copied = copy.deepcopy(model)
            expected.append(mean(float(gradient_of(copied, *part).square().sum()) for part in parts))
        coming = iter(micro_batches[update * plan.accumulation_steps :])
        losses.append(run_update(model, optimizer, LocalCollective(), coming, plan, probe=probe))
        if probe is not None:
            caught.append(sum(factor * float(norm) ** 2 for norm, factor in probe.caught))
        assert not any(parameter._backward_hooks for parameter in model.parameters())
    return losses, caught, expected


# 19 in ghost batches of 8 are 10 and 9
@pytest.mark.parametrize("plan", [BatchPlan(16, 3, 1), BatchPlan(19, 1, 1), BatchPlan(40, 1, 1)], ids=str)
@pytest.mark.parametrize("kind", ["samples", "ghost"])
def test_a_probe_catches_the_gradient_of_every_micro_batch_and_leaves_the_update_as_it_is(kind, plan):
    unprobed, probed = small_network(kind), small_network(kind)
    expected_losses, _, _ = updates(unprobed, plan, every=None)
    losses, caught, expected = updates(probed, plan, every=2)
    assert len(caught) == 3
    assert caught == pytest.approx(expected, rel=1e-12)
    if plan.accumulation_steps > 1:
        assert_same_tensors(probed.state_dict(), unprobed.state_dict())
        assert losses == expected_losses
    else:  # sums in another order, of float64
        torch.testing.assert_close(losses, expected_losses, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(probed.state_dict(), unprobed.state_dict(), rtol=1e-12, atol=1e-12)
    running = [name for name in probed.state_dict() if "running" in name]
    assert bool(running) == (kind == "ghost")


def test_no_hook_is_left_where_a_backward_fails():
    model = network(1)

    def fail(gradient):
        raise RuntimeError("broken off")

    handle = model[1].weight.register_hook(fail)
    plan = BatchPlan(8, 1, 1)
    probe = Probing.of(model, ProbePlan(1), plan, SIZE, 1.0).probe(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with pytest.raises(RuntimeError, match="broken off"):
        run_update(model, optimizer, LocalCollective(), iter(batches(8, 1)), plan, probe=probe)
    handle.remove()
    assert not any(parameter._backward_hooks for parameter in model.parameters())


class Decisions(Curves):
    """Keeps what the epochs' decisions said."""

    def __init__(self):
        super().__init__()
        self.decisions = []

    def event(self, kind, fields):
        if kind == "decision":
            self.decisions.append(fields)


@pytest.mark.parametrize("policy", ["measured", "adascale"])
def test_a_run_that_is_stopped_in_an_epoch_and_goes_on_has_measured_and_decided_the_same_to_the_bit(tmp_path, policy):
    def run(name, wants_stop=lambda: False, **options):
        record = Decisions()
        job = dataclasses.replace(
            job_of(tmp_path / name, record, wants_stop=wants_stop, **options),
            probe=ProbePlan(every=3, memory_epochs=0.5),
            schedule=dataclasses.replace(SCHEDULE, policy=policy),
        )
        return train(job)[0], record, job.model.state_dict()

    whole, whole_record, tensors = run("whole")
    often = {"saving": SavingPlan(every_minutes=0.0)}  # what was read of an epoch is then added up in many portions
    parts = [run("parts", StopAt(vote), **options) for vote, options in ((60, often), (25, {}))]
    assert [state.part.updates > 0 for state, _, _ in parts] == [True, True]
    assert [state.part.updates % 3 for state, _, _ in parts] != [0, 0], "between two probes"
    parts.append(run("parts"))
    state = parts[-1][0]
    assert state.noise == whole.noise
    assert state.heard == whole.heard
    assert timeless(state) == timeless(whole)
    assert_same_tensors(parts[-1][2], tensors)
    decided = [fields for _, record, _ in parts for fields in record.decisions]
    assert len(decided) == len(whole_record.decisions) + 2, "those of two epochs were taken twice"
    in_order = {fields["epoch"]: fields for fields in whole_record.decisions}
    assert all(fields == in_order[fields["epoch"]] for fields in decided)
    assert in_order[2]["heard"]["noise"] is not None
    planned = {fields["plan"]["micro_batch"] * fields["plan"]["accumulation_steps"] for fields in decided}
    assert len(planned) > 1, "the batch has grown"
