"""Rules on a pod by itself: images, volumes, ports, patience, and how it ends."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from trainer.manifest.names import GPU, NAME_LABEL, TRAINER
from trainer.manifest.rules_command import launch, trainer_arguments
from trainer.manifest.rules_view import (
    RUNTIMES,
    Container,
    Manifest,
    Pod,
    Problem,
    Tree,
    at,
    number,
    quantity,
    selects,
    shown,
    text,
    trees,
)

PROBES = ("readinessProbe", "livenessProbe", "startupProbe")

_DIGEST = re.compile(r".+@sha256:[0-9a-f]{64}")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_PORT_NAME = re.compile(r"(?=.*[a-z])(?!.*--)[a-z0-9]([a-z0-9-]{0,13}[a-z0-9])?")
_LEAST_GRACE_S = 30
_LEAST_SHARED_MEMORY = 64 * 2**20 + 1  # bytes; a container has 64 MiB without asking
_LAUNCHERS = ("horovodrun", "mpirun", "torchrun")
_GPU_CAPABILITIES = ("compute", "utility", "video")


def images(manifest: Manifest) -> Iterator[Problem]:
    """An image is one image: by version or digest."""
    for pod in manifest.pods:
        if not pod.containers:
            yield Problem(f"{pod.spec_place}.containers", "holds no container: give one")
        for container in pod.all_containers:
            image = text(container.tree.get("image"))
            if not image:
                yield Problem(container.place, "has no image: name one")
            elif not _DIGEST.fullmatch(image):
                tag = image.rpartition("/")[2].partition(":")[2]
                if "@" in image or not _TAG.fullmatch(tag) or tag == "latest":
                    yield Problem(
                        f"{container.place}.image",
                        f"{image} may be another one tomorrow, or on another node: name a version, or a digest",
                    )


def mounts(manifest: Manifest) -> Iterator[Problem]:
    """Mounts have volumes, and volumes mounts."""
    for pod in manifest.pods:
        volumes = Counter(text(volume.get("name")) for volume in trees(pod.spec.get("volumes")))
        mounted = set()
        for container in pod.all_containers:
            paths = Counter(text(mount.get("mountPath")).rstrip("/") for mount in _mounts(container))
            for path in (path for path, times in paths.items() if times > 1):
                yield Problem(f"{container.place}.volumeMounts", f"{path} is mounted twice: leave one out")
            for mount in _mounts(container):
                name = text(mount.get("name"))
                mounted.add(name)
                if name not in volumes:
                    yield Problem(
                        f"{container.place}.volumeMounts[{name}]",
                        "the pod has no volume of this name: add it to volumes",
                    )
                if not text(mount.get("mountPath")).startswith("/"):
                    yield Problem(f"{container.place}.volumeMounts[{name}]", "mountPath is no whole path: begin with /")
        for name, times in volumes.items():
            if times > 1:
                yield Problem(f"{pod.spec_place}.volumes[{name}]", "stands there twice: leave one out")
            if name not in mounted:
                yield Problem(f"{pod.spec_place}.volumes[{name}]", "no container mounts it: mount it, or leave it out")


def shared_memory(manifest: Manifest) -> Iterator[Problem]:
    """NCCL's way between the GPUs of a node: /dev/shm, in memory, within the container's limit."""
    for pod in manifest.pods:
        for container in pod.containers:
            if not _trains(pod, container):
                continue
            mounted = [text(mount.get("name")) for mount in _mounts(container) if mount.get("mountPath") == "/dev/shm"]
            volumes = [volume for volume in trees(pod.spec.get("volumes")) if text(volume.get("name")) in mounted]
            if not mounted or not volumes:
                yield Problem(
                    container.place,
                    "has 64 MiB of /dev/shm, too little for workers that talk within a node: mount an emptyDir of "
                    "medium Memory there",
                )
                continue
            place = f"{pod.spec_place}.volumes[{mounted[0]}]"
            if at(volumes[0], "emptyDir", "medium") != "Memory":
                yield Problem(place, "is /dev/shm but no memory: make it an emptyDir with medium: Memory")
            size, limit = quantity(at(volumes[0], "emptyDir", "sizeLimit")), container.limit("memory")
            if size is None:
                yield Problem(place, "may grow until the node has no memory left: give its emptyDir a sizeLimit")
            elif size < _LEAST_SHARED_MEMORY:
                yield Problem(place, "is no larger than the 64 MiB that a container has without it: give it more")
            elif limit is not None and size >= limit:
                yield Problem(
                    place, "is as large as the container's memory, and counts as part of it: make sizeLimit smaller"
                )


def grace_periods(manifest: Manifest) -> Iterator[Problem]:
    """Time to end an update and to save."""
    for pod in manifest.pods:
        grace = pod.spec.get("terminationGracePeriodSeconds")
        grace_s = _LEAST_GRACE_S if grace is None else number(grace)  # Kubernetes' default
        if pod.is_trainers and grace_s is not None and grace_s < _LEAST_GRACE_S:
            yield Problem(
                f"{pod.spec_place}.terminationGracePeriodSeconds",
                f"{grace_s} s is too short to end an update and to save: give {_LEAST_GRACE_S} or more",
            )


def restart_policies(manifest: Manifest) -> Iterator[Problem]:
    """What begins again by itself, and what ends."""
    for pod in manifest.pods:
        policy, place = pod.spec.get("restartPolicy"), f"{pod.spec_place}.restartPolicy"
        if pod.owner.kind == "MPIJob":
            if policy is not None:
                yield Problem(place, f"{shown(policy)} goes unheard: say it at the role's restartPolicy")
        elif pod.owner.kind in ("Job", "CronJob"):
            if policy not in ("Never", "OnFailure"):
                yield Problem(place, f"is {shown(policy)}, and a Job ends: give Never or OnFailure")
        elif pod.owner.kind in ("TrainJob", *RUNTIMES):
            if policy not in (None, "Never", "OnFailure"):
                yield Problem(place, f"is {shown(policy)}, and a Job ends: give Never or OnFailure")
        elif policy not in (None, "Always") and pod.owner.kind != "Pod":
            yield Problem(place, f"is {shown(policy)}, and a {pod.owner.kind} has no end: leave it out")


def ports(manifest: Manifest) -> Iterator[Problem]:
    """Names of ports, and probes that ask where nobody listens."""
    for pod in manifest.pods:
        names = Counter(text(port.get("name")) for container in pod.containers for port in _ports(container))
        for name, times in names.items():
            if name and not _PORT_NAME.fullmatch(name):
                yield Problem(
                    pod.place, f"{name!r} is no name of a port: take at most 15 lower-case letters, digits and hyphens"
                )
            if name and times > 1:
                yield Problem(pod.place, f"two ports are named {name}: give each its own name")
        for container in pod.containers:
            for probe in PROBES:
                for action in ("tcpSocket", "httpGet"):
                    port = at(container.tree, probe, action, "port")
                    if port is not None and port_number(container, port) is None:
                        yield Problem(
                            f"{container.place}.{probe}",
                            f"asks at port {shown(port)}, which the container does not have: add it to ports",
                        )


def gpu_capabilities(manifest: Manifest) -> Iterator[Problem]:
    """Without the driver's part for video the GPU decodes no JPEG."""
    for pod in manifest.pods:
        for container in pod.containers:
            if container.limit(GPU) and pod.is_trainers:
                given = container.environment.get("NVIDIA_DRIVER_CAPABILITIES", "").split(",")
                missing = [word for word in _GPU_CAPABILITIES if word not in given and "all" not in given]
                if missing:
                    yield Problem(
                        f"{container.place}.env",
                        f"the driver's part {', '.join(missing)} would be missing (video decodes JPEG): set "
                        f"NVIDIA_DRIVER_CAPABILITIES to {','.join(_GPU_CAPABILITIES)}",
                    )


def labels(manifest: Manifest) -> Iterator[Problem]:
    """Labels by which network policies and spreading find the pods."""
    for pod in manifest.pods:
        trains = any(launch(container, *_LAUNCHERS) or trainer_arguments(container) for container in pod.containers)
        if (trains or pod.owner.kind == "MPIJob") and not pod.is_trainers:
            yield Problem(
                pod.place,
                f"no network policy knows these pods: label them {NAME_LABEL}: {TRAINER}",
            )
        for constraint in trees(pod.spec.get("topologySpreadConstraints")):
            if not selects(constraint.get("labelSelector"), pod.labels):
                yield Problem(
                    f"{pod.spec_place}.topologySpreadConstraints",
                    "the labelSelector does not find these pods themselves, so nothing is spread: repeat their labels",
                )


def restarts_resume(manifest: Manifest) -> Iterator[Problem]:
    """Pods are started again, and go on only if told so."""
    for pod in manifest.pods:
        for container in pod.containers:
            arguments = trainer_arguments(container)
            if arguments is not None and not any(word.partition("=")[0] == "--resume" for word in arguments):
                yield Problem(
                    container.place,
                    "a pod that is started again would begin a new run: call trainer with --resume auto",
                )


def port_number(container: Container, port: object) -> int | None:
    """The number of a container's port, named or given by number; None if the container declares no such port."""
    for declared in _ports(container):
        if port in (declared.get("name"), declared.get("containerPort")):
            return number(declared.get("containerPort"))
    return None


def _trains(pod: Pod, container: Container) -> bool:
    """Whether workers run in this container, started by ssh or by itself; a launcher of others is no worker."""
    if pod.owner.kind == "MPIJob":
        return container.is_first and pod.role == "Worker"
    return bool(container.limit(GPU)) or (
        trainer_arguments(container) is not None and launch(container, "horovodrun", "mpirun") is None
    )


def _mounts(container: Container) -> list[Tree]:
    return trees(container.tree.get("volumeMounts"))


def _ports(container: Container) -> list[Tree]:
    return trees(container.tree.get("ports"))
