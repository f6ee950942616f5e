"""Rules on runs under torchrun: a plain Indexed Job, and Kubeflow's TrainJob with its runtime."""

from __future__ import annotations

from collections.abc import Iterator

from trainer.manifest.names import ANCESTOR_LABEL, OWN_STORE
from trainer.manifest.rules_command import Command, launch, whole_number
from trainer.manifest.rules_links import pods_of_service, service_ports
from trainer.manifest.rules_pod import port_number
from trainer.manifest.rules_shape import is_dns_label
from trainer.manifest.rules_view import (
    RUNTIMES,
    Container,
    Document,
    Manifest,
    Pod,
    Problem,
    at,
    number,
    runtime_pods,
    shown,
    text,
    tree,
    trees,
)

_OPERATORS_VARIABLES = ("PET_MASTER_ADDR", "PET_MASTER_PORT", "PET_NNODES", "PET_NODE_RANK", "PET_NPROC_PER_NODE")
_DEFAULT_RENDEZVOUS_PORT = 29400


def launched(manifest: Manifest, kind: str) -> Iterator[tuple[Document, Pod, Container, Command]]:
    """Each container of this kind of job that starts torchrun."""
    for document in manifest.of_kind(kind):
        for pod in manifest.pods_of(document):
            for container in pod.containers:
                command = launch(container, "torchrun")
                if command is not None:
                    yield document, pod, container, command


def nodes_of(command: Command) -> tuple[int, int] | None:
    """--nnodes as the least and the most: 4 or 1:4."""
    least, _, most = (command.value("--nnodes") or "1").partition(":")
    numbers = whole_number(least), whole_number(most or least)
    return None if numbers[0] is None or numbers[1] is None else (numbers[0], numbers[1])


def indexed_jobs(manifest: Manifest) -> Iterator[Problem]:
    """completions = parallelism = --nnodes, and --nproc-per-node = GPUs."""
    for job, pod, container, command in launched(manifest, "Job"):
        spec = tree(job.tree.get("spec"))
        nodes = nodes_of(command)
        if nodes is None or not 1 <= nodes[0] <= nodes[1]:
            yield Problem(container.place, f"--nnodes {command.value('--nnodes')} is no number of pods: give 4, or 1:4")
            continue
        for key in ("completions", "parallelism"):
            if (spec.get(key) or 1) != nodes[1]:
                yield Problem(
                    f"{job.place} spec.{key}",
                    f"is {shown(spec.get(key))}, and torchrun waits for {nodes[1]} pods: make them the same",
                )
        if nodes[1] > 1 and spec.get("completionMode") != "Indexed":
            yield Problem(f"{job.place} spec.completionMode", "pods have no name to be found by: write Indexed")
        processes = command.value("--nproc-per-node") or "1"
        if pod.gpus and processes not in (str(pod.gpus), "auto", "gpu"):
            yield Problem(
                container.place,
                f"--nproc-per-node is {processes}, and a pod has {pod.gpus} GPUs: one GPU a worker, make them the same",
            )
        yield from _host_name(job, f"{job.name}-{nodes[1] - 1}")


def rendezvous(manifest: Manifest) -> Iterator[Problem]:
    """torchrun's nodes meet at the first pod, by a name that a headless Service gives it."""
    for job, pod, container, command in launched(manifest, "Job"):
        if nodes_of(command) == (1, 1):
            continue
        host, _, port_text = (command.value("--rdzv-endpoint") or "").partition(":")
        if not host:
            yield Problem(container.place, "torchrun's nodes cannot find each other: give --rdzv-endpoint HOST:PORT")
            continue
        subdomain = text(pod.spec.get("subdomain"))
        if host.split(".")[:2] != [f"{job.name}-0", subdomain]:
            yield Problem(
                container.place,
                f"--rdzv-endpoint names {host}, and the first pod is {job.name}-0.{subdomain or '(no subdomain)'}: "
                f"make them the same",
            )
        port = whole_number(port_text) if port_text else _DEFAULT_RENDEZVOUS_PORT
        if port is None:
            yield Problem(container.place, f"--rdzv-endpoint has the port {port_text}: give a number")
        elif port_number(container, port) is None:
            yield Problem(container.place, f"meets the others at port {port}, which it does not have: add it to ports")
        yield from _headless_service(manifest, job, pod, subdomain, port)


def restarts(manifest: Manifest) -> Iterator[Problem]:
    """Workers that start again need a store of their own."""
    for kind in ("Job", "TrainJob"):
        for _, _, container, command in launched(manifest, kind):
            nodes = nodes_of(command)
            changes = (command.integer("--max-restarts") or 0) > 0 or (nodes is not None and nodes[0] != nodes[1])
            if changes and container.environment.get(OWN_STORE) != "1":
                yield Problem(
                    container.place, f"workers that start again would meet those before them: set {OWN_STORE} to 1"
                )


def train_jobs(manifest: Manifest) -> Iterator[Problem]:
    """numNodes and numProcPerNode, the GPUs of a node, and a runtime that is there."""
    for job in manifest.of_kind("TrainJob"):
        spec = tree(job.tree.get("spec"))
        kind = text(at(spec, "runtimeRef", "kind")) or "ClusterTrainingRuntime"
        name = text(at(spec, "runtimeRef", "name"))
        runtime = manifest.runtime_of(job)
        if kind not in RUNTIMES:
            yield Problem(
                f"{job.place} spec.runtimeRef.kind", f"{kind} is no runtime: write one of {', '.join(RUNTIMES)}"
            )
        elif not manifest.exists(kind, name, job.namespace):
            yield Problem(
                f"{job.place} spec.runtimeRef", f"there is no {kind} {name or '(no name)'}: add it, or correct the name"
            )
        nodes = number(at(spec, "trainer", "numNodes"))
        processes = number(at(spec, "trainer", "numProcPerNode"))
        for key, value in (("numNodes", nodes), ("numProcPerNode", processes)):
            if value is None or value < 1:
                yield Problem(f"{job.place} spec.trainer.{key}", f"is {value}: give a number, 1 or more")
        if runtime is not None:
            of_runtime = number(at(runtime.tree, "spec", "mlPolicy", "numNodes"))
            if nodes is not None and of_runtime not in (None, nodes):
                yield Problem(
                    f"{runtime.place} spec.mlPolicy.numNodes",
                    f"is {of_runtime}, and {job.place} has {nodes}: make them the same",
                )
        for variable in trees(at(spec, "trainer", "env")):
            if variable.get("name") in _OPERATORS_VARIABLES:
                yield Problem(
                    f"{job.place} spec.trainer.env", f"{variable['name']} is the operator's to set: leave it out"
                )
        for pod in manifest.pods_of(job):
            if pod.gpus and processes is not None and pod.gpus != processes:
                yield Problem(
                    f"{job.place} spec.trainer.numProcPerNode",
                    f"is {processes}, and a pod has {pod.gpus} GPUs: one GPU a worker, make them the same",
                )
        yield from _host_name(job, f"{job.name}-node-0-{max(1, nodes or 1) - 1}", "-abcde")
    for job, _, container, command in launched(manifest, "TrainJob"):
        for option, key in (("--nnodes", "numNodes"), ("--nproc-per-node", "numProcPerNode")):
            wanted = number(at(job.tree, "spec", "trainer", key))
            if command.value(option) not in (None, str(wanted)):
                yield Problem(
                    container.place, f"{option} is {command.value(option)}, and {job.place} has {wanted}: leave it out"
                )


def runtimes(manifest: Manifest) -> Iterator[Problem]:
    """The names by which Kubeflow Trainer finds what to run."""
    for runtime in manifest.of_kind(*RUNTIMES):
        policy = tree(at(runtime.tree, "spec", "mlPolicy"))
        if "torch" not in policy:
            yield Problem(f"{runtime.place} spec.mlPolicy", "nobody tells torchrun of its nodes: add torch: {}")
        place = f"{runtime.place} spec.template.spec.replicatedJobs"
        jobs = [
            job
            for job in trees(at(runtime.tree, "spec", "template", "spec", "replicatedJobs"))
            if job.get("name") == "node"
        ]
        if not jobs:
            yield Problem(place, "has no job named node, the one that trains: add it")
        for job in jobs:
            if at(job, "template", "metadata", "labels", ANCESTOR_LABEL) != "trainer":
                yield Problem(
                    f"{place}[node]", f"the operator looks for the job by a label: add {ANCESTOR_LABEL}: trainer"
                )
            if job.get("replicas") not in (None, 1):
                yield Problem(f"{place}[node].replicas", "the operator makes the nodes pods of one job: write 1")
        for pod in runtime_pods(runtime, runtime, {}):
            if pod.role == "node" and not any(container.tree.get("name") == "node" for container in pod.containers):
                yield Problem(f"{pod.spec_place}.containers", "none is named node, the one that trains: rename it")


def _host_name(job: Document, last: str, ending: str = "") -> Iterator[Problem]:
    """last: the pod with the longest name; ending: what JobSet counts as part of it, the ending that each pod gets."""
    if job.name != "?" and not is_dns_label(last + ending):
        yield Problem(f"{job.place} metadata.name", f"its pod {last} has no name that DNS takes: give a shorter one")


def _headless_service(
    manifest: Manifest, job: Document, pod: Pod, subdomain: str, port: int | None
) -> Iterator[Problem]:
    service = manifest.find("Service", subdomain, job.namespace)
    if service is None:
        if not manifest.exists("Service", subdomain, job.namespace):
            yield Problem(
                f"{pod.spec_place}.subdomain",
                f"there is no Service {subdomain or '(no name)'}, so pods have no names: add it",
            )
        return
    spec = tree(service.tree.get("spec"))
    if spec.get("clusterIP") != "None":
        yield Problem(f"{service.place} spec.clusterIP", 'gives one address for all pods, and no names: write "None"')
    if spec.get("publishNotReadyAddresses") is not True:
        yield Problem(
            f"{service.place} spec.publishNotReadyAddresses",
            "the first pod is looked for before it is ready: write true",
        )
    if pod not in pods_of_service(manifest, service):
        yield Problem(f"{service.place} spec.selector", f"does not find the pods of {job.place}: repeat their labels")
    if port is not None and port not in service_ports(service):
        yield Problem(f"{service.place} spec.ports", f"has no port {port}, where torchrun's nodes meet: add it")
