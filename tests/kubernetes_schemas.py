"""What the API server would say to manifests, without one: kustomize renders them, schemas check them strictly.

Kinds of Kubernetes itself are checked by kubernetes-validate, for an older and a newer cluster; those of operators by
the schema in their CustomResourceDefinition, where an object with known properties takes no others. Such a definition
says nothing of an object's own metadata (`type: object`), so that is checked as the metadata of a ConfigMap would be.
"""

from __future__ import annotations

import functools
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from trainer.yaml_text import parse_documents

ROOT = Path(__file__).resolve().parents[1]
K8S = ROOT / "k8s"
VERSIONS = ("1.31", "1.34")

_CRDS = ROOT.parent / "shared" / "crds"
_CRD_FILES = {
    "MPIJob": "mpijob_v2beta1.crd.yaml",
    "TrainJob": "trainer_trainjobs.crd.yaml",
    # The operator has one form of runtime, for a namespace and for the cluster.
    "TrainingRuntime": "trainer_clustertrainingruntimes.crd.yaml",
    "ClusterTrainingRuntime": "trainer_clustertrainingruntimes.crd.yaml",
}


@functools.cache
def kubectl() -> str:
    """The program; skips where it is missing."""
    found = shutil.which("kubectl")
    if found is None:
        pytest.skip("kubectl is not installed, which renders the folders")
    return found


@functools.cache
def rendered(folder: Path) -> tuple[dict[str, Any], ...]:
    """The documents that `kubectl kustomize` makes of a folder. They are shared: change copies."""
    finished = subprocess.run([kubectl(), "kustomize", str(folder)], capture_output=True, text=True)
    assert finished.returncode == 0, f"{folder}: {finished.stderr}"
    return tuple(parse_documents(finished.stdout))


def schema_problems(document: dict[str, Any]) -> list[str]:
    """What is wrong with a document by its schema; skips where an operator's is missing."""
    if document["kind"] not in _CRD_FILES:
        return [problem for version in VERSIONS for problem in _builtin_problems(document, version)]
    schema = _operators_schema(document["kind"], document["apiVersion"])
    errors = jsonschema.Draft202012Validator(schema).iter_errors(document)
    metadata = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": document["metadata"]}
    pods = [{"apiVersion": "v1", "kind": "PodTemplate", "template": template} for template in _pod_templates(document)]
    return [_told(error) for error in errors] + [
        problem
        for version in VERSIONS
        for builtin in (metadata, *pods)
        for problem in _builtin_problems(builtin, version)
    ]


def has_schema(kind: str) -> bool:
    """Whether the schema of an operator's kind is here."""
    return (_CRDS / _CRD_FILES[kind]).is_file()


def _builtin_problems(document: dict[str, Any], version: str) -> Iterator[str]:
    try:
        kubernetes_validate.validate(document, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        yield f"Kubernetes {version}: {_told(error)}"


def _pod_templates(node: Any) -> Iterator[dict[str, Any]]:
    """Every template of pods in a document, at any depth: the section that has containers in its spec."""
    if isinstance(node, dict):
        if isinstance(node.get("spec"), dict) and "containers" in node["spec"]:
            yield node
        for inner in node.values():
            yield from _pod_templates(inner)
    elif isinstance(node, list):
        for inner in node:
            yield from _pod_templates(inner)


@functools.cache
def _operators_schema(kind: str, api_version: str) -> dict[str, Any]:
    if not has_schema(kind):
        pytest.skip(f"the CustomResourceDefinition of {kind} is not here ({_CRDS})")
    definition = yaml.load((_CRDS / _CRD_FILES[kind]).read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    group, _, version = api_version.partition("/")
    assert definition["spec"]["group"] == group, f"{kind} is of {definition['spec']['group']}, not of {group}"
    schemas = {entry["name"]: entry["schema"]["openAPIV3Schema"] for entry in definition["spec"]["versions"]}
    return _strict(schemas[version])


def _strict(schema: Any) -> Any:
    """The schema, where an object with properties takes no others unless it says so; int-or-string takes both."""
    if isinstance(schema, list):
        return [_strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    # Under `properties` stand names of fields, which may be `properties` or `type` themselves.
    changed = {
        key: {name: _strict(inner) for name, inner in value.items()} if key == "properties" else _strict(value)
        for key, value in schema.items()
    }
    keeps_unknown = schema.get("x-kubernetes-preserve-unknown-fields") is True
    if isinstance(schema.get("properties"), dict) and "additionalProperties" not in schema and not keeps_unknown:
        changed["additionalProperties"] = False
    if schema.get("x-kubernetes-int-or-string") is True:
        changed.setdefault("anyOf", [{"type": "integer"}, {"type": "string"}])
    return changed


def _told(error: jsonschema.ValidationError) -> str:
    return f"{'.'.join(map(str, error.absolute_path))}: {error.message[:300]}"
