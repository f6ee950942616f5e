"""Rules on the form of a document: types of what the other rules read, kinds and names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from trainer.manifest.rules_view import RUNTIMES, Manifest, Problem, in_python, text

# A form: str, int, bool; "quantity" and "port" are numbers or texts; [form] a list of such; a mapping has sections, "*"
# stands for any key. Schemas know far more; these are the places where a wrong type would read as "not there".
_LABELS = {"*": str}
_RESOURCES = {"limits": {"*": "quantity"}, "requests": {"*": "quantity"}}
_PROBE = {"tcpSocket": {"port": "port"}, "httpGet": {"port": "port"}, "exec": {"command": [str]}}
_SECURITY = {"runAsNonRoot": bool, "runAsUser": int, "allowPrivilegeEscalation": bool, "capabilities": {"drop": [str]},
             "seccompProfile": {"type": str}}  # fmt: skip
_CONTAINER = {
    "name": str,
    "image": str,
    "command": [str],
    "args": [str],
    "env": [{"name": str, "value": str, "valueFrom": {}}],
    "ports": [{"name": str, "containerPort": int}],
    "volumeMounts": [{"name": str, "mountPath": str, "readOnly": bool}],
    "resources": _RESOURCES,
    "securityContext": _SECURITY,
    "readinessProbe": _PROBE,
    "livenessProbe": _PROBE,
    "startupProbe": _PROBE,
}
_TEMPLATE = {
    "metadata": {"labels": _LABELS},
    "spec": {
        "containers": [_CONTAINER],
        "initContainers": [_CONTAINER],
        "volumes": [{"name": str, "emptyDir": {"medium": str, "sizeLimit": "quantity"}}],
        "securityContext": _SECURITY,
        "terminationGracePeriodSeconds": int,
        "restartPolicy": str,
        "subdomain": str,
        "topologySpreadConstraints": [{"labelSelector": {"matchLabels": _LABELS}}],
    },
}
_JOB = {
    "completions": int,
    "parallelism": int,
    "completionMode": str,
    "backoffLimit": int,
    "selector": {"matchLabels": _LABELS},
    "template": _TEMPLATE,
}
_SPECS: dict[str, object] = {
    "Pod": _TEMPLATE["spec"],
    "Job": _JOB,
    "CronJob": {"jobTemplate": {"spec": _JOB}},
    **dict.fromkeys(("DaemonSet", "Deployment", "ReplicaSet", "StatefulSet"), _JOB),
    "MPIJob": {
        "slotsPerWorker": int,
        "sshAuthMountPath": str,
        "launcherCreationPolicy": str,
        "mpiImplementation": str,
        "runLauncherAsWorker": bool,
        "runPolicy": {"cleanPodPolicy": str, "backoffLimit": int},
        "mpiReplicaSpecs": {"*": {"replicas": int, "restartPolicy": str, "template": _TEMPLATE}},
    },
    "TrainJob": {
        "runtimeRef": {"name": str, "kind": str},
        "trainer": {
            "numNodes": int,
            "numProcPerNode": int,
            "resourcesPerNode": _RESOURCES,
            "command": [str],
            "args": [str],
            "env": [{"name": str, "value": str, "valueFrom": {}}],
        },
    },
    **{
        kind: {"template": {"spec": {"replicatedJobs": [{"name": str, "template": {"spec": _JOB}}]}}}
        for kind in RUNTIMES
    },
    "Service": {"selector": _LABELS, "ports": [{"name": str, "port": int, "targetPort": "port"}]},
    "NetworkPolicy": {
        "podSelector": {"matchLabels": _LABELS},
        "ingress": [{"from": [{"podSelector": {}}], "ports": [{"port": "port"}]}],
        "egress": [{"to": [{"podSelector": {}}], "ports": [{"port": "port"}]}],
    },
    "PersistentVolumeClaim": {"accessModes": [str], "resources": _RESOURCES},
}
_WORDS = {str: "text", int: "a whole number", bool: "true or false", "quantity": "a number such as 4 or 16Gi",
          "port": "a port's number or name"}  # fmt: skip
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
_OLDER_LABEL = re.compile(r"[a-z]([a-z0-9-]*[a-z0-9])?")  # RFC 1035: a letter first
_NAMES_A_HOST = {"Namespace": _LABEL, "Service": _OLDER_LABEL, "MPIJob": _OLDER_LABEL, "TrainJob": _OLDER_LABEL}


def is_dns_label(name: str) -> bool:
    return len(name) <= 63 and _LABEL.fullmatch(name) is not None


def wrong_types(manifest: Manifest) -> Iterator[Problem]:
    """Where a value has another type than what the other rules read there."""
    for document in manifest.documents:
        form = {"metadata": {"name": str, "namespace": str, "labels": _LABELS}, "spec": _SPECS.get(document.kind, {})}
        if document.kind in ("ConfigMap", "Secret"):
            form = {"metadata": form["metadata"], "data": _LABELS, "stringData": _LABELS}
        for place, message in _misfits(document.tree, form, ""):
            yield Problem(f"{document.place} {place}".rstrip(), message)


def kinds_and_names(manifest: Manifest) -> Iterator[Problem]:
    """What every object needs, and names that become names of hosts."""
    for document in manifest.documents:
        if not text(document.tree.get("apiVersion")) or document.kind == "?":
            yield Problem(document.place, "has no apiVersion or no kind: give both")
        if document.name == "?":
            yield Problem(document.place, "has no metadata.name: give one")
        elif document.kind in _NAMES_A_HOST:
            if not _NAMES_A_HOST[document.kind].fullmatch(document.name) or len(document.name) > 63:
                yield Problem(
                    f"{document.place} metadata.name",
                    "is part of hosts' names: take at most 63 lower-case letters, digits and hyphens, a letter first",
                )
        elif len(document.name) > 253 or not all(map(is_dns_label, document.name.split("."))):
            yield Problem(
                f"{document.place} metadata.name", "is no DNS name: take lower-case letters, digits, hyphens and dots"
            )


def duplicates(manifest: Manifest) -> Iterator[Problem]:
    """One object, written twice."""
    seen = set()
    for document in manifest.documents:
        key = document.kind, document.namespace, document.name
        if key in seen:
            yield Problem(document.place, "stands here twice, and the later one would win: leave one out")
        seen.add(key)


def _misfits(value: object, form: object, place: str) -> Iterator[tuple[str, str]]:
    """Where the value has another form, and what is needed there. null is as good as missing, as for the API."""
    if value is None:
        return
    if isinstance(form, Mapping):
        if not isinstance(value, Mapping):
            yield place, f"is {in_python(value)}: a section of `key: value` lines is needed"
            return
        for key, inner in value.items():
            if key in form or "*" in form:
                yield from _misfits(inner, form.get(key, form.get("*")), f"{place}.{key}".lstrip("."))
    elif isinstance(form, list):
        if not isinstance(value, (list, tuple)):
            yield place, f"is {in_python(value)}: a list is needed"
            return
        for number, inner in enumerate(value):
            yield from _misfits(inner, form[0], f"{place}[{number}]")
    elif not _fits(value, form):
        yield place, f"is {in_python(value)}: {_WORDS[form]} is needed"


def _fits(value: object, form: object) -> bool:
    if form == "quantity":
        return isinstance(value, (str, int, float)) and not isinstance(value, bool)
    if form == "port":
        return isinstance(value, (str, int)) and not isinstance(value, bool)
    if form is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, form)  # type: ignore[arg-type]
