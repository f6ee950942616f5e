"""Manifests as the rules see them. What has the wrong type reads as empty and raises nothing: rules_shape tells."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from trainer.config.explain import in_one_line
from trainer.manifest.names import GPU, NAME_LABEL, TRAINER

Tree = Mapping[str, object]

RUNTIMES = ("ClusterTrainingRuntime", "TrainingRuntime")

_TEMPLATES = {
    "Pod": (),
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
    **dict.fromkeys(("DaemonSet", "Deployment", "Job", "ReplicaSet", "StatefulSet"), ("spec", "template")),
}
_CLUSTER_WIDE = ("ClusterRole", "ClusterRoleBinding", "ClusterTrainingRuntime", "CustomResourceDefinition", "Namespace",
                 "PersistentVolume", "PriorityClass", "StorageClass")  # fmt: skip
_QUANTITY = re.compile(r"([0-9]{1,18}(?:\.[0-9]{0,9})?)([a-zA-Z]{0,2})")
_UNITS = {"": 1.0, "m": 1e-3} | {
    prefix + suffix: float(base**power)
    for base, suffix in ((1000, ""), (1024, "i"))
    for power, prefix in enumerate("kMGTPE" if base == 1000 else "KMGTPE", start=1)
}


@dataclass(frozen=True, slots=True)
class Problem:
    """place: where it stands, "MPIJob/imagenet spec.slotsPerWorker"; message: what is wrong there, and what to do."""

    place: str
    message: str

    def __str__(self) -> str:
        return in_one_line(f"{self.place}: {self.message}")


@dataclass(frozen=True, slots=True)
class Document:
    """One object of the cluster. kind and name are "?" where it has none."""

    tree: Tree
    kind: str
    name: str
    namespace: str

    @property
    def place(self) -> str:
        return f"{self.kind}/{self.name}"

    @property
    def is_cluster_wide(self) -> bool:
        return self.kind in _CLUSTER_WIDE


@dataclass(frozen=True, slots=True)
class Container:
    """place: as in a Problem. is_first: of the pod's main containers, which is the one that operators change."""

    tree: Tree
    place: str
    is_first: bool

    @property
    def environment(self) -> dict[str, str]:
        """The variables whose values stand in the manifest."""
        given = [item for item in trees(self.tree.get("env")) if isinstance(item.get("value"), str)]
        return {text(item.get("name")): text(item.get("value")) for item in given}

    def limit(self, resource: str) -> float | None:
        """Of a resource: in bytes, cores or pieces; None if it has none."""
        return quantity(at(self.tree, "resources", "limits", resource))


@dataclass(frozen=True, slots=True)
class Pod:
    """Pods of one template. owner: the document that makes them; role: of an MPIJob or of a runtime's job, else ""."""

    owner: Document
    role: str
    place: str
    labels: Tree
    spec: Tree

    @property
    def spec_place(self) -> str:
        return f"{self.place} spec" if self.owner.kind == "Pod" else f"{self.place}.spec"

    @property
    def containers(self) -> list[Container]:
        """Without those that only prepare."""
        return self._containers("containers")

    @property
    def all_containers(self) -> list[Container]:
        return self._containers("initContainers") + self.containers

    @property
    def gpus(self) -> int:
        """What a pod asks for."""
        return int(sum(container.limit(GPU) or 0 for container in self.containers))

    @property
    def is_trainers(self) -> bool:
        return self.labels.get(NAME_LABEL) == TRAINER

    def _containers(self, key: str) -> list[Container]:
        return [
            Container(
                container,
                f"{self.spec_place}.{key}[{text(container.get('name')) or index}]",
                is_first=key == "containers" and index == 0,
            )
            for index, container in enumerate(trees(self.spec.get(key)))
        ]


@dataclass(frozen=True)
class Manifest:
    """Everything that is applied together. known: what is in the cluster besides, "Secret/mlflow-postgres"."""

    documents: tuple[Document, ...]
    known: frozenset[str]

    @cached_property
    def pods(self) -> tuple[Pod, ...]:
        """Those of a runtime as the TrainJob that takes it runs them."""
        return tuple(pod for document in self.documents for pod in self._pods(document))

    def of_kind(self, *kinds: str) -> list[Document]:
        return [document for document in self.documents if document.kind in kinds]

    def pods_of(self, document: Document) -> list[Pod]:
        return [pod for pod in self.pods if pod.owner is document]

    def find(self, kind: str, name: str, namespace: str) -> Document | None:
        for document in self.documents:
            here = document.is_cluster_wide or document.namespace == namespace
            if document.kind == kind and document.name == name and here:
                return document
        return None

    def exists(self, kind: str, name: str, namespace: str) -> bool:
        """Here or, as far as is known, in the cluster."""
        return f"{kind}/{name}" in self.known or self.find(kind, name, namespace) is not None

    def runtime_of(self, train_job: Document) -> Document | None:
        """The runtime of a TrainJob, if it is one of the documents."""
        reference = tree(at(train_job.tree, "spec", "runtimeRef"))
        kind = text(reference.get("kind")) or "ClusterTrainingRuntime"  # the API's default
        return self.find(kind, text(reference.get("name")), train_job.namespace)

    def _pods(self, document: Document) -> Iterator[Pod]:
        if document.kind == "MPIJob":
            for role, replica in tree(at(document.tree, "spec", "mpiReplicaSpecs")).items():
                template = tree(tree(replica).get("template"))
                yield _pod(document, str(role), f"spec.mpiReplicaSpecs.{role}.template", template)
        elif document.kind in RUNTIMES:
            users = [job for job in self.of_kind("TrainJob") if self.runtime_of(job) is document]
            if not users:
                yield from runtime_pods(document, document, {})
            for job in users:
                yield from runtime_pods(document, job, tree(at(job.tree, "spec", "trainer")))
        elif document.kind in _TEMPLATES:
            path = _TEMPLATES[document.kind]
            template = tree(at(document.tree, *path))
            if document.kind == "StatefulSet":
                template = {
                    **template,
                    "spec": _with_claims(template, at(document.tree, "spec", "volumeClaimTemplates")),
                }
            yield _pod(document, "", ".".join(path), template)


def runtime_pods(runtime: Document, owner: Document, trainer: Tree) -> Iterator[Pod]:
    """The pods of a runtime; `trainer` is what a TrainJob says of the container `node` of the job `node`."""
    for job in trees(at(runtime.tree, "spec", "template", "spec", "replicatedJobs")):
        name = text(job.get("name"))
        place = f"spec.template.spec.replicatedJobs[{name}].template.spec.template"
        template = tree(at(job, "template", "spec", "template"))
        spec = dict(tree(template.get("spec")))
        if name == "node" and trainer:
            spec["containers"] = [_overridden(container, trainer) for container in trees(spec.get("containers"))]
        pod = _pod(runtime, name, place, {"metadata": template.get("metadata"), "spec": spec})
        yield Pod(owner, pod.role, pod.place, pod.labels, pod.spec)


def _overridden(container: Tree, trainer: Tree) -> Tree:
    if container.get("name") != "node":
        return container
    given = {key: trainer[key] for key in ("image", "command", "args") if key in trainer}
    if "resourcesPerNode" in trainer:
        given["resources"] = trainer["resourcesPerNode"]
    changed = {text(item.get("name")) for item in trees(trainer.get("env"))}
    kept = [item for item in trees(container.get("env")) if text(item.get("name")) not in changed]
    return {**container, **given, "env": [*kept, *trees(trainer.get("env"))]}


def _with_claims(template: Tree, claims: object) -> Tree:
    """A pod's spec with the volumes that a StatefulSet makes for each of its pods."""
    spec = tree(template.get("spec"))
    made = [{"name": at(claim, "metadata", "name"), "ephemeral": {}} for claim in trees(claims)]
    return {**spec, "volumes": [*trees(spec.get("volumes")), *made]}


def _pod(owner: Document, role: str, path: str, template: Tree) -> Pod:
    place = f"{owner.place} {path}" if path else owner.place
    return Pod(owner, role, place, tree(at(template, "metadata", "labels")), tree(template.get("spec")))


def read_manifest(documents: Sequence[object], known: frozenset[str]) -> Manifest:
    """Whatever was given, as a Manifest; what is no mapping is left out."""
    return Manifest(
        tuple(
            Document(
                document,
                text(document.get("kind")) or "?",
                text(at(document, "metadata", "name")) or "?",
                text(at(document, "metadata", "namespace")),
            )
            for document in trees(documents)
        ),
        known,
    )


def at(value: object, *keys: str) -> object:
    """What lies at the end of the keys; None where they lead nowhere."""
    for key in keys:
        value = tree(value).get(key)
    return value


def tree(value: object) -> Tree:
    return value if isinstance(value, Mapping) else {}


def items(value: object) -> Sequence[object]:
    return value if isinstance(value, (list, tuple)) else ()


def trees(value: object) -> list[Tree]:
    return [item for item in items(value) if isinstance(item, Mapping)]


def text(value: object) -> str:
    return value if isinstance(value, str) else ""


def number(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def shown(value: object) -> str:
    """A value in a message: texts as they are, others as in Python; short, whatever it holds."""
    return value if isinstance(value, str) and 0 < len(value) <= 40 else in_python(value)


def in_python(value: object) -> str:
    """The value as Python writes it, cut short: an alias of aliases can stand for any number of values."""
    short = reprlib.Repr()
    short.maxlevel, short.maxlist, short.maxdict = 2, 3, 2
    return short.repr(value)


def quantity(value: object) -> float | None:
    """Of a resource, "16Gi" or 8, as a number; None if it is none."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value) if abs(value) < 1e30 else None
    match = _QUANTITY.fullmatch(text(value))
    return float(match[1]) * _UNITS[match[2]] if match and match[2] in _UNITS else None


def selects(selector: object, labels: Tree) -> bool:
    """Whether a selector of labels takes a pod with these; an empty one takes all."""
    for expression in trees(at(selector, "matchExpressions")):
        key, operator, values = text(expression.get("key")), expression.get("operator"), items(expression.get("values"))
        held = {
            "In": labels.get(key) in values,
            "NotIn": labels.get(key) not in values,
            "Exists": key in labels,
            "DoesNotExist": key not in labels,
        }
        if not held.get(text(operator), False):
            return False
    return all(labels.get(key) == value for key, value in tree(at(selector, "matchLabels")).items())
