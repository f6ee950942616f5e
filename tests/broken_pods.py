"""Manifests with a form, a pod or a reference that breaks a rule, and words of the problem that tells of it."""

from __future__ import annotations

from tests.manifests import (
    DROP,
    JOB,
    JOB_POD,
    LAUNCHER_POD,
    NODE_POD,
    SERVER,
    SERVER_POD,
    WORKER,
    WORKER_POD,
    Change,
    add,
    again,
    option,
    put,
    variable,
)

ROLES = "MPIJob spec mpiReplicaSpecs"
JOB_SECURITY, SERVER_SECURITY = f"{JOB} securityContext", f"{SERVER} securityContext"
SERVICE_FOR_OTHERS = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "mlflow", "namespace": "training"},
    "spec": {"selector": {"app.kubernetes.io/instance": "imagenet"}, "ports": [{"port": 29400}]},
}
ONE_NODE_CLAIM = {
    "apiVersion": "v1",
    "kind": "PersistentVolumeClaim",
    "metadata": {"name": "runs", "namespace": "training"},
    "spec": {"accessModes": ["ReadWriteOnce"]},
}


BROKEN_PODS: dict[str, list[tuple[str, Change, str]]] = {
    "wrong_types": [
        ("mpijob", put(f"{ROLES} Worker replicas", "2"), "Worker.replicas: is '2': a whole number is needed"),
        ("mpijob", put("MPIJob spec", []), "MPIJob/imagenet spec: is []: a section of `key: value`"),
        ("job", put(f"{JOB_POD} containers", {}), "containers: is {}: a list is needed"),
        ("server", put("Secret stringData password", 5), "stringData.password: is 5: text is needed"),
        ("server", put(f"{SERVER_SECURITY} allowPrivilegeEscalation", "no"), "is 'no': true or false"),
        ("server", put(f"{SERVER} resources limits memory", True), "is True: a number such as 4 or 16Gi"),
        ("server", put("Service spec ports http targetPort", [1]), "is [1]: a port's number or name"),
    ],
    "kinds_and_names": [
        ("job", put("Job apiVersion", DROP), "Job/imagenet: has no apiVersion or no kind: give both"),
        ("job", put("Job metadata name", DROP), "Job/?: has no metadata.name: give one"),
        ("job", put("Service metadata name", "2-imagenet"), "Service/2-imagenet metadata.name: is part"),
        ("job", put("Job metadata name", "Image_Net"), "Job/Image_Net metadata.name: is no DNS name"),
    ],
    "duplicates": [
        ("job", again("ConfigMap"), "ConfigMap/imagenet: stands here twice"),
    ],
    "namespaces": [
        ("job", put("ConfigMap metadata namespace", "other"), "ConfigMap/imagenet metadata.namespace: is other"),
        ("server", put("Namespace metadata name", "other"), "Namespace/other: nothing is put there"),
    ],
    "references": [
        ("job", put(f"{JOB_POD} volumes settings configMap name", "x"), "volumes[settings]: there is no Confi"),
        ("job", put(f"{JOB_POD} volumes runs persistentVolumeClaim claimName", "x"), "no PersistentVolumeClaim x"),
        ("job", put(f"{JOB_POD} serviceAccountName", "x"), "there is no ServiceAccount x"),
        ("job", put(f"{JOB_POD} imagePullSecrets", [{"name": "x"}]), "imagePullSecrets: there is no Secret x"),
        ("job", put(f"{JOB} envFrom", [{"secretRef": {"name": "x"}}]), "envFrom: there is no Secret x"),
        ("server", put("Secret metadata name", "x"), "env[PASSWORD]: there is no Secret store: add it"),
        ("server", put("Secret stringData", {}), "env[PASSWORD]: Secret store has no password: add it"),
    ],
    "shared_claims": [
        ("job", add("", ONE_NODE_CLAIM), "pods of Job/imagenet on several nodes mount it: ask for ReadWrite"),
    ],
    "workload_selectors": [
        ("server", put("Deployment spec selector matchLabels", {"a": "b"}), "does not find its own pods"),
    ],
    "services": [
        ("server", put("Service spec selector", {"a": "b"}), "Service/server spec.selector: finds no pod here"),
        ("server", put("Service spec ports http targetPort", 8081), "its pods have no port 8081: add it"),
    ],
    "network_policies": [
        ("server", put("NetworkPolicy spec ingress 0 ports 0 port", "web"), "spec.ingress: none of the po"),
        ("server", put("NetworkPolicy spec egress 0 ports 0 port", 1), "spec.egress: none of the pods it"),
    ],
    "tracking_servers": [
        ("job", variable(JOB, "MLFLOW_TRACKING_URI", "mlflow:5000"), "'mlflow:5000' is no address of a"),
        ("job", variable(JOB, "MLFLOW_TRACKING_URI", "http://x:5000"), "there is no Service x: add it"),
        ("job", add("", SERVICE_FOR_OTHERS), "Service mlflow has no port 5000: take one of [29400]"),
    ],
    "images": [
        ("server", put(f"{SERVER_POD} containers", []), "spec.containers: holds no container: give one"),
        ("server", put(f"{SERVER} image", DROP), "containers[server]: has no image: name one"),
        ("server", put(f"{SERVER} image", "registry.example.com:5000/server"), "may be another one tomorrow"),
        ("server", put(f"{SERVER} image", "server:latest"), "server:latest may be another one tomorrow"),
        ("server", put(f"{SERVER} image", "server@sha256:12"), "server@sha256:12 may be another one tomorrow"),
    ],
    "mounts": [
        ("server", add(f"{SERVER} volumeMounts", {"name": "x", "mountPath": "/files"}), "/files is mounted twice"),
        ("server", put(f"{SERVER} volumeMounts files name", "x"), "volumeMounts[x]: the pod has no volume of this"),
        ("server", put(f"{SERVER} volumeMounts files mountPath", "files"), "mountPath is no whole path"),
        ("server", add(f"{SERVER_POD} volumes", {"name": "files", "emptyDir": {}}), "volumes[files]: stands there tw"),
        ("server", put(f"{SERVER} volumeMounts", []), "volumes[files]: no container mounts it: mount it"),
    ],
    "shared_memory": [
        ("mpijob", put(f"{WORKER} volumeMounts shared-memory", DROP), "has 64 MiB of /dev/shm, too little"),
        ("job", put(f"{JOB_POD} volumes shared-memory emptyDir medium", DROP), "is /dev/shm but no memory"),
        ("job", put(f"{JOB_POD} volumes shared-memory emptyDir sizeLimit", DROP), "give its emptyDir a sizeL"),
        ("job", put(f"{JOB_POD} volumes shared-memory emptyDir sizeLimit", "64Mi"), "no larger than the 64 M"),
        ("trainjob", put(f"{NODE_POD} volumes shared-memory emptyDir sizeLimit", "256Gi"), "make sizeLimit s"),
    ],
    "grace_periods": [
        ("mpijob", put(f"{WORKER_POD} terminationGracePeriodSeconds", 20), "20 s is too short to end an up"),
    ],
    "restart_policies": [
        ("mpijob", put(f"{LAUNCHER_POD} restartPolicy", "Never"), "Never goes unheard: say it at the role"),
        ("job", put(f"{JOB_POD} restartPolicy", DROP), "is None, and a Job ends: give Never or OnFailure"),
        ("trainjob", put(f"{NODE_POD} restartPolicy", "Always"), "is Always, and a Job ends: give Never"),
        ("server", put(f"{SERVER_POD} restartPolicy", "Never"), "is Never, and a Deployment has no end"),
    ],
    "restarts_resume": [
        ("job", option(JOB, "--resume", None), "would begin a new run: call trainer with --resume auto"),
    ],
    "ports": [
        ("server", put(f"{SERVER} ports http name", "HTTP"), "'HTTP' is no name of a port: take at most 15"),
        ("server", add(f"{SERVER} ports", {"name": "http", "containerPort": 1}), "two ports are named http"),
        ("server", put(f"{SERVER} readinessProbe httpGet port", 1), "asks at port 1, which the container does not"),
    ],
    "gpu_capabilities": [
        ("job", variable(JOB, "NVIDIA_DRIVER_CAPABILITIES", "compute"), "part utility, video would be m"),
    ],
    "labels": [
        ("job", put("Job spec template metadata labels", {}), "no network policy knows these pods: label them app."),
        ("job", put(f"{JOB_POD} topologySpreadConstraints 0 labelSelector", {"matchLabels": {"a": "b"}}), "so nothin"),
    ],
    "hosts_are_closed": [
        ("server", put(f"{SERVER_POD} hostNetwork", True), "spec.hostNetwork: opens the node to the pod"),
        ("server", add(f"{SERVER_POD} volumes", {"name": "x", "hostPath": {}}), "a hostPath is not allowed"),
    ],
    "no_root": [
        ("server", put(f"{SERVER_POD} securityContext runAsNonRoot", DROP), "the container may run as root"),
        ("server", put(f"{SERVER_SECURITY} runAsUser", 0), "runAsUser 0 is root: take the image's own user"),
    ],
    "no_new_privileges": [
        ("server", put(f"{SERVER_SECURITY} privileged", True), "privileged opens the node to the contai"),
        ("job", put(f"{JOB_SECURITY} allowPrivilegeEscalation", DROP), "programs may gain rights: set"),
        ("job", put(f"{JOB_SECURITY} capabilities", {"drop": ["KILL"]}), "keeps capabilities that noth"),
        ("job", put(f"{JOB_SECURITY} capabilities add", ["IPC_LOCK"]), "adds capabilities, which the"),
        ("server", put(f"{SERVER_POD} securityContext seccompProfile", DROP), "may make any system call"),
    ],
    "resources": [
        ("server", put(f"{SERVER} resources limits memory", "128 MB"), "limits.memory: 128 MB is no quantity"),
        ("server", put(f"{SERVER} resources limits", {}), "one container could use up the node's memory"),
        ("server", put(f"{SERVER} resources requests cpu", DROP), "give requests of cpu and memory"),
        ("server", put(f"{SERVER} resources requests memory", "1Gi"), "1Gi is above the limit, 128Mi: lower it"),
        ("job", put(f"{JOB} resources requests nvidia.com/gpu", 4), "GPUs are not shared: give nvidia.com/gpu"),
        ("job", put(f"{JOB} resources", {"limits": {"nvidia.com/gpu": 0.5}}), "0.5 is no whole number of GPUs"),
    ],
}
