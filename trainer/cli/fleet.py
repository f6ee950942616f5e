"""Joining the fleet: which library connects the workers, on which device, and how they fail together."""

from __future__ import annotations

import os
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

import torch

from trainer.cli.freed_memory import keep_freed_memory
from trainer.collective.collective import Collective
from trainer.environment import Launch, threads_are_set

if TYPE_CHECKING:
    from trainer.collective.hvd import HorovodCollective

CollectiveName = Literal["local", "ddp", "horovod"]


class FleetError(ValueError):
    """A launcher, a library or a device that does not fit; the message says what to start instead."""


def choose_collective(setting: str, launch: Launch) -> CollectiveName:
    """The library for this launch; `setting` is the configuration's `collective`. Raises FleetError."""
    if setting == "local" and launch.world_size > 1:
        raise FleetError(
            f"collective local cannot join the {launch.world_size} workers that {launch.launcher} started: "
            f"set collective=auto"
        )
    if setting == "horovod" and launch.launcher in ("torchrun", "srun"):
        raise FleetError(
            f"collective horovod cannot be started by {launch.launcher}: use horovodrun -np {launch.world_size} "
            f"trainer, or set collective=auto"
        )
    if setting == "ddp" and launch.launcher == "horovodrun":
        raise FleetError(
            f"collective ddp cannot be started by horovodrun: use torchrun --nproc-per-node {launch.local_size} "
            f"-m trainer, or set collective=auto"
        )
    if setting == "horovod" or launch.launcher == "horovodrun":
        if find_spec("horovod") is None:
            raise FleetError(
                "Horovod is not installed: build it (`make setup` does), or use torchrun --nproc-per-node N -m trainer"
            )
        if launch.launcher == "mpirun" and not _horovod_runs_under_mpi():
            raise FleetError(
                "this Horovod was built without MPI, and mpirun cannot start it: use horovodrun, or set collective=auto"
            )
        return "horovod"
    if setting == "auto" and launch.launcher == "alone":
        return "local"
    if setting == "auto" and launch.launcher == "mpirun" and _horovod_runs_under_mpi():
        return "horovod"
    return "local" if setting == "local" else "ddp"


def _horovod_runs_under_mpi() -> bool:
    if find_spec("horovod") is None:
        return False
    from trainer.collective.hvd import built_with_mpi

    return built_with_mpi()


def open_collective(name: CollectiveName, launch: Launch) -> Collective:
    """Joins the fleet; returns when every worker has. Raises FleetError where the launcher says too little."""
    if name == "horovod":
        from trainer.collective.hvd import HorovodCollective

        collective = HorovodCollective(is_elastic=launch.rejoins)
        is_another = (collective.rank, collective.world_size) != (launch.rank, launch.world_size)
        if is_another and not launch.rejoins:
            raise FleetError(
                f"Horovod calls this worker {collective.rank} of {collective.world_size}, and {launch.launcher} "
                f"{launch.rank} of {launch.world_size}: start the workers with horovodrun"
            )
        return collective
    if name == "ddp":
        from trainer.collective.ddp import DdpCollective

        rendezvous = "127.0.0.1:0" if launch.launcher == "alone" else launch.rendezvous
        if rendezvous is None and launch.launcher != "torchrun":
            raise FleetError(
                f"{launch.launcher} started {launch.world_size} workers on several hosts: set MASTER_ADDR to the host "
                f"of rank 0 (and MASTER_PORT if 29500 is taken)"
            )
        return DdpCollective(launch.rank, launch.world_size, launch.local_rank, rendezvous)
    from trainer.collective.local import LocalCollective

    return LocalCollective()


def launch_now(launch: Launch, collective: Collective) -> Launch:
    """The launch as it is in this fleet: an elastic horovodrun deals out ranks anew."""
    if not launch.rejoins:
        return launch
    joined = _of_horovod(collective)
    return replace(
        launch,
        rank=joined.rank,
        world_size=joined.world_size,
        local_rank=joined.local_rank,
        local_size=joined.local_size,
    )


def join_again(collective: Collective) -> None:
    """Leaves the fleet and joins the one that there is then; returns when all of it have."""
    _of_horovod(collective).join_again()


def _of_horovod(collective: Collective) -> HorovodCollective:
    from trainer.collective.hvd import HorovodCollective

    assert isinstance(collective, HorovodCollective), "only the workers of an elastic horovodrun join again"
    return collective


def choose_device(setting: str, launch: Launch) -> torch.device:
    """This worker's device, made ready: its own GPU by its rank on the host, or the CPU. Raises FleetError."""
    if setting == "cpu" or (setting == "auto" and not torch.cuda.is_available()):
        keep_freed_memory()
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise FleetError("device cuda: this machine has no CUDA device that torch can use: set device=cpu")
    count = torch.cuda.device_count()
    sees_its_own = launch.gpus == count  # Slurm shows a task no others with --gpus-per-task
    if launch.local_rank >= count and not sees_its_own:
        raise FleetError(
            f"worker {launch.local_rank} of this host finds only {count} GPU(s): start at most {count} workers a host"
        )
    device = torch.device("cuda", 0 if sees_its_own else launch.local_rank)
    torch.cuda.set_device(device)
    return device


def cores_per_worker(launch: Launch) -> int:
    """Cores that this worker may use: those that the launcher gave to it, or its even share of the host's."""
    cores = len(os.sched_getaffinity(0))
    return min(cores, launch.cores) if launch.cores is not None else max(1, cores // launch.local_size)


def share_threads(launch: Launch) -> None:
    """Gives torch this worker's share of the cores, unless somebody has chosen a number."""
    if not threads_are_set():
        torch.set_num_threads(cores_per_worker(launch))
