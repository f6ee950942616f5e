"""What a manifest is made from: one value that all kinds of job are written from, so that no two numbers disagree."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from trainer.rule import Fleet

# Where things are in a pod, the same for every kind of job.
DATA, RUNS, SETTINGS, HOME = "/data", "/runs", "/etc/trainer", "/home/trainer"
CONFIG_FILE, CALIBRATION_FILE = "trainer.yaml", "calibration.json"
MLFLOW_URI = "http://mlflow:5000"
SHARED_MEMORY_GIB = 1  # of /dev/shm, a worker: NCCL's buffers between the GPUs of a node
LONGEST_NAME = 63  # of a host, in DNS

_SAVE_S = 60  # where nothing was measured
_LEAST_S = 60  # a shared disk has moments of its own
_MLFLOW_S = 5  # what a stopped run gives MLflow
LEAVE_S = 15  # until the launcher has told everybody, and until processes are gone
_DNS_NAME = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@-]*")
# Of what k8s/ puts beside the runs: a run's own Service, policy or Job by one of these names would take its place.
_TAKEN_NAMES = ("data-index", "data-loader", "default-deny", "dns", "mlflow", "mlflow-postgres", "mlflow-s3")


class ManifestError(ValueError):
    """A run that cannot be written as a manifest: what was given, what is wrong, what to do."""


@dataclass(frozen=True, slots=True)
class WorkerNeeds:
    """What one worker asks of its node. gpus: 1, or 0 for a run on CPUs."""

    gpus: int
    cpus: int
    memory_gib: int


@dataclass(frozen=True, slots=True)
class ClusterRun:
    """A run and where it runs. fleet: its workers by epoch; per_node: workers of a pod, and a pod of a node.

    texts: the files that lie in /etc/trainer, by name. grace_s: seconds between SIGTERM and SIGKILL. mlflow: as in
    tracking.mlflow, where "auto" is the server in the namespace.
    """

    name: str
    namespace: str
    image: str
    fleet: Fleet
    per_node: int
    needs: WorkerNeeds
    grace_s: int
    texts: dict[str, str]
    uses_images: bool
    mlflow: str

    def __post_init__(self) -> None:
        for option, name in (("--name", self.name), ("--namespace", self.namespace)):
            if not _DNS_NAME.fullmatch(name):
                raise ManifestError(
                    f"{option} {name!r}: Kubernetes takes no such name: give at most {LONGEST_NAME} lower-case "
                    f"letters, digits and hyphens, a letter first"
                )
        if self.name in _TAKEN_NAMES:
            raise ManifestError(f"--name {self.name!r}: is what something beside the runs is called: give another name")
        if not _IMAGE.fullmatch(self.image):
            raise ManifestError(f"--image {self.image!r}: is no image's name: give REGISTRY/NAME:VERSION")
        for step in self.fleet.steps:
            if step.workers % self.per_node:  # also where a node has more than all workers
                raise ManifestError(
                    f"{step.workers} workers are no whole number of nodes of {self.per_node}: give --workers that "
                    f"--per-node divides"
                )

    @property
    def workers(self) -> int:
        """At the start."""
        return self.fleet.steps[0].workers

    @property
    def nodes(self) -> int:
        """At the start."""
        return self.workers // self.per_node

    @property
    def shared_memory_gib(self) -> int:
        return SHARED_MEMORY_GIB * self.per_node

    def refuse_growth(self, kind: str) -> None:
        """Raises ManifestError where the fleet changes, and this kind of job has one size."""
        if len(self.fleet.steps) > 1:
            raise ManifestError(
                f"{self.fleet}: a {kind} keeps its size: take --kind mpijob-elastic, or give --workers one number"
            )

    def refuse_long_name(self, longest: str) -> None:
        """Raises ManifestError where a pod of the run would have a name that DNS does not take."""
        if len(longest) > LONGEST_NAME:
            raise ManifestError(
                f"{self.name!r}: its pod {longest!r} has {len(longest)} characters, and a host's name at most "
                f"{LONGEST_NAME}: give a shorter --name"
            )


def dns_name(name: str) -> str:
    """The name of a run as a Kubernetes name, as far as that goes: digits-0.1 becomes digits-0-1."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def grace_s(measured: tuple[float, float] | None, hang_timeout_s: float) -> int:
    """Seconds that a stopped run needs: two updates, a save, and to tell everybody.

    measured: seconds of the longest update, as predicted, and of an epoch's end with its checkpoint; they count twice,
    since a slow day is no hang. None: an update may take as long as anybody may stand still.
    """
    needed_s = hang_timeout_s + _SAVE_S if measured is None else 2 * (2 * measured[0] + measured[1])
    return max(_LEAST_S, 10 * math.ceil((needed_s + _MLFLOW_S + LEAVE_S) / 10))
