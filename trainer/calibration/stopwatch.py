"""Reading time: on a device's own clock, and for a fleet, in which the slowest worker counts."""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable, Sequence

import torch

from trainer.collective.collective import Collective

_FEWEST_ROUNDS, _MOST_ROUNDS = 2, 500
_STRETCHES = 5
_PILOTS = 3


class Stopwatch:
    """Points in time, marked as the work reaches them; on a GPU they are events, so that marking does not wait."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._times: list[float] = []
        self._events: list[torch.cuda.Event] = []

    def mark(self) -> None:
        """The work queued so far ends here."""
        if self._device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            event.record(torch.cuda.current_stream(self._device))
            self._events.append(event)
        else:
            self._times.append(time.perf_counter())

    def laps(self) -> list[float]:
        """Seconds between neighbouring marks. Waits for the device."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
            return [begin.elapsed_time(end) / 1e3 for begin, end in itertools.pairwise(self._events)]
        return [end - begin for begin, end in itertools.pairwise(self._times)]


def seconds_of(device: torch.device, work: Callable[[], object]) -> float:
    """How long one call takes, with all that it queues on the device."""
    watch = Stopwatch(device)
    watch.mark()
    work()
    watch.mark()
    return watch.laps()[0]


def everybodys(collective: Collective, value: float) -> list[float]:
    """Every rank's value, by rank."""
    values = torch.zeros(collective.world_size, dtype=torch.float64)
    values[collective.rank] = value
    return [float(each) for each in collective.all_reduce(values)]


def slowest(collective: Collective, seconds: float) -> float:
    """The slowest rank's seconds: a fleet waits for it."""
    return max(everybodys(collective, seconds))


def agreed_rounds(collective: Collective, round_s: float, seconds: float) -> int:
    """How many rounds of round_s fill the seconds, the same number on every rank."""
    fitting = seconds / max(slowest(collective, round_s), 1e-9)
    return math.ceil(min(max(fitting, _FEWEST_ROUNDS), _MOST_ROUNDS))


def piloted_rounds(collective: Collective, device: torch.device, seconds: float, work: Callable[[], object]) -> int:
    """How many calls of `work` fill the seconds, by a few that are not counted: the first ones are slow."""
    fastest = math.inf
    for _ in range(_PILOTS):
        took = slowest(collective, seconds_of(device, work))
        fastest = min(fastest, took)
        if took > seconds:
            break
    return agreed_rounds(collective, fastest, seconds)


def median_round(collective: Collective, device: torch.device, seconds: float, work: Callable[[], object]) -> float:
    """Median seconds of one call, on the slowest rank."""
    rounds = piloted_rounds(collective, device, seconds, work)
    return slowest(collective, statistics.median(seconds_of(device, work) for _ in range(rounds)))


def spread(seconds: Sequence[float]) -> float:
    """Half the distance of the quartiles, relative to the median."""
    first, median, third = statistics.quantiles(seconds, n=4, method="inclusive")
    return (third - first) / 2 / median


def steady_mean(laps: Sequence[float]) -> float:
    """Mean lap, as the median over stretches of laps: a queue delivers in bursts, and a machine may falter once."""
    length = max(1, len(laps) // _STRETCHES)
    stretches = [laps[start : start + length] for start in range(0, len(laps) - length + 1, length)]
    return statistics.median(statistics.fmean(stretch) for stretch in stretches)
