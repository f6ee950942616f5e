"""What the pods of a run have in common, whatever kind of job makes them: labels, volumes, security, resources."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainer.manifest.cluster_run import DATA, HOME, MLFLOW_URI, RUNS, SETTINGS, ClusterRun
from trainer.manifest.names import COMPONENT_LABEL, GPU, INSTANCE_LABEL, NAME_LABEL, PART_OF_LABEL, TRAINER

Tree = dict[str, Any]
_SCRATCH: tuple[Tree, Tree] = ({"mountPath": "/tmp"}, {"emptyDir": {}})


def labels(run: ClusterRun, component: str | None = None) -> dict[str, str]:
    """Kubernetes' recommended labels."""
    part = {} if component is None else {COMPONENT_LABEL: component}
    return {NAME_LABEL: TRAINER, INSTANCE_LABEL: run.name, PART_OF_LABEL: TRAINER, **part}


def selector(run: ClusterRun, component: str | None = None) -> dict[str, str]:
    """The labels that find the pods of this run, or those of one component."""
    return {INSTANCE_LABEL: run.name, **({} if component is None else {COMPONENT_LABEL: component})}


def metadata(run: ClusterRun, name: str | None = None) -> Tree:
    """Of an object that is the run's."""
    return {"name": name or run.name, "namespace": run.namespace, "labels": labels(run)}


def train_command() -> list[str]:
    """What every worker runs: begins the run, or goes on with it."""
    return ["train", f"{SETTINGS}/trainer.yaml", "--resume", "auto"]


def worker_template(run: ClusterRun, container: Mapping[str, Any], name: str = "trainer") -> Tree:
    """The template of pods that hold per_node workers each.

    container: its args, since the image's entry point is an init, and what else is its own.
    """
    needs, count = run.needs, run.per_node
    memory = f"{needs.memory_gib * count}Gi"
    gpus = {GPU: needs.gpus * count} if needs.gpus else {}
    # No limit on CPUs: decoding may use what the node has to spare, and a limit would throttle it in bursts.
    resources = {
        "requests": {"cpu": str(needs.cpus * count), "memory": memory, **gpus},
        "limits": {"memory": memory, **gpus},
    }
    spread = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "DoNotSchedule",  # --per-node says how many share a node
        # Or nodes that these pods may not use (the control plane's) would count as those with the fewest.
        "nodeTaintsPolicy": "Honor",
        "labelSelector": {"matchLabels": selector(run, "worker")},
    }
    spec = {
        **_pod(run, name, {**container, "resources": resources}, _worker_volumes(run)),
        "topologySpreadConstraints": [spread],
        "affinity": {"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [_near(run)]}},
    }
    if needs.gpus:
        spec["tolerations"] = [{"key": GPU, "operator": "Exists", "effect": "NoSchedule"}]
    return {"metadata": {"labels": labels(run, "worker")}, "spec": spec}


def launcher_template(run: ClusterRun, container: Mapping[str, Any]) -> Tree:
    """The template of a pod that trains nothing, but has an ssh connection to each worker.

    What a worker finds in its environment comes from here: ssh knows nothing of the variables of a worker's pod.
    """
    # horovodrun has two processes for a worker, 17 MiB together as measured, and the ssh client is a third.
    memory = f"{1024 + 32 * run.fleet.largest}Mi"
    resources = {"requests": {"cpu": "2", "memory": memory}, "limits": {"memory": memory}}
    spec = _pod(run, "launcher", {**container, "resources": resources}, {"scratch": _SCRATCH})
    return {"metadata": {"labels": labels(run, "launcher")}, "spec": spec}


def _pod(run: ClusterRun, name: str, container: Mapping[str, Any], volumes: Mapping[str, tuple[Tree, Tree]]) -> Tree:
    """A pod of one container. volumes: by name, how each is mounted and what it is."""
    return {
        "terminationGracePeriodSeconds": run.grace_s,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 1000,
            "runAsGroup": 1000,
            "fsGroup": 1000,
            "fsGroupChangePolicy": "OnRootMismatch",  # not a million files at every start
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            {
                "name": name,
                "image": run.image,
                **container,
                "env": _environment(run),
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
                "volumeMounts": [{"name": name, **mount} for name, (mount, _) in volumes.items()],
            }
        ],
        "volumes": [{"name": name, **source} for name, (_, source) in volumes.items()],
    }


def _environment(run: ClusterRun) -> list[Tree]:
    values = {"OMP_NUM_THREADS": str(run.needs.cpus)}
    if run.mlflow == "auto":
        values["MLFLOW_TRACKING_URI"] = MLFLOW_URI
    if run.needs.gpus:
        # video: the engine that decodes JPEG. NCCL's warnings are the only word it has for a broken network.
        values |= {"NVIDIA_DRIVER_CAPABILITIES": "compute,utility,video", "NCCL_DEBUG": "WARN"}
    return [{"name": name, "value": value} for name, value in values.items()]


def _worker_volumes(run: ClusterRun) -> dict[str, tuple[Tree, Tree]]:
    shared_memory = {"emptyDir": {"medium": "Memory", "sizeLimit": f"{run.shared_memory_gib}Gi"}}
    volumes: dict[str, tuple[Tree, Tree]] = {
        "runs": ({"mountPath": RUNS}, _claim("runs")),
        "settings": ({"mountPath": SETTINGS, "readOnly": True}, {"configMap": {"name": run.name}}),
        "shared-memory": ({"mountPath": "/dev/shm"}, shared_memory),
        "scratch": _SCRATCH,
        "cache": ({"mountPath": f"{HOME}/.cache"}, {"emptyDir": {}}),
    }
    if run.uses_images:
        volumes["images"] = ({"mountPath": DATA, "readOnly": True}, _claim("images", read_only=True))
    if run.mlflow != "off":
        # Optional: a server behind a login has its user and password here, in the file `credentials`.
        secret = {"secretName": "mlflow-credentials", "optional": True}
        volumes["mlflow-credentials"] = ({"mountPath": f"{HOME}/.mlflow", "readOnly": True}, {"secret": secret})
    return volumes


def _claim(name: str, read_only: bool = False) -> Tree:
    return {"persistentVolumeClaim": {"claimName": name, **({"readOnly": True} if read_only else {})}}


def _near(run: ClusterRun) -> Tree:
    term = {
        "topologyKey": "topology.kubernetes.io/zone",
        "labelSelector": {"matchLabels": selector(run, "worker")},
    }
    return {"weight": 100, "podAffinityTerm": term}
