"""Gradients in flat buffers: what leaves when, and what the gradients are afterwards."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from trainer.collective.buckets import GradientBuckets
from trainer.collective.wire import SCALE, largest_on, scale_on

pytestmark = pytest.mark.unit

LAYER = 4 * (16 * 16 + 16)  # bytes of a layer's parameters, without a gap between them


class Twin:
    """As many workers as `world_size`, all with the same gradients; notes what leaves, and when it is waited for."""

    def __init__(self, world_size=2):
        self.world_size, self.left, self.waited_for = world_size, [], []

    def send(self, number, bucket):
        self.left.append((number, bucket.dtype, bucket.numel() * bucket.element_size()))

        def arrived():
            bucket.mul_(self.world_size)
            self.waited_for.append(number)

        return arrived


def network(layers=3):
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(16, 16) for _ in range(layers)))


def update(buckets, model, micro_batches, scale=1.0):
    for step, images in enumerate(micro_batches):
        buckets.expect(last=step == len(micro_batches) - 1)
        (model(images).square().sum() * scale).backward()
    buckets.finish()


def gradients(model):
    return [None if p.grad is None else p.grad.clone() for p in model.parameters()]


def plain_gradients(images):
    model = network()
    model(images).square().sum().backward()
    return gradients(model)


IMAGES = torch.randn(5, 16, generator=torch.Generator().manual_seed(1))


def test_each_bucket_leaves_in_the_last_backward_as_soon_as_it_is_full():
    model, twin, left_by_layer = network(), Twin(), []
    buckets = GradientBuckets(model, twin.send, None, bucket_bytes=LAYER)
    for layer in model:
        layer.register_full_backward_pre_hook(lambda *_: left_by_layer.append([number for number, *_ in twin.left]))
    buckets.expect(last=True)
    model(IMAGES.clone().requires_grad_()).square().sum().backward()
    assert left_by_layer == [[], [0], [0, 1]], "the last layer's gradients come first"
    assert [number for number, *_ in twin.left] == [0, 1, 2]
    assert twin.waited_for == []
    buckets.finish()
    assert twin.waited_for == [0, 1, 2]


def test_nothing_leaves_before_the_last_micro_batch_and_the_sum_is_that_of_one_big_one():
    model, twin = network(), Twin(world_size=1)
    buckets = GradientBuckets(model, twin.send, None)
    buckets.expect(last=False)
    model(IMAGES[:2]).square().sum().backward()
    assert twin.left == []
    buckets.expect(last=True)
    model(IMAGES[2:]).square().sum().backward()
    buckets.finish()
    assert twin.left == [(0, torch.float32, 3 * LAYER)], "once an update"
    torch.testing.assert_close(gradients(model), plain_gradients(IMAGES), rtol=1e-5, atol=1e-5)  # another order of sums


@pytest.mark.parametrize("set_to_none", [False, True])
def test_gradients_are_the_sum_over_workers_at_every_update(set_to_none):
    model = network()
    buckets = GradientBuckets(model, Twin(world_size=3).send, None, bucket_bytes=LAYER)
    for _ in range(2):
        update(buckets, model, [IMAGES])
        torch.testing.assert_close(gradients(model), [3 * gradient for gradient in plain_gradients(IMAGES)])
        model.zero_grad(set_to_none=set_to_none)


@pytest.mark.parametrize("set_to_none", [False, True])
def test_a_layer_that_this_worker_does_not_use_travels_all_the_same_as_zeros(set_to_none):
    model, twin = network(), Twin()
    buckets = GradientBuckets(model, twin.send, None, bucket_bytes=2 * LAYER)
    update(buckets, model, [IMAGES])
    model.zero_grad(set_to_none=set_to_none)
    twin.left.clear()
    update(buckets, model[:2], [IMAGES])
    assert sorted(number for number, *_ in twin.left) == [0, 1]
    assert torch.equal(model[2].weight.grad, torch.zeros(16, 16))
    assert not torch.equal(model[1].weight.grad, torch.zeros(16, 16)), "it shares the bucket with the unused one"


def test_parameters_of_two_types_travel_in_buckets_of_their_own():
    model, twin = network(), Twin()
    model[1].double()
    GradientBuckets(model, twin.send, None).finish()
    assert [dtype for _, dtype, _ in twin.left] == [torch.float32, torch.float64, torch.float32]


def test_a_parameter_that_is_not_trained_does_not_travel():
    model, twin = network(), Twin()
    model[0].requires_grad_(False)
    buckets = GradientBuckets(model, twin.send, None)
    update(buckets, model, [IMAGES])
    assert [nbytes for *_, nbytes in twin.left] == [2 * LAYER]
    assert model[0].weight.grad is None


def test_every_gradient_begins_at_a_border_of_64_bytes():
    model = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 7))
    GradientBuckets(model, Twin().send, None)
    begin = min(parameter.grad.data_ptr() for parameter in model.parameters())
    assert {(parameter.grad.data_ptr() - begin) % 64 for parameter in model.parameters()} == {0}


def test_as_float16_half_the_bytes_travel_and_a_sum_is_exact_to_eleven_bits():
    model, twin = network(), Twin(world_size=4)
    buckets = GradientBuckets(model, twin.send, torch.float16)
    share = 1e-6  # of a mean over a large batch: float16 itself has no more than 4 bits of such numbers
    update(buckets, model, [IMAGES], scale=share * scale_on(torch.float16))
    assert twin.left == [(0, torch.float16, 3 * LAYER // 2)]
    for got, alone in zip(gradients(model), plain_gradients(IMAGES), strict=True):
        assert got.dtype == torch.float32
        # 2^-11 for what is sent, as much for the sum; below 2^-14 / SCALE float16 is exact to 2^-25 / SCALE
        torch.testing.assert_close(got, 4 * share * alone, rtol=2**-10, atol=8 * 2**-25 / SCALE)


def test_gradients_that_are_float16_already_are_not_scaled_for_good():
    model = network().half()
    buckets = GradientBuckets(model, Twin(world_size=1).send, torch.float16)
    update(buckets, model, [IMAGES.half()], scale=2.0**-12 * scale_on(torch.float16))
    for got, expected in zip(gradients(model), plain_gradients(IMAGES), strict=True):
        torch.testing.assert_close(got.float(), 2.0**-12 * expected, rtol=0.02, atol=1e-5)  # a float16 backward


def test_what_float16_cannot_carry_arrives_as_infinite():
    model = nn.Linear(1, 1, bias=False)
    limit = largest_on(torch.float16)
    buckets = GradientBuckets(model, Twin(world_size=1).send, torch.float16)
    for gradient, arrives in ((0.99 * limit, True), (1.01 * limit, False)):
        model.weight.grad.zero_()
        buckets.expect(last=True)
        (model(torch.full((1, 1), gradient)).sum() * SCALE).backward()
        buckets.finish()
        assert bool(torch.isfinite(model.weight.grad)) == arrives


def test_all_buckets_are_waited_for_before_a_failure_is_told():
    waited_for = []

    def send(number, bucket):
        def arrived():
            waited_for.append(number)
            raise RuntimeError(f"bucket {number}")

        return arrived

    model = network()
    buckets = GradientBuckets(model, send, None, bucket_bytes=LAYER)
    with pytest.raises(RuntimeError, match="bucket 0"):
        update(buckets, model, [IMAGES])
    assert waited_for == [0, 1, 2]


def test_letting_go_waits_for_what_is_on_its_way_and_tells_of_no_failure():
    waited_for = []

    def send(number, bucket):
        def arrived():
            waited_for.append(number)
            raise RuntimeError("the other worker is lost")

        return arrived

    model = network()
    buckets = GradientBuckets(model, send, None, bucket_bytes=LAYER)
    buckets.expect(last=True)
    model[1:](IMAGES).sum().backward()
    buckets.release()
    assert waited_for == [0, 1]


def test_a_model_that_was_let_go_of_sends_nothing():
    model, twin = network(), Twin()
    buckets = GradientBuckets(model, twin.send, None)
    buckets.expect(last=True)
    buckets.release()
    model(IMAGES).sum().backward()
    assert twin.left == []
