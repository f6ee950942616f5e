"""The ways to add up gradients that benchmarks/gradients.py compares, and two networks whose gradients they are."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from trainer.collective.buckets import BUCKET_BYTES, GradientBuckets
from trainer.collective.collective import Collective
from trainer.collective.local import LocalCollective

# Calls the network in training, and makes its gradients complete after a backward.
Opened = tuple[nn.Module, Callable[[], object]]
Way = Callable[[nn.Module, Collective], contextlib.AbstractContextManager[Opened]]

ALONE, PROJECT = "no gradients travel", "as the project sends them"
MIB = 2**20


class Shapes(nn.Module):
    """A network's parameters, with a forward and a backward that cost next to nothing."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.all = nn.ParameterList(nn.Parameter(p.detach().clone()) for p in network.parameters())

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten()[0] + torch.stack([parameter.sum() for parameter in self.all]).sum()


def ways_of(library: str) -> Mapping[str, Way]:
    """Every way by its name; all leave the sum (DDP: the mean) over workers in the gradients."""
    return {ALONE: _alone, **(_horovod_ways() if library == "horovod" else _ddp_ways())}


@contextlib.contextmanager
def _alone(network: nn.Module, _: Collective) -> Iterator[Opened]:
    yield LocalCollective().wrap(network), lambda: None


def _through(wire: torch.dtype | None = None) -> Way:
    @contextlib.contextmanager
    def opened(network: nn.Module, collective: Collective) -> Iterator[Opened]:
        module = collective.wrap(network, wire)
        collective.micro_step(True)
        # On leaving an update the next one is expected.
        yield module, lambda: (collective.finish_gradients(), collective.micro_step(True))

    return opened


def _horovod_ways() -> dict[str, Way]:
    import horovod.torch as hvd

    def buckets(bucket_bytes: int) -> Way:
        @contextlib.contextmanager
        def opened(network: nn.Module, _: Collective) -> Iterator[Opened]:
            def send(number: int, bucket: Tensor) -> Callable[[], object]:
                handle = hvd.allreduce_async_(bucket, op=hvd.Sum, name=f"bucket.{number}")
                return lambda: hvd.synchronize(handle)

            sent = GradientBuckets(network, send, None, bucket_bytes)
            sent.expect(True)
            yield network, lambda: (sent.finish(), sent.expect(True))
            sent.release()

        return opened

    def together(send: Callable[[list[Tensor]], object]) -> Way:
        @contextlib.contextmanager
        def opened(network: nn.Module, _: Collective) -> Iterator[Opened]:
            yield network, lambda: send([p.grad for p in network.parameters() if p.grad is not None])

        return opened

    def one_by_one(gradients: list[Tensor]) -> None:
        handles = [hvd.allreduce_async_(g, op=hvd.Sum, name=f"each.{n}") for n, g in enumerate(gradients)]
        for handle in handles:
            hvd.synchronize(handle)

    @contextlib.contextmanager
    def distributed_optimizer(network: nn.Module, _: Collective) -> Iterator[Opened]:
        plain = torch.optim.SGD(network.parameters(), lr=0.0)
        optimizer = hvd.DistributedOptimizer(plain, network.named_parameters(), op=hvd.Sum)

        def finish() -> None:
            optimizer.synchronize()
            with optimizer.skip_synchronize():
                optimizer.step()  # at lr 0, since it allows no second backward before

        yield network, finish

    return {
        f"{PROJECT} (buckets of {BUCKET_BYTES // MIB} MiB)": _through(),
        "buckets of 4 MiB": buckets(4 * MIB),
        "buckets of 64 MiB": buckets(64 * MIB),
        "one bucket": buckets(2**40),
        "one group after the backward": together(
            lambda gradients: hvd.grouped_allreduce_(gradients, op=hvd.Sum, name="group")
        ),
        "one by one after the backward": together(one_by_one),
        "DistributedOptimizer": distributed_optimizer,
        f"{PROJECT}, wire float16": _through(torch.float16),
    }


def _ddp_ways() -> dict[str, Way]:
    def ddp(**options: object) -> Way:
        @contextlib.contextmanager
        def opened(network: nn.Module, _: Collective) -> Iterator[Opened]:
            device = next(network.parameters()).device
            ids = [device] if device.type == "cuda" else None
            view = {"gradient_as_bucket_view": True, "broadcast_buffers": False}
            yield DistributedDataParallel(network, device_ids=ids, **{**view, **options}), lambda: None

        return opened

    return {
        f"{PROJECT} (buckets of 25 MiB)": _through(),
        "buckets of 4 MiB": ddp(bucket_cap_mb=4),
        "buckets of 64 MiB": ddp(bucket_cap_mb=64),
        "one bucket": ddp(bucket_cap_mb=2**20),
        "gradients beside their buckets": ddp(gradient_as_bucket_view=False),
        "static_graph": ddp(static_graph=True),
        f"{PROJECT}, wire float16": _through(torch.float16),
    }


@contextlib.contextmanager
def opened(way: Way, template: nn.Module, collective: Collective) -> Iterator[Opened]:
    """The way on a copy of the network; all it holds is gone afterwards."""
    with way(copy.deepcopy(template), collective) as way_opened:
        yield way_opened
