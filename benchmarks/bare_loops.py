"""Loops as a tutorial has them, on one worker or several: what the service's own loop is measured against."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Optimizer

from benchmarks.jobs import Digits
from dali_pipelines.sample_order import Shard
from trainer.models.ghost_batch_norm import finish_update


@dataclass(frozen=True, slots=True)
class BareFleet:
    """What a library gives to those who use it directly. wrap: network and optimizer as they train; total: a sum over
    workers."""

    rank: int
    world_size: int
    wrap: Callable[[nn.Module, Optimizer], tuple[nn.Module, Optimizer]]
    total: Callable[[Tensor], Tensor]


def bare_fleet(library: str, rank: int, world_size: int) -> BareFleet:
    """local: nothing. ddp: DistributedDataParallel, told not to copy or send what it need not. horovod:
    hvd.DistributedOptimizer. The library has been set up by the service's own adapter."""
    if library == "ddp":
        return BareFleet(rank, world_size, _with_ddp, _total_of_ddp)
    if library == "horovod":
        return BareFleet(rank, world_size, _with_horovod, _total_of_horovod)
    return BareFleet(rank, world_size, lambda model, optimizer: (model, optimizer), lambda tensor: tensor)


def bare_update(fleet: BareFleet, model: nn.Module, micro_batch: int, lr: float) -> Callable[[Tensor, Tensor], None]:
    """What makes an update of a micro-batch of images and labels."""
    plain = SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4)
    module, optimizer = fleet.wrap(model, plain)
    batch = micro_batch * fleet.world_size

    def update(images: Tensor, labels: Tensor) -> None:
        optimizer.zero_grad()
        loss = F.cross_entropy(module(images), labels)
        loss.backward()
        optimizer.step()
        finish_update(model, batch)  # a part of the network: its running statistics

    return update


def bare_loop(fleet: BareFleet, model: nn.Module, digits: Digits, micro_batch: int, lr: float, epochs: int) -> float:
    """Seconds of so many epochs after another one that warms up: whole updates, and an evaluation after each."""
    update = bare_update(fleet, model, micro_batch, lr)
    batch = micro_batch * fleet.world_size
    updates, began = digits.train_size // batch, 0.0
    for epoch in range(1 + epochs):
        if epoch == 1:
            began = time.perf_counter()
        first = epoch * updates * batch
        for images, labels in digits.batches(
            Shard(fleet.rank, fleet.world_size, micro_batch, 1, first, first + updates * batch)
        ):
            update(images, labels)
        _evaluate(fleet, model, digits, micro_batch)
    return time.perf_counter() - began


def _evaluate(fleet: BareFleet, model: nn.Module, digits: Digits, micro_batch: int) -> list[Any]:
    """The sum of losses, and the first and the first five guesses that were right."""
    sums = torch.zeros(3, device=digits.images.device)
    model.eval()
    with torch.inference_mode():
        for images, labels in digits.evaluation_batches(fleet.rank, fleet.world_size, micro_batch):
            logits = model(images)
            right = logits.topk(5).indices == labels[:, None]
            sums += torch.stack([F.cross_entropy(logits, labels, reduction="sum"), right[:, 0].sum(), right.sum()])
    model.train()
    return fleet.total(sums.cpu()).tolist()


def _with_ddp(model: nn.Module, optimizer: Optimizer) -> tuple[nn.Module, Optimizer]:
    from torch.nn.parallel import DistributedDataParallel

    device = next(model.parameters()).device
    options = inspect.signature(DistributedDataParallel).parameters
    sync_buffers = "forward_sync_buffers" if "forward_sync_buffers" in options else "broadcast_buffers"  # torch < 2.13
    module = DistributedDataParallel(
        model,
        device_ids=[device] if device.type == "cuda" else None,
        gradient_as_bucket_view=True,
        **{sync_buffers: False},
    )
    return module, optimizer


def _total_of_ddp(tensor: Tensor) -> Tensor:
    torch.distributed.all_reduce(tensor)
    return tensor


def _with_horovod(model: nn.Module, optimizer: Optimizer) -> tuple[nn.Module, Optimizer]:
    import horovod.torch as hvd

    hvd.broadcast_parameters(model.state_dict(), root_rank=0)
    return model, hvd.DistributedOptimizer(optimizer, named_parameters=model.named_parameters())


def _total_of_horovod(tensor: Tensor) -> Tensor:
    import horovod.torch as hvd

    return hvd.allreduce(tensor, op=hvd.Sum, name="bare")
