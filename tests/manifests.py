"""Manifests for tests: those that `trainer manifest` writes, a small server with its database, and changes to them."""

from __future__ import annotations

import contextlib
import copy
import functools
import io
import re
from collections.abc import Callable
from typing import Any

from trainer.cli.main import main
from trainer.manifest.rules import SHARED_PARTS
from trainer.yaml_text import parse_documents

Change = Callable[[list[Any]], None]

DROP = object()
"""Put in the place of a value: the key goes."""

KNOWN = SHARED_PARTS

LAUNCHER_POD = "MPIJob spec mpiReplicaSpecs Launcher template spec"
LAUNCHER = f"{LAUNCHER_POD} containers launcher"
WORKER_POD = "MPIJob spec mpiReplicaSpecs Worker template spec"
WORKER = f"{WORKER_POD} containers trainer"
JOB_POD = "Job spec template spec"
JOB = f"{JOB_POD} containers trainer"
NODE_JOB = "TrainingRuntime spec template spec replicatedJobs node"
NODE_POD = f"{NODE_JOB} template spec template spec"
NODE = f"{NODE_POD} containers node"
SERVER_POD = "Deployment spec template spec"
SERVER = f"{SERVER_POD} containers server"

_SERVER = """
apiVersion: v1
kind: Namespace
metadata: {name: training}
---
apiVersion: v1
kind: Secret
metadata: {name: store, namespace: training}
stringData: {password: p}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: files, namespace: training}
spec:
  accessModes: [ReadWriteOnce]
  resources: {requests: {storage: 1Gi}}
---
apiVersion: v1
kind: Service
metadata: {name: server, namespace: training}
spec:
  selector: {app.kubernetes.io/name: server}
  ports: [{name: http, port: 80, targetPort: http}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: server, namespace: training}
spec:
  selector: {matchLabels: {app.kubernetes.io/name: server}}
  template:
    metadata: {labels: {app.kubernetes.io/name: server}}
    spec:
      securityContext: {runAsNonRoot: true, runAsUser: 1000, seccompProfile: {type: RuntimeDefault}}
      containers:
        - name: server
          image: registry.example.com:5000/server:1.2
          env:
            - {name: PASSWORD, valueFrom: {secretKeyRef: {name: store, key: password}}}
            - {name: MLFLOW_TRACKING_URI, value: "http://server.training.svc"}
          ports: [{name: http, containerPort: 8080}]
          readinessProbe: {httpGet: {path: /, port: http}}
          resources:
            requests: {cpu: 100m, memory: 64Mi}
            limits: {memory: 128Mi}
          securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
          volumeMounts: [{name: files, mountPath: /files}]
      volumes:
        - name: files
          persistentVolumeClaim: {claimName: files}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: server, namespace: training}
spec:
  podSelector: {matchLabels: {app.kubernetes.io/name: server}}
  policyTypes: [Ingress, Egress]
  ingress:
    - from: [{namespaceSelector: {}}]
      ports: [{port: http}]
  egress:
    - to: [{podSelector: {matchLabels: {app.kubernetes.io/name: server}}}]
      ports: [{port: 8080}]
"""


@functools.cache
def _written(kind: str) -> str:
    if kind == "server":
        return _SERVER
    command = ["manifest", "imagenet-rn50-8192", "--workers", "16", "--per-node", "8", "--name", "imagenet"]
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as errors:
        code = main([*command, "--kind", kind])
    assert code == 0, errors.getvalue()
    return out.getvalue()


@functools.cache
def _parsed(kind: str) -> list[Any]:
    return parse_documents(_written(kind))


def manifest(kind: str, *changes: Change) -> list[Any]:
    """The documents of a run of 16 workers on 2 nodes of 8 GPUs (or of a server), after these changes."""
    documents = copy.deepcopy(_parsed(kind))
    for change in changes:
        change(documents)
    return documents


def put(path: str, value: object) -> Change:
    """Sets one value. path: a kind, then keys, and of lists the names of their items, or their places."""

    def change(documents: list[Any]) -> None:
        *parents, last = path.split()
        node = _at(documents, parents)
        key = _place(node, last) if isinstance(node, list) else last
        if value is DROP:
            del node[key]
        else:
            node[key] = value

    return change


def add(path: str, value: object) -> Change:
    """Appends to a list, which is made if it is not there; or to the documents, where path is empty."""

    def change(documents: list[Any]) -> None:
        *parents, last = path.split() or [""]
        target = _at(documents, parents).setdefault(last, []) if parents else documents
        target.append(value)

    return change


def option(container: str, name: str, *values: str | None) -> Change:
    """Sets the values of an option in a container's args; None for one that goes, with its value."""

    def change(documents: list[Any]) -> None:
        words = _at(documents, container.split())["args"]
        place = words.index(name)
        if values == (None,):
            del words[place : place + 2]
        else:
            words[place + 1 : place + 1 + len(values)] = values

    return change


def variable(container: str, name: str, value: object) -> Change:
    """Sets an environment variable that the container has."""
    return put(f"{container} env {name} value", value)


def edit(kind: str, pattern: str, text: str) -> Change:
    """Replaces what the pattern finds in the run's trainer.yaml."""

    def change(documents: list[Any]) -> None:
        data = _at(documents, [kind, "data"])
        data["trainer.yaml"], count = re.subn(pattern, text, data["trainer.yaml"], flags=re.MULTILINE)
        assert count == 1, f"{pattern} is in trainer.yaml {count} times"

    return change


def renamed_role(old: str, new: str) -> Change:
    """Gives a role of the MPIJob another name."""

    def change(documents: list[Any]) -> None:
        roles = _at(documents, ["MPIJob", "spec", "mpiReplicaSpecs"])
        roles[new] = roles.pop(old)

    return change


def again(kind: str) -> Change:
    """Puts a document there twice."""
    return lambda documents: documents.append(copy.deepcopy(_at(documents, [kind])))


def without(kind: str) -> Change:
    """Takes a document away."""
    return lambda documents: documents.remove(_at(documents, [kind]))


def _at(documents: list[Any], path: list[str]) -> Any:
    kind, *keys = path
    node = next(document for document in documents if document["kind"] == kind)
    for key in keys:
        node = node[_place(node, key) if isinstance(node, list) else key]
    return node


def _place(items: list[Any], key: str) -> int:
    if key.isdigit():
        return int(key)
    return next(place for place, item in enumerate(items) if item["name"] == key)
