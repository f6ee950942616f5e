"""Pods of a rendered manifest as containers of this machine, made the way kubelet makes them: what a pod may do, what
it mounts and what it is called come from the manifest; only the image and the volumes are this machine's."""

from __future__ import annotations

import ipaddress
import itertools
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests import containers
from tests.launching import REPOSITORY
from trainer.yaml_text import parse_documents

Tree = Mapping[str, Any]


def render(overlay: str) -> dict[str, Tree]:
    """The documents of a folder of k8s/overlays, by kind."""
    folder = REPOSITORY / "k8s" / "overlays" / overlay
    text = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True, check=True).stdout
    return {document["kind"]: document for document in parse_documents(text)}


@dataclass(frozen=True, slots=True)
class Cluster:
    """Where pods run: a network, an image in place of theirs, and a folder for their volumes."""

    network: str
    image: str
    folder: Path
    settings: Tree  # the run's ConfigMap
    addresses: Iterator[int] = field(default_factory=lambda: itertools.count(100))  # within the network

    def claim(self, name: str) -> Path:
        """The folder behind a PersistentVolumeClaim, which the pods' user may write to."""
        folder = self.folder / "claims" / name
        if not folder.exists():
            folder.mkdir(parents=True)
            shutil.chown(folder, 1000, 1000)
        return folder

    def container(self, name: str) -> str:
        """What the pod's container is called on this machine, where other runs may have pods of the same name."""
        return f"{self.network}-{name}"

    def start(
        self,
        template: Tree,
        name: str,
        host: str | None = None,
        mounts: Mapping[Path, str] | None = None,
        added: Mapping[str, str] | None = None,
    ) -> None:
        """A pod by this name, that others also find as host. mounts, added: an operator's read-only volumes and
        variables."""
        (container,) = template["spec"]["containers"]
        address = self._next_address()
        variables = {each["name"]: each.get("value", address) for each in container["env"]}  # or status.podIP
        variables |= added or {}
        options = [
            *("--hostname", name, "--network", self.network, "--ip", address),
            *([] if host is None else ["--network-alias", host]),
            *(word for key, value in variables.items() for word in ("--env", f"{key}={value}")),
            *self._rights(template["spec"], container),
            *self._volumes(template["spec"], container),
            *(word for source, place in (mounts or {}).items() for word in ("--volume", f"{source}:{place}:ro")),
        ]
        args = [re.sub(r"\$\(([A-Z_]+)\)", lambda found: variables[found[1]], word) for word in container["args"]]
        containers.start(self.container(name), self.image, *args, options=options)

    def _next_address(self) -> str:
        """One that no pod has had."""
        subnet = containers.podman("network", "inspect", "--format", "{{(index .Subnets 0).Subnet}}", self.network)
        return str(ipaddress.ip_network(subnet.stdout.strip())[next(self.addresses)])

    def _rights(self, pod: Tree, container: Tree) -> list[str]:
        user, security = pod["securityContext"], container["securityContext"]
        return [
            *("--user", f"{user['runAsUser']}:{user['runAsGroup']}"),
            *(word for each in security["capabilities"]["drop"] for word in ("--cap-drop", each)),
            *([] if security["allowPrivilegeEscalation"] else ["--security-opt", "no-new-privileges"]),
            *(["--read-only", "--read-only-tmpfs=false"] if security["readOnlyRootFilesystem"] else []),
        ]

    def _volumes(self, pod: Tree, container: Tree) -> list[str]:
        sources = {volume["name"]: volume for volume in pod["volumes"]}
        options = []
        for mount in container["volumeMounts"]:
            place, source = mount["mountPath"], sources[mount["name"]]
            if "emptyDir" in source:
                size = source["emptyDir"].get("sizeLimit", "1Gi").replace("Gi", "g")
                options += ["--tmpfs", f"{place}:mode=1777,size={size}"]
            elif claim := source.get("persistentVolumeClaim"):
                only = ":ro" if mount.get("readOnly") else ""
                options += ["--volume", f"{self.claim(claim['claimName'])}:{place}{only}"]
            elif "configMap" in source:
                options += ["--volume", f"{self._settings()}:{place}:ro"]
            else:
                assert source["secret"]["optional"], f"{source}: nobody made this secret"
        return options

    def _settings(self) -> Path:
        folder = self.folder / "settings"
        folder.mkdir(exist_ok=True)
        for name, text in self.settings["data"].items():
            (folder / name).write_text(text)
        return folder
