"""How tests start real workers, shared by the tiers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import pytest

Launcher = Literal["alone", "torchrun", "horovodrun"]

REPOSITORY = Path(__file__).resolve().parents[1]
_BIN = Path(sys.executable).parent
_LAUNCHER_VARIABLES = (
    "RANK", "WORLD_SIZE", "LOCAL_", "MASTER_", "HOROVOD_", "OMPI_", "SLURM_", "MLFLOW_", "TRAINER_",
)  # fmt: skip

needs_horovod = pytest.mark.skipif(find_spec("horovod") is None, reason="Horovod is not installed on this machine")
DISTRIBUTED_LAUNCHERS = ["torchrun", pytest.param("horovodrun", marks=needs_horovod)]


def run_workers(
    launcher: Launcher,
    workers: int,
    arguments: Sequence[str],
    *,
    cwd: Path = REPOSITORY,
    env: Mapping[str, str] | None = None,
    timeout_s: float = 180,
) -> subprocess.CompletedProcess[str]:
    """Runs `python ARGUMENTS` on that many workers; returns the finished launcher with its output."""
    return subprocess.run(
        launch_command(launcher, workers, arguments),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        cwd=cwd,
        env=worker_environment() | dict(env or {}),
        check=False,
    )


def run_trainer(
    *arguments: str, launcher: Launcher = "alone", workers: int = 1, **options
) -> subprocess.CompletedProcess[str]:
    """Runs `trainer ARGUMENTS`."""
    return run_workers(launcher, workers, ["-m", "trainer", *arguments], **options)


def heed_signals() -> None:
    """For Popen's preexec_fn: signals as a terminal leaves them. A test run in the background ignores some of them, and
    what is ignored stays so in a new process."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def worker_environment() -> dict[str, str]:
    """This process's environment, with the tree importable, one thread a worker and no trace of another launcher."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(_LAUNCHER_VARIABLES)}
    path = f"{_BIN}{os.pathsep}{os.environ.get('PATH', '')}"
    return kept | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "PATH": path}


def launch_command(launcher: Launcher, workers: int, arguments: Sequence[str]) -> list[str]:
    """What starts `python ARGUMENTS` on that many workers."""
    return [*launch_prefix(launcher, workers), *arguments]


def launch_prefix(launcher: Launcher, workers: int) -> list[str]:
    """What starts Python so many times."""
    match launcher:
        case "alone":
            return [sys.executable]
        case "torchrun":
            return [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={workers}"]
        case "horovodrun":
            return [str(_BIN / "horovodrun"), "-np", str(workers), sys.executable]
