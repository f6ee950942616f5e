"""Workers connected by Horovod. The one file that imports it.

Gradients travel as one named group after the last micro-batch. Horovod's DistributedOptimizer would overlap them with
the backward, but the order in which it fuses them depends on timing, so at four ranks no two runs are equal to the bit;
one group is.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import horovod.torch as hvd
from horovod.common.elastic import notification_manager
from horovod.common.exceptions import HorovodInternalError
from torch import Tensor, nn

from trainer.collective.board import Board, HttpBoard, NoBoard
from trainer.environment import horovod_server, set_default

# Seconds that Horovod's Gloo waits for a worker that is frozen, which is 30 unless the user says so; longer than a
# watchdog may wait, which knows who it is.
_GLOO_TIMEOUT = "HOROVOD_GLOO_TIMEOUT_SECONDS", "1800"
_ATTEMPTS = 10  # at joining an elastic fleet


class HorovodCollective:
    """Horovod, as launched by horovodrun (Gloo) or mpirun (MPI); with NCCL for GPU tensors where it was built so.

    is_elastic: horovodrun got a host-discovery script; it tells rank 0 when hosts come or go.
    """

    name = "horovod"
    overlaps_backward = False
    gradient_divisor = 1

    def __init__(self, is_elastic: bool = False) -> None:
        if not is_elastic:  # an elastic fleet goes on without whoever is frozen
            set_default(*_GLOO_TIMEOUT)
        self._is_change_announced = False
        if is_elastic:  # before anything takes time: what is announced to nobody is not announced again
            notification_manager.init()
            notification_manager.register_listener(self)
        server = horovod_server()  # mpirun has none
        self.board: Board = NoBoard() if server is None else HttpBoard(*server)
        self._join(attempts=_ATTEMPTS if is_elastic else 1)

    def join_again(self) -> None:
        """Leaves the fleet, and joins the one that there is then. Elastic only; ends the process where the launcher has
        no place for it any more."""
        self._is_change_announced = False  # what is announced from now on may come too late for the fleet that forms
        hvd.shutdown()
        self._join(attempts=_ATTEMPTS)

    def _join(self, attempts: int) -> None:
        for left in reversed(range(attempts)):
            try:
                hvd.init()
                break
            except ValueError:  # another worker has ended meanwhile: the next fleet is without it
                hvd.shutdown()
                if left == 0:
                    raise
        self.rank, self.world_size, self.local_rank = hvd.rank(), hvd.size(), hvd.local_rank()
        self.local_size = hvd.local_size()
        self._parameters: list[nn.Parameter] = []

    def on_hosts_updated(self, timestamp: int, update: object) -> None:
        """For Horovod, which calls it from a thread of its own."""
        self._is_change_announced = True

    def is_change_announced(self) -> bool:
        return self._is_change_announced

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
