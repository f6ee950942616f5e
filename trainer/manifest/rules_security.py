"""Rules on what a pod may do to its node: Kubernetes' "restricted" level, and limits on what it may use."""

from __future__ import annotations

from collections.abc import Iterator

from trainer.manifest.names import GPU
from trainer.manifest.rules_view import (
    Container,
    Manifest,
    Pod,
    Problem,
    at,
    items,
    number,
    quantity,
    shown,
    text,
    tree,
    trees,
)

_VOLUMES = ("configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image", "persistentVolumeClaim", "projected",
            "secret")  # fmt: skip
_HOSTS = ("hostIPC", "hostNetwork", "hostPID")


def hosts_are_closed(manifest: Manifest) -> Iterator[Problem]:
    """Nothing of the node is shared with a pod."""
    for pod in manifest.pods:
        for key in _HOSTS:
            if pod.spec.get(key):
                yield Problem(f"{pod.spec_place}.{key}", "opens the node to the pod: leave it out")
        for volume in trees(pod.spec.get("volumes")):
            kinds = [key for key in volume if key != "name" and key not in _VOLUMES]
            if kinds:
                yield Problem(
                    f"{pod.spec_place}.volumes[{text(volume.get('name'))}]",
                    f"a {shown(kinds[0])} is not allowed at the level restricted: take a persistentVolumeClaim",
                )


def no_root(manifest: Manifest) -> Iterator[Problem]:
    """No container runs as root."""
    for pod in manifest.pods:
        for container in pod.all_containers:
            place = f"{container.place}.securityContext"
            if _effective(pod, container, "runAsNonRoot") is not True:
                yield Problem(place, "the container may run as root: set runAsNonRoot: true, for the pod or here")
            if user_of(pod, container) == 0:
                yield Problem(place, "runAsUser 0 is root: take the image's own user, 1000")


def no_new_privileges(manifest: Manifest) -> Iterator[Problem]:
    """No container gains rights, keeps capabilities, or makes any system call."""
    for pod in manifest.pods:
        for container in pod.all_containers:
            own = tree(container.tree.get("securityContext"))
            place = f"{container.place}.securityContext"
            if own.get("privileged"):
                yield Problem(place, "privileged opens the node to the container: leave it out")
            if own.get("allowPrivilegeEscalation") is not False:
                yield Problem(place, "programs may gain rights: set allowPrivilegeEscalation: false")
            if "ALL" not in items(at(own, "capabilities", "drop")):
                yield Problem(place, "keeps capabilities that nothing here needs: drop ALL")
            if [name for name in items(at(own, "capabilities", "add")) if name != "NET_BIND_SERVICE"]:
                yield Problem(
                    place, "adds capabilities, which the level restricted refuses: leave capabilities.add out"
                )
            if at(_effective(pod, container, "seccompProfile"), "type") not in ("RuntimeDefault", "Localhost"):
                yield Problem(
                    place, "may make any system call: set seccompProfile.type: RuntimeDefault, for the pod or here"
                )


def resources(manifest: Manifest) -> Iterator[Problem]:
    """What a container may use, and what the scheduler plans with."""
    for pod in manifest.pods:
        for container in pod.all_containers:
            limits = tree(at(container.tree, "resources", "limits"))
            requests = tree(at(container.tree, "resources", "requests"))
            place = f"{container.place}.resources"
            for part, amounts in (("limits", limits), ("requests", requests)):
                for name, amount in amounts.items():
                    if quantity(amount) is None:
                        yield Problem(f"{place}.{part}.{name}", f"{shown(amount)} is no quantity: give one, as 16Gi")
            if "memory" not in limits:
                yield Problem(place, "one container could use up the node's memory: give limits.memory")
            if "memory" not in {**limits, **requests} or "cpu" not in {**limits, **requests}:
                yield Problem(place, "the scheduler cannot know what fits on a node: give requests of cpu and memory")
            for name, amount in requests.items():
                wanted, most = quantity(amount), quantity(limits.get(name))
                if wanted is not None and most is not None and wanted > most:
                    yield Problem(
                        f"{place}.requests.{name}",
                        f"{shown(amount)} is above the limit, {shown(limits[name])}: lower it",
                    )
            if GPU in {**limits, **requests}:
                yield from _gpus(limits.get(GPU), requests.get(GPU), place)


def user_of(pod: Pod, container: Container) -> int | None:
    """The user that a container runs as, where the manifest says it."""
    return number(_effective(pod, container, "runAsUser"))


def _effective(pod: Pod, container: Container, key: str) -> object:
    """Of the security contexts; the container's goes before the pod's."""
    own = at(container.tree, "securityContext", key)
    return at(pod.spec, "securityContext", key) if own is None else own


def _gpus(limit: object, request: object, place: str) -> Iterator[Problem]:
    count = quantity(limit)
    if limit is None or (request is not None and quantity(request) != count):
        yield Problem(place, f"GPUs are not shared: give {GPU} the same number in limits and in requests")
    elif count is not None and count != int(count):
        yield Problem(place, f"{shown(limit)} is no whole number of GPUs: give one")
