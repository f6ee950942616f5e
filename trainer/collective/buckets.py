"""Gradients in a few flat buffers, each sent as soon as the last backward has filled it.

Parameters are dealt out in reverse order, which is about the order in which a backward comes to them. A buffer travels
by itself under its own number, so its sum does not depend on when it was ready, nor on what else travels then: a run
repeats itself to the bit. The gradients are views into the buffers: a backward that finds none puts its own there, one
copy, and later ones add to them; nothing is copied back.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from trainer.collective.wire import scale_on

# Begins the sum over all workers of buffer `number`, in place; what it returns waits for it.
Send = Callable[[int, Tensor], Callable[[], object]]

BUCKET_BYTES = 25 * 2**20
_ALIGNMENT = 64  # bytes: kernels that read several numbers at once want them on such a border


@dataclass(slots=True)
class _Bucket:
    """views: each parameter's gradient in `flat`. on_wire: what travels, flat itself or its copy in another type."""

    flat: Tensor
    on_wire: Tensor
    views: dict[nn.Parameter, Tensor]
    awaited: set[nn.Parameter] = field(default_factory=set)
    arrived: Callable[[], object] | None = None


class GradientBuckets:
    """The gradients of a model's parameters, from here on; `wire` is the type they travel in, None for their own.

    The model's loss is to be multiplied by scale_on(wire); the sum is divided by it. Where a parameter has no gradient
    its view is zero: a bucket travels on every worker, whichever of its parameters a worker has used.
    """

    def __init__(
        self, model: nn.Module, send: Send, wire: torch.dtype | None, bucket_bytes: int = BUCKET_BYTES
    ) -> None:
        self._send, self._scale, self._is_last = send, scale_on(wire), False
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._buckets = [_bucket(part, wire) for part in _dealt_out(trained, bucket_bytes)]
        self._place = {p: number for number, bucket in enumerate(self._buckets) for p in bucket.views}
        self._hooks = [p.register_post_accumulate_grad_hook(self._has_come) for p in self._place]

    def expect(self, last: bool) -> None:
        """Before the forward of a micro-batch: whether it is the update's last, in whose backward buckets leave."""
        self._is_last = last
        for bucket in self._buckets:
            bucket.awaited = set(bucket.views) if last else set()

    def finish(self) -> None:
        """After the last backward: sends what is left, and waits until all are there. Every .grad is the sum then."""
        self._is_last = False
        for number, bucket in enumerate(self._buckets):
            if bucket.arrived is None:  # a parameter without a gradient
                for parameter in bucket.views:
                    _into_place(parameter, bucket.views[parameter])
                self._leave(number)
        failure: Exception | None = None
        for bucket in self._buckets:
            assert bucket.arrived is not None, "all buckets have left"
            try:
                bucket.arrived()
            except Exception as error:  # the library remembers those that nobody has waited for
                failure = failure or error
            bucket.arrived = None
        if failure is not None:
            raise failure
        for bucket in self._buckets:
            if bucket.on_wire is not bucket.flat:
                bucket.flat.copy_(bucket.on_wire)
            if self._scale != 1:
                bucket.flat.mul_(1 / self._scale)

    def release(self) -> None:
        """Lets go of the model, and of what was on its way when a worker was lost: the library holds it until then."""
        for hook in self._hooks:
            hook.remove()
        for bucket in self._buckets:
            if bucket.arrived is not None:
                with contextlib.suppress(Exception):
                    bucket.arrived()

    def _has_come(self, parameter: nn.Parameter) -> None:
        """After a backward has added to the parameter's gradient; on a GPU on a thread of autograd's."""
        number = self._place[parameter]
        bucket = self._buckets[number]
        _into_place(parameter, bucket.views[parameter])
        if self._is_last:
            assert bucket.arrived is None, "a gradient came after its bucket had left"
            bucket.awaited.discard(parameter)
            if not bucket.awaited:
                self._leave(number)

    def _leave(self, number: int) -> None:
        bucket = self._buckets[number]
        if bucket.on_wire is not bucket.flat:
            bucket.on_wire.copy_(bucket.flat)
        bucket.arrived = self._send(number, bucket.on_wire)


def _into_place(parameter: nn.Parameter, view: Tensor) -> None:
    """Where somebody has put another tensor in the place of the view, or none."""
    if parameter.grad is view:
        return
    if parameter.grad is None:
        view.zero_()
    else:
        view.copy_(parameter.grad)
    parameter.grad = view


def _dealt_out(parameters: list[nn.Parameter], bucket_bytes: int) -> list[list[nn.Parameter]]:
    """In reverse order, as many of one type to a bucket as fit; one at least."""
    parts: list[list[nn.Parameter]] = []
    room = 0
    for parameter in reversed(parameters):
        nbytes = parameter.numel() * parameter.element_size()
        if not parts or nbytes > room or parts[-1][0].dtype != parameter.dtype:
            parts.append([])
            room = bucket_bytes
        parts[-1].append(parameter)
        room -= nbytes
    return parts


def _bucket(parameters: list[nn.Parameter], wire: torch.dtype | None) -> _Bucket:
    step = _ALIGNMENT // parameters[0].element_size()
    lengths = [-(-parameter.numel() // step) * step for parameter in parameters]
    flat = torch.zeros(sum(lengths), dtype=parameters[0].dtype, device=parameters[0].device)
    views = {}
    for parameter, part in zip(parameters, flat.split(lengths), strict=True):
        parameter.grad = views[parameter] = part[: parameter.numel()].view(parameter.shape)
    return _Bucket(flat, flat if wire in (None, flat.dtype) else flat.to(wire), views)
