"""Rules on the run's settings: the file is mounted where it is read, and says what the job says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from trainer.config import ConfigError, TrainConfig, parse_config
from trainer.manifest.rules_command import Command
from trainer.manifest.rules_mpi_job import mpi_jobs
from trainer.manifest.rules_torchrun import launched, nodes_of
from trainer.manifest.rules_view import Container, Manifest, Pod, Problem, Tree, at, number, text, tree, trees


@dataclass(frozen=True, slots=True)
class Start:
    """Where training begins: the workers' container, and what the trainer is told.

    least, most: workers of the fleet, None where the manifest does not say. library: the launcher's.
    """

    pod: Pod
    container: Container
    arguments: tuple[str, ...]
    least: int | None
    most: int | None
    library: str


def settings(manifest: Manifest) -> Iterator[Problem]:
    """The run's file is there, can be read by this version, and agrees with the job."""
    for start in _starts(manifest):
        source = next((word for word in start.arguments if word.endswith((".yaml", ".yml"))), None)
        if source is None:  # a preset
            continue
        mount = _mount_of(start.container, source)
        volume = _volume(start.pod, mount)
        if mount is None:
            yield Problem(start.container.place, f"nothing is mounted where {source} should lie: mount its ConfigMap")
            continue
        if "configMap" not in volume:
            continue
        name = text(at(volume, "configMap", "name"))
        found = manifest.find("ConfigMap", name, start.pod.owner.namespace)
        if found is None:  # told elsewhere, if it is nowhere
            continue
        key = str(PurePosixPath(source).relative_to(text(mount.get("mountPath"))))
        content = at(found.tree, "data", key)
        if not isinstance(content, str):
            yield Problem(f"{found.place} data", f"has no {key}, which the trainer is told to read: add it")
            continue
        overrides = [word for word in start.arguments if "=" in word and not word.startswith("-")]
        try:
            config = parse_config(content, key, overrides)
        except ConfigError as error:
            yield Problem(f"{found.place} data", f"{error}")
            continue
        yield from _disagreements(config, start, f"{found.place} data[{key}]")


def _disagreements(config: TrainConfig, start: Start, place: str) -> Iterator[Problem]:
    if config.collective not in ("auto", start.library):
        yield Problem(place, f"collective is {config.collective}, and the launcher is {start.library}'s: write auto")
    if config.fleet is not None and start.least is not None and start.most is not None:
        first, largest = config.fleet[0].workers, max(step.workers for step in config.fleet)
        if first != start.least or largest != start.most:
            planned = f"{first} workers" if first == largest else f"{first} workers at first and {largest} at most"
            held = f"{start.least}" if start.least == start.most else f"{start.least} at first and {start.most} at most"
            yield Problem(place, f"fleet plans {planned}, and {start.pod.owner.place} has {held}: make them the same")
    output = _mount_of(start.container, config.output)
    if output is None or "persistentVolumeClaim" not in _volume(start.pod, output):
        yield Problem(place, f"output is {config.output}, which goes with the pod: take a folder on a mounted claim")
    elif output.get("readOnly") is True:
        yield Problem(place, f"output is {config.output}, which is mounted readOnly: mount it to be written")
    images = config.data.path
    if images is not None and config.data.format != "digits" and _mount_of(start.container, images) is None:
        yield Problem(place, f"data.path is {images}, and nothing is mounted there: mount the claim of the images")


def _starts(manifest: Manifest) -> Iterator[Start]:
    for job in mpi_jobs(manifest):
        if job.command is None:
            continue
        for pod in job.workers:
            for container in pod.containers[:1]:
                yield Start(pod, container, job.command.trainer, job.processes, job.most_processes, "horovod")
    for _, pod, container, command in launched(manifest, "Job"):
        count = _workers(command)
        yield Start(pod, container, command.trainer, count, count, "ddp")
    for document, pod, container, command in launched(manifest, "TrainJob"):
        trainer = tree(at(document.tree, "spec", "trainer"))
        nodes, processes = number(trainer.get("numNodes")), number(trainer.get("numProcPerNode"))
        count = None if nodes is None or processes is None else nodes * processes
        yield Start(pod, container, command.trainer, count, count, "ddp")


def _workers(command: Command) -> int | None:
    nodes, processes = nodes_of(command), command.integer("--nproc-per-node")
    return None if nodes is None or processes is None else nodes[1] * processes


def _mount_of(container: Container, path: str) -> Tree | None:
    """The mount that a path lies on: the innermost."""
    place = PurePosixPath(path)
    around = [
        mount
        for mount in trees(container.tree.get("volumeMounts"))
        if text(mount.get("mountPath")) and place.is_relative_to(text(mount.get("mountPath")))
    ]
    return max(around, key=lambda mount: len(text(mount.get("mountPath"))), default=None)


def _volume(pod: Pod, mount: Tree | None) -> Tree:
    volumes = trees(pod.spec.get("volumes"))
    return next((volume for volume in volumes if mount and volume.get("name") == mount.get("name")), {})
