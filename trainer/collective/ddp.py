"""Workers connected by torch.distributed, gradients averaged during the backward by DistributedDataParallel."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from trainer.collective.board import BoardError, BoundedBoard
from trainer.collective.wire import largest_on, scale_on

T = TypeVar("T")
# torch 2.13 renamed the option
_OPTIONS = inspect.signature(DistributedDataParallel).parameters
_SYNC_BUFFERS = "forward_sync_buffers" if "forward_sync_buffers" in _OPTIONS else "broadcast_buffers"

# Longer than a watchdog may wait, which knows who is missing; NCCL's own default is 10 minutes.
_TIMEOUT = timedelta(minutes=30)


class DdpCollective:
    """torch.distributed, with Gloo for tensors on the CPU and NCCL for those on a GPU.

    rendezvous is "host:port" where rank 0 listens, or None to take it from the launcher's environment (torchrun).
    """

    name = "ddp"
    overlaps_backward = True
    meets_in_backward = True
    largest_gradient = largest_on(None)

    def __init__(self, rank: int, world_size: int, local_rank: int, rendezvous: str | None) -> None:
        self.rank, self.world_size, self.local_rank = rank, world_size, local_rank
        # DDP averages. A hook that sums instead would run Python on Gloo's threads (see leave.py).
        self.gradient_divisor = float(world_size)
        self._module: DistributedDataParallel | None = None
        self._scale = scale_on(None)
        url = "env://" if rendezvous is None else f"tcp://{rendezvous}"
        dist.init_process_group(
            backend="cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
            init_method=url,
            rank=rank,
            world_size=world_size,
            timeout=_TIMEOUT,
        )
        # A connection of its own: whoever waits on the process group's holds it.
        store, _, _ = next(dist.rendezvous(url, rank, world_size, timeout=_TIMEOUT))
        self.board = BoundedBoard(StoreBoard(store))

    def wrap(self, model: nn.Module, wire: torch.dtype | None = None) -> nn.Module:
        device = next(model.parameters()).device
        for buffer in model.buffers():  # DDP before torch 2.13 leaves them as they are where it is not to keep them so
            dist.broadcast(buffer, 0)
        self._module = DistributedDataParallel(
            model,
            device_ids=[device] if device.type == "cuda" else None,
            gradient_as_bucket_view=True,
            **{_SYNC_BUFFERS: False},  # batch norm's running statistics are averaged before evaluation, not copied
        )
        if wire == torch.float16:
            # In C++, since a hook in Python runs on Gloo's threads (see leave.py).
            self._module._register_builtin_comm_hook(dist.BuiltinCommHookType.FP16_COMPRESS)
        self._scale = scale_on(wire)
        self.gradient_divisor = self.world_size * self._scale
        # A gradient becomes a float16 while it is still as many times too large as there are workers to divide by.
        self.largest_gradient = largest_on(wire) / self.world_size
        return self._module

    def micro_step(self, last: bool) -> AbstractContextManager[object]:
        assert self._module is not None, "wrap() comes before micro_step()"
        return nullcontext() if last else self._module.no_sync()

    def finish_gradients(self) -> None:
        """The last backward has summed them."""
        assert self._module is not None, "wrap() comes before finish_gradients()"
        if self._scale != 1:
            torch._foreach_mul_([p.grad for p in self._module.parameters() if p.grad is not None], 1 / self._scale)

    def all_reduce(self, tensor: Tensor) -> Tensor:
        dist.all_reduce(tensor)
        return tensor

    def all_reduce_later(self, tensor: Tensor) -> Callable[[], Tensor]:
        work = dist.all_reduce(tensor, async_op=True)

        def arrived() -> Tensor:
            work.wait()
            return tensor

        return arrived

    def broadcast(self, tensor: Tensor, source_rank: int = 0) -> Tensor:
        dist.broadcast(tensor, source_rank)
        return tensor

    def is_lost_worker(self, error: Exception) -> bool:
        return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))

    def is_change_announced(self) -> bool:
        return False

    def close(self) -> None:
        self._module = None
        if dist.is_initialized():
            dist.destroy_process_group()


class StoreBoard:
    """A board in the store where workers find each other: torchrun keeps it, and under other launchers rank 0.

    Its calls may block where the network is lost: see BoundedBoard.
    """

    def __init__(self, store: dist.Store) -> None:
        self._store = store

    def put(self, key: str, text: str) -> None:
        _heard(lambda: self._store.set(f"board.{key}", text))

    def get(self, key: str) -> str | None:
        there = _heard(lambda: self._store.check([f"board.{key}"]))
        return _heard(lambda: self._store.get(f"board.{key}")).decode(errors="replace") if there else None


def _heard(call: Callable[[], T]) -> T:
    try:
        return call()
    except RuntimeError as error:  # dist.DistError is one too
        raise BoardError(str(error).splitlines()[0]) from error
