"""Workers connected by Horovod. The one file that imports it.

Gradients travel in buckets while the last backward still runs (buckets.py). Horovod's DistributedOptimizer overlaps
them too, but the order in which it fuses them depends on timing, so at four ranks no two runs are equal to the bit;
buckets that are never fused are.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import horovod.torch as hvd
import torch
from horovod.common.elastic import notification_manager
from horovod.common.exceptions import HorovodInternalError
from torch import Tensor, nn

from trainer.collective.board import Board, HttpBoard, NoBoard
from trainer.collective.buckets import GradientBuckets
from trainer.collective.wire import largest_on, scale_on
from trainer.environment import horovod_server, set_default

# Seconds that Horovod's Gloo waits for a worker that is frozen, which is 30 unless the user says so; longer than a
# watchdog may wait, which knows who it is.
_GLOO_TIMEOUT = "HOROVOD_GLOO_TIMEOUT_SECONDS", "1800"
# Fused buckets would be added up in an order that depends on timing; and each copied twice.
_NO_FUSION = "HOROVOD_FUSION_THRESHOLD", "0"
_ATTEMPTS = 10  # at joining an elastic fleet


class HorovodCollective:
    """Horovod, as launched by horovodrun (Gloo) or mpirun (MPI); with NCCL for GPU tensors where it was built so.

    is_elastic: horovodrun got a host-discovery script; it tells rank 0 when hosts come or go.
    """

    name = "horovod"
    overlaps_backward = True
    meets_in_backward = False
    gradient_divisor = scale_on(None)
    largest_gradient = largest_on(None)

    def __init__(self, is_elastic: bool = False) -> None:
        if not is_elastic:  # an elastic fleet goes on without whoever is frozen
            set_default(*_GLOO_TIMEOUT)
        set_default(*_NO_FUSION)
        self._is_change_announced = False
        self._buckets: GradientBuckets | None = None
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
        self._let_go()
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

    def on_hosts_updated(self, timestamp: int, update: object) -> None:
        """For Horovod, which calls it from a thread of its own."""
        self._is_change_announced = True

    def is_change_announced(self) -> bool:
        return self._is_change_announced

    def wrap(self, model: nn.Module, wire: torch.dtype | None = None) -> nn.Module:
        hvd.broadcast_parameters(model.state_dict(), root_rank=0)
        self._let_go()
        self._buckets = GradientBuckets(model, _send, wire)
        self.gradient_divisor, self.largest_gradient = scale_on(wire), largest_on(wire)
        return model

    def _let_go(self) -> None:
        """Of the network that there was, if any."""
        if self._buckets is not None:
            self._buckets.release()
            self._buckets = None

    def micro_step(self, last: bool) -> AbstractContextManager[object]:
        assert self._buckets is not None, "wrap() comes before micro_step()"
        self._buckets.expect(last)
        return nullcontext()

    def finish_gradients(self) -> None:
        assert self._buckets is not None, "wrap() comes before finish_gradients()"
        self._buckets.finish()

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


def _send(number: int, bucket: Tensor) -> Callable[[], object]:
    handle = hvd.allreduce_async_(bucket, op=hvd.Sum, name=f"gradients.{number}")
    return lambda: hvd.synchronize(handle)


def built_with_mpi() -> bool:
    """Whether this Horovod can run under mpirun."""
    return bool(hvd.mpi_built())


def built_with_nccl() -> bool:
    """Whether this Horovod adds up tensors on GPUs through NCCL."""
    return bool(hvd.nccl_built())
