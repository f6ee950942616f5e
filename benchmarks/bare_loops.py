"""Loops as a tutorial has them, on one worker or several: what the service's own loop is measured against."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from benchmarks.jobs import Digits
from dali_pipelines.sample_order import Shard
from trainer.engine.optimizer import build_optimizer
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


def bare_loop(
    fleet: BareFleet,
    model: nn.Module,
    digits: Digits,
    micro_batch: int,
    lr: float,
    epochs: int,
    update_done: Callable[[], None],
) -> None:
    """Epochs of whole updates, each with an evaluation after it; a loss is read once an epoch."""
    of_service = build_optimizer("momentum", model, lr=lr, momentum=0.9, weight_decay=5e-4)
    module, optimizer = fleet.wrap(model, of_service)
    batch, samples = micro_batch * fleet.world_size, digits.train_size
    assert samples % batch == 0, "an epoch has whole updates"
    for epoch in range(epochs):
        losses = torch.zeros((), device=digits.images.device)
        shard = Shard(fleet.rank, fleet.world_size, micro_batch, 1, epoch * samples, (epoch + 1) * samples)
        for images, labels in digits.batches(shard):
            optimizer.zero_grad()
            loss = F.cross_entropy(module(images), labels)
            loss.backward()
            optimizer.step()
            finish_update(model, batch)  # a part of the network: its running statistics
            losses += loss.detach()
            update_done()
        float(losses)
        _evaluate(fleet, model, digits, micro_batch)


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
