"""What makes updates faster changes nothing else: the memory format of images, and compiled training."""

from __future__ import annotations

import copy
from functools import partial
from itertools import chain, repeat

import pytest
import torch
from torch._dynamo.utils import counters
from torch._inductor import config as inductor

from trainer.cli.compiler import CompileError, compiler
from trainer.cli.compose import memory_format
from trainer.collective.ddp import DdpCollective
from trainer.collective.local import LocalCollective
from trainer.collective.watched import WatchedCollective
from trainer.collective.whereabouts import Whereabouts
from trainer.config import load_config
from trainer.engine.gradient_probe import ProbePlan, Probing
from trainer.engine.optimizer import build_optimizer
from trainer.engine.update import run_update
from trainer.models import build_model
from trainer.rule import BatchPlan

pytestmark = pytest.mark.numerics

CLASSES = 5
CPU = torch.device("cpu")


@pytest.fixture
def nothing_compiled():
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


@pytest.fixture
def traced(nothing_compiled, monkeypatch):
    """compiler(), with what torch gives to C++ left to PyTorch: no compiler of C++ takes its time."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    made = compiler(True, CPU)
    counters.clear()
    return made


def network(name, ghost_batch):
    torch.manual_seed(0)
    return build_model(name, CLASSES, ghost_batch).double()


def train(model, module, sizes, side, layout=torch.contiguous_format, collective=None, probed=()):
    """Updates of two micro-batches of each size: their losses, the parameters and the statistics afterwards. Those with
    a number in `probed` have a probe, and the norms that it caught come last."""
    optimizer = build_optimizer("momentum", model, lr=0.05, momentum=0.9, weight_decay=1e-3)
    caught = []
    generator, losses = torch.Generator().manual_seed(1), []
    for number, size in enumerate(sizes):
        images = torch.randn(size, 3, side, side, generator=generator, dtype=torch.float64)
        labels = torch.randint(CLASSES, (size,), generator=generator)
        batches = repeat((images.to(memory_format=layout), labels))
        plan, fleet = BatchPlan(size, 2, 1), collective or LocalCollective()
        probe = Probing.of(model, ProbePlan(1), plan, 100, 1.0).probe(0) if number in probed else None
        losses.append(run_update(module, optimizer, fleet, batches, plan, probe=probe))
        if probe is not None:
            caught += [norm for norm, _ in probe.caught]
    running = (buffer for name, buffer in model.named_buffers() if name.endswith(("running_mean", "running_var")))
    return [tensor.detach() for tensor in chain(losses, model.parameters(), running, caught)]


@pytest.mark.parametrize(
    ("name", "side", "ghost_batch"),
    [("small-convnet", 12, 2), ("plain-convnet", 16, None), ("wide-resnet-16-4", 8, 2), ("resnet-50", 40, None)],
)
def test_updates_are_the_same_in_either_memory_format_and_parameters_stay_as_they_lie(name, side, ghost_batch):
    one = network(name, ghost_batch)
    other = copy.deepcopy(one)
    expected = train(one, one, [4], side)
    found = train(other, other, [4], side, torch.channels_last)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)  # float64, through some 50 layers
    # what is saved, and what workers send each other, does not depend on the format
    assert all(parameter.is_contiguous() for parameter in other.parameters())


def test_each_micro_batch_is_compiled_once_whole_and_not_again_at_later_updates(traced):
    model = network("small-convnet", 4)
    sizes = [4, 4, 4, 8, 8, 11, 11, 8, 4]  # one ghost batch, two alike, and 4, 4 and 3
    plain = copy.deepcopy(model)
    expected = train(plain, plain, sizes, 8)
    found = train(model, traced(model), sizes, 8)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)
    assert counters["stats"]["unique_graphs"] == 3
    assert not counters["graph_break"]


@pytest.mark.parametrize("probed", [(0, 2), (1, 3)], ids=["before it is compiled", "afterwards"])
def test_a_probe_catches_the_same_of_a_compiled_network_and_nothing_is_compiled_anew_for_it(traced, probed):
    model = network("small-convnet", 4)
    plain = copy.deepcopy(model)
    expected = train(plain, plain, [8] * 6, 8, probed=probed)
    found = train(model, traced(model), [8] * 6, 8, probed=probed)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]


def test_a_run_may_have_more_sizes_than_torch_compiles_by_itself(traced):
    module = traced(torch.nn.Linear(2, 2))
    for samples in range(2, 12):
        module(torch.ones(samples, 2))
    assert counters["stats"]["unique_graphs"] == 10


def test_under_ddp_the_network_is_compiled_whole_and_the_meeting_in_the_backward_is_marked(traced):
    model, whereabouts = network("small-convnet", 4), Whereabouts()
    plain = copy.deepcopy(model)
    expected = train(plain, plain, [8, 8, 16, 8], 8, probed=(1, 3))
    collective = WatchedCollective(DdpCollective(0, 1, 0, "127.0.0.1:0"), whereabouts)
    try:
        module = collective.wrap(traced(model))
        found = train(model, module, [8, 8, 16, 8], 8, collective=collective, probed=(1, 3))
    finally:
        collective.close()
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)
    assert counters["stats"]["unique_graphs"] == 2
    assert not counters["graph_break"]


@pytest.mark.long  # a C++ compiler takes half a minute
def test_a_compiled_update_is_the_update(nothing_compiled):
    model = network("small-convnet", 4)
    plain = copy.deepcopy(model)
    expected = train(plain, plain, [8, 8], 8, torch.channels_last)
    found = train(model, compiler(True, CPU)(model), [8, 8], 8, torch.channels_last)
    assert counters["stats"]["unique_graphs"] >= 1
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


def test_a_machine_that_cannot_compile_is_told_so_in_one_line(nothing_compiled):
    with inductor.patch({"cpp.cxx": ("/nowhere/g++",)}), pytest.raises(CompileError) as caught:
        compiler(True, CPU)
    assert "install a C++ compiler (apt-get install g++), or set compile=false" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_not_to_be_compiled_stays_as_it_is():
    model = network("small-convnet", None)
    assert compiler(False, CPU)(model) is model


@pytest.mark.parametrize(
    ("settings", "device", "expected"),
    [
        ([], "cpu", torch.channels_last),
        (["precision=bfloat16"], "cuda", torch.channels_last),
        ([], "cuda", torch.contiguous_format),
        (["memory_format=contiguous"], "cpu", torch.contiguous_format),
        (["memory_format=channels_last"], "cuda", torch.channels_last),
    ],
)
def test_the_memory_format_is_the_faster_one_unless_it_is_set(settings, device, expected):
    assert memory_format(load_config("digits-hybrid", settings), torch.device(device)) == expected
