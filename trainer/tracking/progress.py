"""What a person sees while a run goes on: a bar on a terminal, a line per epoch elsewhere, nothing on other ranks."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from trainer.rule import EpochDecision

_REFRESH_S = 1.0  # drawing the bar takes two milliseconds of the interpreter's time


class RunProgress(Protocol):
    """Told by the loop; samples are counted over all workers."""

    def epoch_started(self, decision: EpochDecision, on_schedule: float, advance: float, updates: int) -> None: ...
    def update_done(self, samples: int, loss: float, lr: float) -> None: ...
    def epoch_done(self, epoch: int, metrics: Mapping[str, float]) -> None: ...
    def close(self) -> None: ...


class SilentProgress:
    """For ranks other than 0."""

    def epoch_started(self, decision: EpochDecision, on_schedule: float, advance: float, updates: int) -> None:
        return None

    def update_done(self, samples: int, loss: float, lr: float) -> None:
        return None

    def epoch_done(self, epoch: int, metrics: Mapping[str, float]) -> None:
        return None

    def close(self) -> None:
        return None


class LineProgress:
    """One line per epoch, for logs."""

    def __init__(self, console: Console, epochs: float) -> None:
        self._console, self._epochs = console, epochs

    def epoch_started(self, decision: EpochDecision, on_schedule: float, advance: float, updates: int) -> None:
        return None

    def update_done(self, samples: int, loss: float, lr: float) -> None:
        return None

    def epoch_done(self, epoch: int, metrics: Mapping[str, float]) -> None:
        self._console.print(epoch_line(epoch, self._epochs, metrics), soft_wrap=True)

    def close(self) -> None:
        return None


class BarProgress:
    """A bar over the whole run with epoch, loss, images/s, batch, lr and the time left, above it a line per epoch.

    loss is rank 0's own; the line per epoch has that of all workers.
    """

    def __init__(self, console: Console, epochs: float, total_samples: int) -> None:
        self._epochs = epochs
        self._bar = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("loss {task.fields[loss]}  {task.fields[speed]} images/s  batch {task.fields[batch]}"),
            TextColumn("lr {task.fields[lr]}"),
            TimeRemainingColumn(),
            console=console,
            refresh_per_second=1 / _REFRESH_S,
        )
        self._task = self._bar.add_task("", total=total_samples, epoch="-", loss="-", speed="-", batch="-", lr="-")
        self._bar.start()
        self._shown_at, self._samples_since, self._world_size, self._advance = time.monotonic(), 0, 1, 0.0

    def epoch_started(self, decision: EpochDecision, on_schedule: float, advance: float, updates: int) -> None:
        self._bar.update(
            self._task,
            completed=on_schedule,
            epoch=f"{decision.epoch + 1}/{self._epochs:g}",
            batch=decision.plan.global_batch,
            lr=f"{decision.lr:.4g}",
        )
        self._world_size, self._advance = decision.plan.world_size, advance

    def update_done(self, samples: int, loss: float, lr: float) -> None:
        self._bar.advance(self._task, self._advance)
        self._samples_since += samples
        passed = time.monotonic() - self._shown_at
        if passed >= _REFRESH_S:
            self._show(loss * self._world_size, self._samples_since / passed, lr)

    def epoch_done(self, epoch: int, metrics: Mapping[str, float]) -> None:
        self._bar.console.print(epoch_line(epoch, self._epochs, metrics), soft_wrap=True)
        self._show(metrics["train/loss"], metrics["speed/images_per_s"], metrics["optim/lr"])

    def _show(self, loss: float, images_per_s: float, lr: float) -> None:
        known = {} if math.isnan(loss) else {"loss": f"{loss:.4f}"}  # on a GPU it comes some updates late
        self._bar.update(self._task, speed=f"{images_per_s:,.0f}", lr=f"{lr:.4g}", **known)
        self._shown_at, self._samples_since = time.monotonic(), 0

    def close(self) -> None:
        self._bar.stop()


def open_progress(console: Console, epochs: float, total_samples: int) -> RunProgress:
    """The bar where the console is a terminal, lines elsewhere."""
    return BarProgress(console, epochs, total_samples) if console.is_terminal else LineProgress(console, epochs)


def epoch_line(epoch: int, epochs: float, metrics: Mapping[str, float]) -> str:
    """One epoch in one line."""
    done = f"{epoch:3d}/{epochs:g}"
    if "progress/epochs" in metrics:  # epochs of samples are not those of the schedule
        done = f"{epoch:3d} ({metrics['progress/epochs']:.2f}/{epochs:g})"
    noise = ""
    if "noise/gradient" in metrics:
        noise = f"  gradient noise {metrics['noise/gradient']:,.0f} ± {metrics['noise/gradient_error']:,.0f}"
    return (
        f"epoch {done}  batch {metrics['batch/global']:6,.0f}  lr {metrics['optim/lr']:<8.4g}  "
        f"loss {metrics['train/loss']:.4f}  val loss {metrics['val/loss']:.4f}  top-1 {metrics['val/top1']:7.2%}  "
        f"{metrics['speed/images_per_s']:8,.0f} images/s  {metrics['updates']:,.0f} updates  "
        f"{metrics['elapsed_s']:.1f} s{noise}"
    )
