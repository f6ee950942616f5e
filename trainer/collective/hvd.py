"""Workers connected by Horovod. The one file that imports it.

Gradients travel as one named group after the last micro-batch. Horovod's DistributedOptimizer would overlap them with
the backward, but the order in which it fuses them depends on timing, so at four ranks no two runs are equal to the bit;
one group is.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import horovod.torch as hvd
from horovod.common.exceptions import HorovodInternalError
from torch import Tensor, nn


class HorovodCollective:
    """Horovod, as launched by horovodrun (Gloo) or mpirun (MPI); with NCCL for GPU tensors where it was built so."""

    name = "horovod"
    overlaps_backward = False
    gradient_divisor = 1

    def __init__(self) -> None:
        hvd.init()
        self.rank, self.world_size, self.local_rank = hvd.rank(), hvd.size(), hvd.local_rank()
        self._parameters: list[nn.Parameter] = []

    def wrap(self, model: nn.Module) -> nn.Module:
        hvd.broadcast_parameters(model.state_dict(), root_rank=0)
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        return model

    def micro_step(self, last: bool) -> AbstractContextManager[object]:
        return nullcontext()

    def finish_gradients(self) -> None:
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        hvd.grouped_allreduce_(gradients, op=hvd.Sum, name="gradients")

    def all_reduce(self, tensor: Tensor) -> Tensor:
        hvd.allreduce_(tensor, op=hvd.Sum, name="all_reduce")
        return tensor

    def all_reduce_later(self, tensor: Tensor) -> Callable[[], Tensor]:
        handle = hvd.allreduce_async_(tensor, op=hvd.Sum, name="all_reduce_later")

        def arrived() -> Tensor:
            hvd.synchronize(handle)
            return tensor

        return arrived

    def broadcast(self, tensor: Tensor, source_rank: int = 0) -> Tensor:
        hvd.broadcast_(tensor, root_rank=source_rank, name="broadcast")
        return tensor

    def is_lost_worker(self, error: Exception) -> bool:
        return isinstance(error, HorovodInternalError)

    def close(self) -> None:
        hvd.shutdown()


def built_with_mpi() -> bool:
    """Whether this Horovod can run under mpirun."""
    return bool(hvd.mpi_built())


def built_with_nccl() -> bool:
    """Whether this Horovod adds up tensors on GPUs through NCCL."""
    return bool(hvd.nccl_built())
