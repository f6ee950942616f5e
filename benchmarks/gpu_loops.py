"""The service's own loop and a bare PyTorch loop over the same network, input and optimizer, on one device.

Both run until a window of updates is over, which begins after a warm-up (allocations, cuDNN's choices, compilation) and
has the device at rest at both ends. The service's loop is told to stop there, as a signal would, so neither evaluates.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.profiler import profile

from benchmarks.gpu_trace import Profile, profiler, read_profile
from dali_pipelines.sample_order import Shard
from trainer.cli.compiler import compiler
from trainer.collective.local import LocalCollective
from trainer.collective.watched import WatchedCollective
from trainer.collective.whereabouts import Whereabouts
from trainer.engine.job import Job
from trainer.engine.optimizer import build_optimizer
from trainer.engine.train import train
from trainer.engine.update import autocast
from trainer.models import build_model
from trainer.models.ghost_batch_norm import finish_update
from trainer.rule import EpochDecision, Limits, Reference, Schedule
from trainer.tracking.tracker import Trackers

LR, MOMENTUM = 1e-3, 0.9


class Input(Protocol):
    """What both loops read: see dali_pipelines.pipeline.InputPipeline."""

    image_size: int
    validation_size: int

    def batches(self, shard: Shard) -> Iterator[tuple[Tensor, Tensor]]: ...
    def evaluation_batches(self, rank: int, world_size: int, micro_batch: int) -> Iterator[tuple[Tensor, Tensor]]: ...


@dataclass(frozen=True, slots=True)
class Setting:
    """A network and how it computes. batch in samples, all at once; compile: with torch.compile. Picklable."""

    device: torch.device
    network: str = "resnet-50"
    classes: int = 1000
    image_size: int = 224
    batch: int = 256
    ghost_batch: int | None = None
    memory_format: torch.memory_format = torch.channels_last
    compile: bool = False
    autocast_to: torch.dtype | None = torch.bfloat16

    def words(self) -> tuple[str, str, str]:
        """Batch norm, memory format and compilation, as a table says them."""
        norm = "plain" if self.ghost_batch is None else f"ghost {self.ghost_batch}"
        layout = "channels_last" if self.memory_format is torch.channels_last else "contiguous"
        return norm, layout, "yes" if self.compile else "no"


class Synthetic:
    """Random images that lie on the device, the same ones in every batch: input that costs nothing."""

    validation_size = 1

    def __init__(self, setting: Setting) -> None:
        size = self.image_size = setting.image_size
        images = torch.randn(setting.batch, 3, size, size, device=setting.device)
        self._images = images.to(memory_format=setting.memory_format)
        self._labels = torch.randint(setting.classes, (setting.batch,), device=setting.device)

    def batches(self, shard: Shard) -> Iterator[tuple[Tensor, Tensor]]:
        return ((self._images, self._labels) for _ in range(shard.updates * shard.accumulation_steps))

    def evaluation_batches(self, rank: int, world_size: int, micro_batch: int) -> Iterator[tuple[Tensor, Tensor]]:
        return iter([(self._images, self._labels)])


class Window:
    """The progress of a loop of which `updates` are measured, after `warm_up` others; end: all of them."""

    def __init__(self, device: torch.device, warm_up: int, updates: int, watched: profile | None = None) -> None:
        assert min(warm_up, updates) > 0, "the warm-up's last update begins the window, and the window has updates"
        self._device, self._first, self.end, self._watched = device, warm_up, warm_up + updates, watched
        self._done = 0
        self._began = self.seconds = 0.0

    def is_over(self) -> bool:
        """Whether all updates are done; `seconds` is what those that are measured took."""
        return self._done >= self.end

    def epoch_started(self, decision: EpochDecision, on_schedule: float, advance: float, updates: int) -> None:
        return None

    def update_done(self, samples: int, loss: object, lr: float) -> None:
        self._done += 1
        if self._done == self._first:
            self._rest()
            if self._watched is not None:
                self._watched.start()
            self._began = time.perf_counter()
        elif self._done == self.end:
            self._rest()
            self.seconds = time.perf_counter() - self._began
            if self._watched is not None:
                self._watched.stop()

    def epoch_done(self, epoch: int, metrics: Mapping[str, float]) -> None:
        return None

    def _rest(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


@dataclass(frozen=True, slots=True)
class Trained:
    """A network in the middle of its training, and what it reads. module: what is called, the model or its compiled
    form."""

    setting: Setting
    images: Input
    model: nn.Module
    module: nn.Module
    optimizer: Optimizer


Loop = Callable[[Trained, Window], None]


def prepare(setting: Setting, images: Input, weights_too: bool = False) -> Trained:
    """A fresh network, the same each time. weights_too: whether parameters lie in the memory format as well, which a
    tutorial has; the service leaves them as they are."""
    torch.manual_seed(0)
    model = build_model(setting.network, setting.classes, setting.ghost_batch).to(setting.device)
    if weights_too:
        model = model.to(memory_format=setting.memory_format)
    optimizer = build_optimizer("momentum", model, lr=LR, momentum=MOMENTUM, weight_decay=1e-4)
    module = compiler(setting.compile, setting.device)(model)
    return Trained(setting, images, model, module, optimizer)


def service(trained: Trained, window: Window) -> None:
    """Trains until the window is over, with the service's own loop."""
    batch = trained.setting.batch
    dataset_size = 10 * window.end * batch  # of which the rest is left untouched
    whereabouts = Whereabouts()
    job = Job(
        schedule=Schedule(Reference(LR, batch, MOMENTUM), Limits(batch, batch), dataset_size, 1),
        collective=WatchedCollective(LocalCollective(), whereabouts),
        model=trained.model,
        optimizer=trained.optimizer,
        pipeline=trained.images,
        tracker=Trackers(()),
        progress=window,
        device=trained.setting.device,
        autocast_to=trained.setting.autocast_to,
        compiled=lambda model: trained.module,
        wants_stop=window.is_over,
        whereabouts=whereabouts,
        between_votes_s=0.0,  # so that it stops with the window; a run votes less often where updates are short
    )
    state, _ = train(job)
    assert window.end * batch <= state.samples_seen < dataset_size, "the loop stopped because it was told to"


def bare(trained: Trained, window: Window) -> None:
    """The same with what a PyTorch tutorial has, and nothing else."""
    setting, module, optimizer = trained.setting, trained.module, trained.optimizer
    for images, labels in trained.images.batches(Shard(0, 1, setting.batch, 1, 0, window.end * setting.batch)):
        with autocast(setting.device, setting.autocast_to):
            loss = F.cross_entropy(module(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        finish_update(trained.model, setting.batch)  # a part of the network: its running statistics
        window.update_done(setting.batch, loss, LR)


def seconds(loop: Loop, trained: Trained, warm_up: int, updates: int) -> float:
    """What an update took, on average over so many."""
    window = Window(trained.setting.device, warm_up, updates)
    loop(trained, window)
    return window.seconds / updates


def profiled(loop: Loop, trained: Trained, warm_up: int, updates: int) -> Profile:
    """What a profiler saw of so many updates."""
    watched = profiler(trained.setting.device)
    loop(trained, Window(trained.setting.device, warm_up, updates, watched))
    return read_profile(watched, updates)
