"""Rules between documents: namespaces, what is referred to, whom a selector finds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from urllib.parse import urlsplit

from trainer.manifest.rules_pod import port_number
from trainer.manifest.rules_view import (
    Document,
    Manifest,
    Pod,
    Problem,
    at,
    items,
    number,
    selects,
    shown,
    text,
    tree,
    trees,
)

_WORKLOADS = ("DaemonSet", "Deployment", "Job", "ReplicaSet", "StatefulSet")
_SHARED_BY_PODS = ("ReadWriteMany", "ReadOnlyMany")


def namespaces(manifest: Manifest) -> Iterator[Problem]:
    """Documents that are applied together live together."""
    inside = [document for document in manifest.documents if not document.is_cluster_wide]
    usual = Counter(document.namespace for document in inside).most_common(1)
    for document in inside:
        if document.namespace != usual[0][0]:
            yield Problem(
                f"{document.place} metadata.namespace",
                f"is {document.namespace or 'missing'}, and the others have {usual[0][0] or 'none'}: they share one",
            )
    made = [document.name for document in manifest.of_kind("Namespace")]
    if made and usual and usual[0][0] not in made:
        yield Problem(
            f"Namespace/{made[0]}", f"nothing is put there, but in {usual[0][0] or 'no namespace'}: make them the same"
        )


def references(manifest: Manifest) -> Iterator[Problem]:
    """Secrets, ConfigMaps, claims and accounts that pods name, and the keys that they take from them."""
    for pod in manifest.pods:
        for place, kind, name, keys in _references(pod):
            if not manifest.exists(kind, name, pod.owner.namespace):
                yield Problem(place, f"there is no {kind} {name or '(no name)'}: add it, or correct the name")
            found = manifest.find(kind, name, pod.owner.namespace)
            if found is not None and kind in ("Secret", "ConfigMap"):
                held = {key for part in ("data", "stringData", "binaryData") for key in tree(found.tree.get(part))}
                for key in keys:
                    if key not in held:
                        yield Problem(place, f"{kind} {name} has no {key}: add it, or correct the key")


def shared_claims(manifest: Manifest) -> Iterator[Problem]:
    """A claim of one node cannot be mounted by the pods of a run on several."""
    for pod in manifest.pods:
        if pod.owner.kind not in ("Job", "MPIJob", "TrainJob"):
            continue
        for volume in trees(pod.spec.get("volumes")):
            name = text(at(volume, "persistentVolumeClaim", "claimName"))
            claim = manifest.find("PersistentVolumeClaim", name, pod.owner.namespace)
            modes = items(at(claim.tree, "spec", "accessModes")) if claim else _SHARED_BY_PODS
            if not any(mode in modes for mode in _SHARED_BY_PODS):
                yield Problem(
                    f"PersistentVolumeClaim/{name} spec.accessModes",
                    f"pods of {pod.owner.place} on several nodes mount it: ask for ReadWriteMany",
                )


def workload_selectors(manifest: Manifest) -> Iterator[Problem]:
    """A workload that does not find its own pods is refused by the API server."""
    for document in manifest.of_kind(*_WORKLOADS):
        selector = at(document.tree, "spec", "selector")
        if selector is None and document.kind == "Job":  # it makes its own
            continue
        for pod in manifest.pods_of(document):
            if not tree(selector) or not selects(selector, pod.labels):
                yield Problem(
                    f"{document.place} spec.selector", "does not find its own pods: repeat the template's labels"
                )


def services(manifest: Manifest) -> Iterator[Problem]:
    """Services find pods, at ports that these have."""
    for service in manifest.of_kind("Service"):
        if not at(service.tree, "spec", "selector"):  # its addresses are given by hand
            continue
        selected = pods_of_service(manifest, service)
        if not selected:
            yield Problem(
                f"{service.place} spec.selector", "finds no pod here: repeat the labels of the pods' template"
            )
            continue
        for port in trees(at(service.tree, "spec", "ports")):
            target = port.get("targetPort", port.get("port"))
            if not any(port_number(container, target) for pod in selected for container in pod.containers):
                yield Problem(f"{service.place} spec.ports", f"its pods have no port {shown(target)}: add it")


def network_policies(manifest: Manifest) -> Iterator[Problem]:
    """Policies name ports that the pods have; pods that are not here may have any."""
    for policy in manifest.of_kind("NetworkPolicy"):
        spec = tree(policy.tree.get("spec"))
        own = [pod for pod in manifest.pods if _same(pod, policy) and selects(spec.get("podSelector"), pod.labels)]
        for rule in trees(spec.get("ingress")):
            yield from _policy_ports(policy, "ingress", rule, own)
        for rule in trees(spec.get("egress")):
            for peer in trees(rule.get("to")):
                there = "podSelector" in peer and "namespaceSelector" not in peer
                reached = [
                    pod
                    for pod in manifest.pods
                    if there and _same(pod, policy) and selects(peer.get("podSelector"), pod.labels)
                ]
                yield from _policy_ports(policy, "egress", rule, reached)


def tracking_servers(manifest: Manifest) -> Iterator[Problem]:
    """MLFLOW_TRACKING_URI leads to a Service that is there, or out of the namespace."""
    for pod in manifest.pods:
        for container in pod.all_containers:
            address = container.environment.get("MLFLOW_TRACKING_URI")
            if address is None:
                continue
            place = f"{container.place}.env[MLFLOW_TRACKING_URI]"
            try:
                host, port = urlsplit(address).hostname, urlsplit(address).port
            except ValueError:
                host, port = None, None
            if not address.startswith(("http://", "https://")) or host is None:
                yield Problem(place, f"{address!r} is no address of a server: give http://HOST:PORT")
                continue
            name, *rest = host.split(".")
            if rest and rest[0] != pod.owner.namespace:  # another namespace, or outside of the cluster
                continue
            service = manifest.find("Service", name, pod.owner.namespace)
            if not manifest.exists("Service", name, pod.owner.namespace):
                yield Problem(place, f"there is no Service {name}: add it, or correct the address")
            elif service is not None:
                wanted = port or (443 if address.startswith("https") else 80)
                if wanted not in service_ports(service):
                    yield Problem(place, f"Service {name} has no port {wanted}: take one of {service_ports(service)}")


def pods_of_service(manifest: Manifest, service: Document) -> list[Pod]:
    """Those of the documents that a Service finds; one without a selector finds none."""
    selector = tree(at(service.tree, "spec", "selector"))
    return [
        pod
        for pod in manifest.pods
        if selector and _same(pod, service) and selects({"matchLabels": selector}, pod.labels)
    ]


def service_ports(service: Document) -> list[int]:
    ports = (number(port.get("port")) for port in trees(at(service.tree, "spec", "ports")))
    return [port for port in ports if port is not None]


def _policy_ports(policy: Document, way: str, rule: object, pods: list[Pod]) -> Iterator[Problem]:
    """Pods that are not among the documents may have any port, by number."""
    for port in trees(at(rule, "ports")):
        wanted = port.get("port")
        held = (port_number(container, wanted) for pod in pods for container in pod.containers)
        if pods and wanted is not None and not any(held):
            yield Problem(
                f"{policy.place} spec.{way}", f"none of the pods it means has a port {shown(wanted)}: correct it"
            )


def _same(pod: Pod, document: Document) -> bool:
    return pod.owner.namespace == document.namespace


def _references(pod: Pod) -> Iterator[tuple[str, str, str, list[str]]]:
    """Where the pod names another object, its kind, its name, and which keys of it are needed."""
    for volume in trees(pod.spec.get("volumes")):
        place = f"{pod.spec_place}.volumes[{text(volume.get('name'))}]"
        sources = [volume, *trees(at(volume, "projected", "sources"))]
        for source in sources:
            for key, kind, name_key in (
                ("configMap", "ConfigMap", "name"),
                ("secret", "Secret", "secretName" if source is volume else "name"),
                ("persistentVolumeClaim", "PersistentVolumeClaim", "claimName"),
            ):
                if key in source and at(source, key, "optional") is not True:
                    keys = [text(item.get("key")) for item in trees(at(source, key, "items"))]
                    yield place, kind, text(at(source, key, name_key)), keys
    for container in pod.all_containers:
        for variable in trees(container.tree.get("env")):
            for key, kind in (("secretKeyRef", "Secret"), ("configMapKeyRef", "ConfigMap")):
                reference = tree(at(variable, "valueFrom", key))
                if reference and reference.get("optional") is not True:
                    place = f"{container.place}.env[{text(variable.get('name'))}]"
                    yield place, kind, text(reference.get("name")), [text(reference.get("key"))]
        for source in trees(container.tree.get("envFrom")):
            for key, kind in (("secretRef", "Secret"), ("configMapRef", "ConfigMap")):
                if key in source and at(source, key, "optional") is not True:
                    yield f"{container.place}.envFrom", kind, text(at(source, key, "name")), []
    for secret in trees(pod.spec.get("imagePullSecrets")):
        yield f"{pod.spec_place}.imagePullSecrets", "Secret", text(secret.get("name")), []
    account = text(pod.spec.get("serviceAccountName"))
    if account and account != "default":
        yield f"{pod.spec_place}.serviceAccountName", "ServiceAccount", account, []
