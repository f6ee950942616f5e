"""How long the fleet takes to add up messages of several sizes, through the same library as the gradients."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial

import torch

from trainer.calibration.stopwatch import piloted_rounds, seconds_of, slowest
from trainer.collective.collective import Collective
from trainer.rule.all_reduce import AllReduceTime

_SMALLEST, _LARGEST = 2**10, 2**26  # bytes
_SIZES = 6
_STEP = 4  # bytes: a whole number of elements of any type
_TURNS = 3


def message_sizes(gradient_bytes: int) -> list[int]:
    """Bytes from 1 KiB up to the gradient's own, in even ratios; beyond 64 MiB there is only the gradient's own."""
    top = min(max(gradient_bytes, 64 * _SMALLEST), _LARGEST)
    ratio = (top / _SMALLEST) ** (1 / (_SIZES - 1))
    steps = {round(_SMALLEST * ratio**i / _STEP) * _STEP for i in range(_SIZES)}
    return sorted(steps | {gradient_bytes})


def measure_all_reduce(
    collective: Collective,
    nodes: int,
    device: torch.device,
    wire: torch.dtype | None,
    gradient_bytes: int,
    seconds: float,
    say: Callable[[str], None],
) -> tuple[AllReduceTime, ...]:
    """Medians of the slowest worker, for every message size; nothing for a fleet of one.

    wire: the type in which gradients travel, None for float32. seconds: for each size.
    """
    if collective.world_size == 1:
        return ()
    say(f"all-reduce over {collective.world_size} workers")
    measured = []
    for nbytes in message_sizes(gradient_bytes):
        dtype = wire or torch.float32
        message = torch.zeros(max(1, nbytes // dtype.itemsize), dtype=dtype, device=device)
        add_up = partial(collective.all_reduce, message)
        measured.append((nbytes, add_up, piloted_rounds(collective, device, seconds / _TURNS, add_up)))
    took: dict[int, list[float]] = {nbytes: [] for nbytes, _, _ in measured}
    for _ in range(_TURNS):  # in turns, so that a moment in which the machine is busy spoils no size
        for nbytes, add_up, rounds in measured:
            took[nbytes] += [seconds_of(device, add_up) for _ in range(rounds)]
    return tuple(
        AllReduceTime(collective.world_size, nodes, nbytes, slowest(collective, statistics.median(times)))
        for nbytes, times in took.items()
    )
