"""Rules on an MPIJob: what the operator refuses or does silently, and what the launcher's command has to say.

The operator's own rules were read in its source (v2beta1: pkg/apis/kubeflow/validation, pkg/controller).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from trainer.manifest.names import DISCOVERY_SCRIPT, HOSTFILE, TRAINER
from trainer.manifest.rules_command import Command, launch, whole_number
from trainer.manifest.rules_pod import port_number
from trainer.manifest.rules_security import user_of
from trainer.manifest.rules_shape import is_dns_label
from trainer.manifest.rules_view import (
    Container,
    Document,
    Manifest,
    Pod,
    Problem,
    at,
    number,
    shown,
    text,
    tree,
    trees,
)

_ROLES = ("Launcher", "Worker")
_RESTARTS = ("Never", "OnFailure")
_OPERATORS_OBJECTS = (("ConfigMap", "-config"), ("Job", "-launcher"), ("Secret", "-ssh"), ("Service", ""))
_OPERATORS_VOLUMES = ("mpi-job-config", "ssh-auth")
_HOMES = {0: "/root", 1000: "/home/trainer"}  # of the images that the project makes


@dataclass(frozen=True, slots=True)
class MpiJob:
    """An MPIJob, read. Numbers are None where the manifest does not say them; command: the launcher's."""

    document: Document
    launchers: list[Pod]
    workers: list[Pod]
    replicas: int | None
    slots: int
    command: Command | None

    @property
    def hosts(self) -> int | None:
        """Pods that workers run in."""
        extra = at(self.document.tree, "spec", "runLauncherAsWorker") is True
        return None if self.replicas is None else self.replicas + extra

    @property
    def size(self) -> int | None:
        """Workers for which there are slots."""
        return None if self.hosts is None else self.hosts * self.slots

    @property
    def processes(self) -> int | None:
        """Workers that the launcher is told to start."""
        return None if self.command is None else self.command.integer("-np", "--num-proc", "-n", "--np")

    @property
    def most_processes(self) -> int | None:
        """Workers that the fleet may have."""
        if self.command is None or not self.is_elastic:
            return self.processes
        return self.command.integer("--max-np", "--max-num-proc")

    @property
    def is_elastic(self) -> bool:
        return self.command is not None and self.command.value("--host-discovery-script") is not None

    def place(self, *path: str) -> str:
        return f"{self.document.place} {'.'.join(('spec', *path))}"

    @property
    def launcher_place(self) -> str:
        return self.place("mpiReplicaSpecs", "Launcher")


def mpi_jobs(manifest: Manifest) -> Iterator[MpiJob]:
    for document in manifest.of_kind("MPIJob"):
        pods = manifest.pods_of(document)
        launchers = [pod for pod in pods if pod.role == "Launcher"]
        commands = [launch(container, "horovodrun", "mpirun") for pod in launchers for container in pod.containers[:1]]
        slots = number(at(document.tree, "spec", "slotsPerWorker"))
        yield MpiJob(
            document,
            launchers,
            [pod for pod in pods if pod.role == "Worker"],
            number(at(document.tree, "spec", "mpiReplicaSpecs", "Worker", "replicas")),
            1 if slots is None else slots,  # the operator's default
            commands[0] if commands else None,
        )


def roles(manifest: Manifest) -> Iterator[Problem]:
    """The operator's own validation, and the keys that it reads."""
    for job in mpi_jobs(manifest):
        replicas = tree(at(job.document.tree, "spec", "mpiReplicaSpecs"))
        place = job.place("mpiReplicaSpecs")
        for role in replicas:
            if role not in _ROLES:
                yield Problem(
                    f"{place}.{role}", "is no role, and the operator passes it over: write Launcher or Worker"
                )
        for role in _ROLES:
            if role not in replicas:
                yield Problem(place, f"has no {role}: add it")
        launchers = at(replicas, "Launcher", "replicas")
        if launchers not in (None, 1):
            yield Problem(f"{place}.Launcher.replicas", f"is {shown(launchers)}: there is exactly one, write 1")
        if "Worker" in replicas and (job.replicas is None or job.replicas < 1):
            yield Problem(f"{place}.Worker.replicas", f"is {job.replicas}: give 1 or more")
        for role in _ROLES:
            policy = at(replicas, role, "restartPolicy")
            if policy not in (None, *_RESTARTS):
                yield Problem(f"{place}.{role}.restartPolicy", f"is {shown(policy)}: write Never or OnFailure")
        if job.slots < 1:
            yield Problem(job.place("slotsPerWorker"), f"is {job.slots}: give the workers of a pod, 1 or more")
        last = f"{job.document.name}-worker-{max(1, job.replicas or 1) - 1}"
        if not is_dns_label(last):
            yield Problem(
                f"{job.document.place} metadata.name", f"its pod {last} has no name that DNS takes: give a shorter one"
            )


def operators_choices(manifest: Manifest) -> Iterator[Problem]:
    """What the operator takes without a word, to the harm of the run."""
    for job in mpi_jobs(manifest):
        spec = tree(job.document.tree.get("spec"))
        if at(spec, "runPolicy", "cleanPodPolicy") not in ("Running", "All"):
            yield Problem(
                job.place("runPolicy", "cleanPodPolicy"),
                "the workers' ssh servers would keep their GPUs after the run: write Running",
            )
        if spec.get("mpiImplementation") not in (None, "OpenMPI"):
            yield Problem(
                job.place("mpiImplementation"),
                f"the hostfile of {shown(spec['mpiImplementation'])} is none that horovodrun reads: write OpenMPI",
            )
        for kind, suffix in _OPERATORS_OBJECTS:
            name = job.document.name + suffix
            if manifest.find(kind, name, job.document.namespace) is not None:
                yield Problem(
                    f"{kind}/{name} metadata.name",
                    f"the operator makes a {kind} of this name for {job.document.place}, and stops if there is one: "
                    f"take another name",
                )
        creation = spec.get("launcherCreationPolicy")
        if creation not in (None, "AtStartup", "WaitForWorkersReady"):
            yield Problem(
                job.place("launcherCreationPolicy"),
                f"{shown(creation)} is unknown: write WaitForWorkersReady",
            )
        elif not job.is_elastic and creation != "WaitForWorkersReady":
            yield Problem(
                job.place("launcherCreationPolicy"),
                "the launcher would look for workers that are not there yet: write WaitForWorkersReady",
            )


def worker_counts(manifest: Manifest) -> Iterator[Problem]:
    """-np = pods x slots = GPUs."""
    for job in mpi_jobs(manifest):
        if job.launchers and job.command is None:
            yield Problem(job.launcher_place, "starts neither horovodrun nor mpirun in its first container: add one")
        for pod in job.workers:
            if pod.gpus and pod.gpus != job.slots:
                yield Problem(
                    pod.place,
                    f"a pod has {pod.gpus} GPUs and slotsPerWorker is {job.slots}: make them the same",
                )
        for pod in job.launchers:
            if pod.gpus and at(job.document.tree, "spec", "runLauncherAsWorker") is not True:
                yield Problem(
                    pod.place, "the operator hides GPUs from the launcher, which holds them for nobody: ask for none"
                )
        if job.command is None or job.size is None:
            continue
        processes = job.processes
        if processes is None:
            yield Problem(
                job.launcher_place, f"{job.command.program} is not told how many workers: give -np {job.size}"
            )
        elif processes != job.size:
            yield Problem(
                job.launcher_place,
                f"-np is {processes}, and {job.hosts} pods of {job.slots} slots hold {job.size}: make them the same",
            )


def hosts(manifest: Manifest) -> Iterator[Problem]:
    """A fleet of one size: horovodrun takes this machine alone if it is told of no others."""
    for job in mpi_jobs(manifest):
        if job.command is None or job.command.program != "horovodrun" or job.is_elastic:
            continue
        hostfile = job.command.value("--hostfile", "-hostfile")
        if hostfile is None and job.command.value("-H", "--hosts") is None:
            yield Problem(job.launcher_place, f"horovodrun is told of no hosts: give --hostfile {HOSTFILE}")
        elif hostfile not in (None, HOSTFILE):
            yield Problem(job.launcher_place, f"the operator writes the hosts to {HOSTFILE}, not {hostfile}: name that")
        if "--gloo" not in job.command.options:
            yield Problem(
                job.launcher_place,
                "where Horovod was built with MPI, as in the image, horovodrun calls mpirun, which ends workers "
                "unsaved: give --gloo",
            )


def elastic(manifest: Manifest) -> Iterator[Problem]:
    """What horovodrun needs where hosts come and go, and what the operator's script leaves out."""
    for job in mpi_jobs(manifest):
        if job.command is None or not job.is_elastic:
            continue
        place, command = job.launcher_place, job.command
        script = command.value("--host-discovery-script")
        if script != DISCOVERY_SCRIPT:
            yield Problem(place, f"the operator's script is {DISCOVERY_SCRIPT}, not {script}: name that")
        slots = command.integer("--slots-per-host")
        if slots != job.slots:
            yield Problem(
                place,
                f"the operator's script prints no slots, and --slots-per-host is {slots or 'missing'}: "
                f"give slotsPerWorker, {job.slots}",
            )
        low, high = (whole_number(word) for word in command.values(2, "--blacklist-cooldown-range"))
        if low is None or high is None or not 0 < low <= high:
            yield Problem(
                place, "a host that lost a worker would be out for ever: give --blacklist-cooldown-range 10 600"
            )
        if at(job.document.tree, "spec", "mpiReplicaSpecs", "Worker", "restartPolicy") != "OnFailure":
            yield Problem(
                job.place("mpiReplicaSpecs", "Worker", "restartPolicy"),
                "a worker's pod that failed once would never come back: write OnFailure",
            )
        least, most, processes = command.integer("--min-np", "--min-num-proc"), job.most_processes, job.processes
        if least is None or most is None:
            yield Problem(place, "horovodrun does not know how far the fleet may change: give --min-np and --max-np")
        elif processes is not None and not least <= processes <= most:
            yield Problem(place, f"-np {processes} is not between --min-np {least} and --max-np {most}: correct them")
        if most is not None and job.slots > 0 and most % job.slots:
            yield Problem(place, f"--max-np {most} is no whole number of pods of {job.slots} slots: correct it")
        if not command.resumes:
            yield Problem(place, "workers that come or stay go on from a checkpoint: call trainer with --resume auto")


def ssh(manifest: Manifest) -> Iterator[Problem]:
    """The launcher's way to the workers: keys where the user has them, a port that is ready."""
    for job in mpi_jobs(manifest):
        given = text(at(job.document.tree, "spec", "sshAuthMountPath")) or "/root/.ssh"  # the operator's default
        path = PurePosixPath(given)
        for pod in [*job.launchers, *job.workers]:
            for volume in trees(pod.spec.get("volumes")):
                if volume.get("name") in _OPERATORS_VOLUMES:
                    yield Problem(
                        f"{pod.spec_place}.volumes[{volume['name']}]", "the operator adds it: take another name"
                    )
            for container in pod.containers[:1]:
                home = _home(pod, container)
                if home is not None and given.rstrip("/") != f"{home}/.ssh":
                    yield Problem(
                        job.place("sshAuthMountPath"),
                        f"is {given}, and user {user_of(pod, container)} has its keys in {home}/.ssh: write that",
                    )
                for mount in trees(container.tree.get("volumeMounts")):
                    if PurePosixPath(text(mount.get("mountPath"))).is_relative_to(path):
                        yield Problem(
                            f"{container.place}.volumeMounts[{mount.get('name')}]",
                            f"hides the keys that the operator mounts at {path}: mount it elsewhere",
                        )
        for pod in job.workers:
            for container in pod.containers[:1]:
                yield from _ssh_port(job, container)


def _ssh_port(job: MpiJob, container: Container) -> Iterator[Problem]:
    probe = at(container.tree, "readinessProbe", "tcpSocket", "port")
    if probe is None:
        yield Problem(
            container.place,
            "counts as ready before its ssh server is: give a readinessProbe with tcpSocket at its port",
        )
        return
    called = job.command.value("-p", "--ssh-port") if job.command and job.command.program == "horovodrun" else None
    listens = port_number(container, probe)
    if called is not None and listens is not None and called != str(listens):
        yield Problem(
            job.launcher_place, f"calls port {called}, and the workers are ready at {listens}: make them the same"
        )


def _home(pod: Pod, container: Container) -> str | None:
    """Where the user of a container lives, as far as the manifest lets us know: only our images have user 1000."""
    user = user_of(pod, container)
    is_ours = TRAINER in text(container.tree.get("image")).rpartition("/")[2]
    return _HOMES.get(user) if user is not None and (is_ours or user == 0) else None
