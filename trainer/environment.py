"""What the process's environment says: who launched it, and the variables that a user may set.

The one file that reads os.environ. Launchers tell a worker its rank and the world size in variables of their own;
`detect_launch` reads them all the same way, so that nobody has to tell the trainer how it was started.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Launcher = Literal["horovodrun", "torchrun", "mpirun", "srun", "alone"]


@dataclass(frozen=True, slots=True)
class Launch:
    """How this process was started. rank and world_size count workers; local_* count those on this host.

    rendezvous is "host:port" where rank 0 listens; None where the launcher sees to it itself, or where nobody knows.
    is_elastic: the launcher goes on with as many workers as there are when some come or go.
    shares_store: torchrun's own store serves the workers too; nobody can join them later then.
    cores: how many the launcher gave to each worker; None where it says nothing of it, and workers share the host's.
    gpus: the same of GPUs, where a worker may see its own alone.
    """

    launcher: Launcher
    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_size: int = 1
    rendezvous: str | None = None
    is_elastic: bool = False
    shares_store: bool = False
    cores: int | None = None
    gpus: int | None = None

    @property
    def rejoins(self) -> bool:
        """Whether workers that stay join again then, in the process they run in; else all are started anew."""
        return self.is_elastic and self.launcher == "horovodrun"


class LaunchError(ValueError):
    """Variables of a launcher that do not fit together."""


# launcher: its variables for rank, world size, local rank and workers on this host
_VARIABLES: dict[Launcher, tuple[str, str, str, str]] = {
    "horovodrun": ("HOROVOD_RANK", "HOROVOD_SIZE", "HOROVOD_LOCAL_RANK", "HOROVOD_LOCAL_SIZE"),
    "torchrun": ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
    "mpirun": (
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_LOCAL_RANK",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
    ),
    "srun": ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE"),
}
_PORT = 29500  # torch's own default
_SLURM_CORES = "SLURM_CPUS_PER_TASK"
# Steps of Slurm whose number is above this are no launches: a batch script, an interactive shell.
_LAST_STEP = 0xFFFFFFEF


def detect_launch(environ: Mapping[str, str] | None = None) -> Launch:
    """Who launched this process, from the variables that each launcher sets.

    The innermost launcher wins: horovodrun and torchrun may run inside a Slurm job, whose variables stay visible. In a
    Slurm job's own shell (no step) nothing was launched yet. Raises LaunchError for variables that contradict another.
    """
    env = os.environ if environ is None else environ
    for launcher, (rank, world_size, local_rank, local_size) in _VARIABLES.items():
        if rank not in env or world_size not in env:
            continue
        if launcher == "srun" and not _is_slurm_step(env):
            continue
        launch = Launch(
            launcher,
            rank=_integer(env, rank),
            world_size=_integer(env, world_size),
            local_rank=_integer(env, local_rank),
            local_size=_slurm_tasks_here(env) if launcher == "srun" else _integer({local_size: "1", **env}, local_size),
            rendezvous=_rendezvous(launcher, env),
            is_elastic=_is_elastic(launcher, env),
            shares_store=env.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
            cores=max(0, _integer(env, _SLURM_CORES)) or None if launcher == "srun" else None,
            gpus=_slurm_gpus(env) if launcher == "srun" else None,
        )
        if launcher == "torchrun" and "MASTER_ADDR" not in env:
            raise LaunchError(
                f"{rank} and {world_size} are set and MASTER_ADDR is not: start the workers with torchrun, or set the "
                f"host of rank 0"
            )
        if not 0 <= launch.rank < launch.world_size:
            raise LaunchError(
                f"{rank}={launch.rank} with {world_size}={launch.world_size}: the rank must be below the world size; "
                f"start the workers through one launcher"
            )
        return launch
    return Launch("alone")


def mlflow_tracking_uri() -> str | None:
    """The MLflow server that the user set for every tool, if any."""
    return os.environ.get("MLFLOW_TRACKING_URI") or None


def trainer_config() -> str | None:
    """The preset or file that `trainer` runs when its command line names none, if set."""
    return os.environ.get("TRAINER_CONFIG") or None


def threads_are_set() -> bool:
    """Whether somebody (torchrun, a job script, the user) already chose torch's number of threads."""
    return "OMP_NUM_THREADS" in os.environ


def allocator_is_set() -> bool:
    """Whether somebody has told glibc's malloc how to treat freed memory."""
    names = [name for name in os.environ if name.startswith("MALLOC_")]
    return bool(names) or "glibc.malloc." in os.environ.get("GLIBC_TUNABLES", "")


def set_default(name: str, value: str) -> None:
    """Sets a variable that a library reads later, unless somebody has."""
    os.environ.setdefault(name, value)


def horovod_server() -> tuple[str, int] | None:
    """Host and port of the key-value server that horovodrun keeps for its workers, if it started this one."""
    host, port = os.environ.get("HOROVOD_GLOO_RENDEZVOUS_ADDR"), os.environ.get("HOROVOD_GLOO_RENDEZVOUS_PORT", "")
    return (host, int(port)) if host and port.isdigit() else None


def cache_folder() -> Path | None:
    """Where files that can be made again are kept for this user; None for a user without a home."""
    home = os.environ.get("HOME")
    base = os.environ.get("XDG_CACHE_HOME") or (home and Path(home) / ".cache")
    return Path(base) / "large-batch-trainer" if base else None


def _is_elastic(launcher: Launcher, env: Mapping[str, str]) -> bool:
    if launcher == "horovodrun":
        return env.get("HOROVOD_ELASTIC") == "1"
    return launcher == "torchrun" and _integer(env, "TORCHELASTIC_MAX_RESTARTS") > 0


def _rendezvous(launcher: Launcher, env: Mapping[str, str]) -> str | None:
    if launcher in ("horovodrun", "torchrun"):
        return None  # they bring their own
    host = env.get("MASTER_ADDR") or None
    if host is None and launcher == "srun":
        host = first_slurm_host(env.get("SLURM_STEP_NODELIST", ""))
    if host is None and launcher == "mpirun" and env.get("OMPI_COMM_WORLD_LOCAL_SIZE") == env["OMPI_COMM_WORLD_SIZE"]:
        host = "127.0.0.1"
    if host is None:
        return None
    if env.get("MASTER_PORT"):
        port = _integer(env, "MASTER_PORT")
        if not 0 < port < 2**16:
            raise LaunchError(f"MASTER_PORT={port} is no port: set one from 1 to 65535, or none")
        return f"{host}:{port}"
    return f"{host}:{_slurm_port(env) if launcher == 'srun' else _PORT}"


def first_slurm_host(node_list: str) -> str | None:
    """The first host of a Slurm list: "gpu[03-06,9],login1" gives "gpu03", "rack[1-2]n[3-4]" gives "rack1n3"."""
    # Every bracket gives way to the first number in it.
    return re.sub(r"\[([^,\]-]*)[^\]]*\]", r"\1", node_list).split(",")[0] or None


def _slurm_tasks_here(env: Mapping[str, str]) -> int:
    """This host's part of a list like "4(x3),2": four tasks on each of three hosts, two on the fourth."""
    node, counts = _integer(env, "SLURM_NODEID"), env.get("SLURM_STEP_TASKS_PER_NODE", "1")
    for tasks, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", counts):
        node -= int(times or 1)
        if node < 0:
            return int(tasks)
    raise LaunchError(
        f"SLURM_STEP_TASKS_PER_NODE={counts!r} says nothing of host SLURM_NODEID={env.get('SLURM_NODEID')}: start the "
        f"workers through one launcher"
    )


def _slurm_gpus(env: Mapping[str, str]) -> int | None:
    """What --gpus-per-task asked for: 1, or a100:1."""
    match = re.search(r"[0-9]+$", env.get("SLURM_GPUS_PER_TASK", ""))
    return int(match.group()) if match else None


def _slurm_port(env: Mapping[str, str]) -> int:
    """One port for each step: jobs that share a host would meet each other's workers on a common one."""
    # Below those that Linux deals out by itself, 32768 and on.
    return 15000 + (16 * _integer(env, "SLURM_JOB_ID") + _integer(env, "SLURM_STEP_ID")) % 16000


def _is_slurm_step(env: Mapping[str, str]) -> bool:
    step = env.get("SLURM_STEP_ID", "")
    return step.isdigit() and int(step) <= _LAST_STEP


def _integer(env: Mapping[str, str], name: str) -> int:
    text = env.get(name, "0")
    try:
        return int(text)
    except ValueError:
        raise LaunchError(f"{name}={text!r} is no whole number: start the workers through one launcher") from None
