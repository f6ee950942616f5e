"""Loss and gradient of every update, and what is probed of some, read without making anybody wait for them.

A number that is read off a GPU holds the host up until the device has computed it, and the device then waits for the
host's next work. So the numbers are copied to the host beside the work and read some updates later, when they have long
arrived: always the same number of updates later, so that all ranks stop at the same place. On a CPU that number is 0.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.engine.errors import TrainingError


@dataclass(frozen=True, slots=True)
class _Reading:
    """numbers: the loss, and the norm of every gradient, then of each that was probed, on the host once `arrival` has
    come (None: at once). factors: of the squares of the last."""

    numbers: Tensor
    factors: Sequence[float]
    arrival: torch.cuda.Event | None
    where: Callable[[], str]


class Readings:
    """The losses of a stretch of updates, and whether all gradients were finite.

    loss_sum: of the updates that have been read, on top of what it began with; last_loss: of the newest of them.
    lag: how many updates later an update is read; None for lag_on(device).
    """

    def __init__(self, device: torch.device, loss_sum: float = 0.0, lag: int | None = None) -> None:
        self.loss_sum, self.last_loss = loss_sum, math.nan
        self._squares: list[tuple[float, float]] = []
        self._lag = lag_on(device) if lag is None else lag
        self._pending: deque[_Reading] = deque()

    def note(
        self,
        loss: Tensor,
        gradients: Sequence[Tensor],
        where: Callable[[], str],
        caught: Sequence[tuple[Tensor, float]] = (),
    ) -> None:
        """Takes the numbers of an update before its optimizer steps: loss a scalar; gradients the same on all ranks;
        caught: by its probe, norms and the factors of their squares.

        where: says where the update was, for the message. Raises TrainingError, on every rank alike, where a gradient
        was not finite `lag` updates ago.
        """
        # Not waited for: such a copy lands in pinned memory, and on a CPU it is no copy.
        numbers = torch.stack((loss, *norms(gradients), *(norm for norm, _ in caught))).to("cpu", non_blocking=True)
        factors = [factor for _, factor in caught]
        self._pending.append(_Reading(numbers, factors, _end_of_queue(loss.device), where))
        if len(self._pending) > self._lag:
            self._read()

    def settle(self) -> None:
        """Waits for all that was noted, and reads it. Raises as note does: before anything is kept of the updates."""
        while self._pending:
            self._read()

    def take_squares(self) -> list[tuple[float, float]]:
        """For each update that was probed and has been read, once: what the probe caught as a sum of squares, and the
        squared norm of the whole gradient."""
        squares, self._squares = self._squares, []
        return squares

    def _read(self) -> None:
        reading = self._pending.popleft()
        if reading.arrival is not None:
            reading.arrival.synchronize()
        loss, *norms = reading.numbers.numpy().tolist()
        gradients = len(norms) - len(reading.factors)
        whole, probed = norms[:gradients], norms[gradients:]
        if not math.isfinite(sum(whole)):
            raise TrainingError(f"the loss or its gradient is not finite in {reading.where()}")
        self.last_loss = loss
        self.loss_sum += loss
        if probed:
            small = sum(factor * norm * norm for factor, norm in zip(reading.factors, probed, strict=True))
            self._squares.append((small, sum(norm * norm for norm in whole)))


def lag_on(device: torch.device) -> int:
    """How many updates later numbers are read: on a GPU one runs and one is queued behind it, while the host prepares
    the next."""
    return 2 if device.type == "cuda" else 0


def refuse_not_finite(loss: Tensor, gradients: Sequence[Tensor]) -> None:
    """Waits for the device. Raises TrainingError where a gradient is not finite."""
    if not torch.isfinite(torch.stack(norms(gradients)).sum()):
        raise TrainingError("the loss or its gradient is not finite")


def norms(gradients: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The Euclidean norm of each, a scalar on its device; what is not finite in a gradient shows in its norm."""
    return torch._foreach_norm(gradients)  # a few kernels for all of them on a GPU


def _end_of_queue(device: torch.device) -> torch.cuda.Event | None:
    """When all that the device was given so far is done; None for a CPU, where it is."""
    if device.type != "cuda":
        return None
    event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]  # whoever waits leaves the core to others
    event.record(torch.cuda.current_stream(device))
    return event
