"""The service's loop and the bare one in turns, then each under the profiler: what both tables of training show."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from benchmarks.gpu_chip import device_name, share_of_peak
from benchmarks.gpu_loops import Input, Setting, bare, prepare, profiled, seconds, service
from benchmarks.gpu_trace import Profile
from benchmarks.side_by_side import Times, in_turns, ratios, spread
from trainer.cli.compiler import CompileError

COLUMNS = ("service / bare, time", "share of bf16 peak", "GPU idle, service / bare", "host waits an update, both")


@dataclass(frozen=True, slots=True)
class Comparison:
    """took: seconds an update of "service" and "bare", round by round; profiles: of the two, in this order."""

    setting: Setting
    took: Times
    profiles: Sequence[Profile]

    def images_per_s(self, loop: str) -> list[float]:
        """Round by round."""
        return [self.setting.batch / each for each in self.took[loop]]

    def cells(self, flops: int) -> list[str]:
        """What stands under COLUMNS, for a network of so many FLOP an image."""
        rate = statistics.median(self.images_per_s("service"))
        return [
            spread(ratios(self.took, "service", "bare"), 3),
            percent(share_of_peak(rate, flops, self.setting.device)),
            " / ".join(percent(each.idle) for each in self.profiles),
            " / ".join("-" if each.waits is None else f"{each.waits:.1f}" for each in self.profiles),
        ]


def compare(setting: Setting, images: Input, warm_up: int, updates: int, rounds: int) -> Comparison:
    """Both loops over these images; what is profiled is no part of a round."""
    let_go()
    loops = {loop: prepare(setting, images, weights_too=loop is bare) for loop in (service, bare)}
    contestants = {
        loop.__name__: lambda loop=loop, trained=trained: seconds(loop, trained, warm_up, updates)
        for loop, trained in loops.items()
    }
    took = in_turns(contestants, rounds)
    profiles = [profiled(loop, trained, warm_up, min(updates, 10)) for loop, trained in loops.items()]
    return Comparison(setting, took, profiles)


def let_go() -> None:
    """Gives back the device's memory that networks before held: the next one needs it, or another process."""
    torch.compiler.reset()
    gc.collect()
    torch.cuda.empty_cache()


def cells_or_why_not(measured: Callable[[], list[str]], cells: int) -> list[str]:
    """So many cells: what was measured, or the reason, since a network that cannot be compiled or does not fit into the
    device's memory is to cost no other row."""
    try:
        return measured()
    except (CompileError, RuntimeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].replace("|", "/")
    return [reason, *["-"] * (cells - 1)]


def percent(share: float | None) -> str:
    """A share as a table says it."""
    return "-" if share is None else f"{100 * share:.1f} %"


def about_the_peak(flops: int, device: torch.device) -> str:
    """What stands below a table with a share of the peak."""
    known = share_of_peak(1.0, flops, device) is not None
    missing = "" if known else f" The bf16 peak of {device_name(device)} is not in the table: that column is empty."
    return f"\n{flops / 1e9:.2f} GFLOP an image, forward and backward.{missing}"
