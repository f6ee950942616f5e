"""The manifests of k8s/, checked without a cluster: rendered, held against schemas, and against our own rules."""

from __future__ import annotations

import copy
import functools
import os
import re
from pathlib import Path

import kubernetes_validate
import pytest

from tests.kubernetes_schemas import K8S, VERSIONS, has_schema, kubectl, rendered, schema_problems
from tests.manifests import manifest
from trainer import __version__
from trainer.cli.main import main
from trainer.manifest.rules import SHARED_PARTS, problems
from trainer.manifest.rules_view import read_manifest
from trainer.yaml_text import parse

pytestmark = pytest.mark.unit

ALL = sorted(file.parent for file in K8S.rglob("kustomization.yaml"))
FOLDERS = [folder for folder in ALL if "kind: Component" not in (folder / "kustomization.yaml").read_text()]
COMPONENTS = [folder for folder in ALL if folder not in FOLDERS]
RUNS = [folder for folder in FOLDERS if folder.parent.name == "overlays"]
# Made by hand, once, in the cluster alone: they hold passwords.
MADE_BY_HAND = {"Secret/mlflow-postgres", "Secret/mlflow-s3"}


@pytest.fixture(scope="module", autouse=True)
def schemas_read_once():
    """kubernetes-validate reads a megabyte of schemas for every document."""
    with pytest.MonkeyPatch.context() as patch:
        read = kubernetes_validate.utils.schema_contents
        patch.setattr(kubernetes_validate.utils, "schema_contents", functools.cache(read))
        yield


def name(folder):
    return str(folder.relative_to(K8S))


def with_component(component, into):
    """A folder that has the shared part with one component, as an overlay would."""
    here = [os.path.relpath(folder, into) for folder in (K8S / "base", component)]
    (into / "kustomization.yaml").write_text(
        f"namespace: training\nresources: [{here[0]}]\ncomponents: [{here[1]}]\n", encoding="utf-8"
    )
    return rendered(into)


@pytest.mark.parametrize("folder", FOLDERS, ids=name)
def test_a_folder_renders_to_documents_that_the_schemas_take(folder):
    documents = rendered(folder)

    assert documents
    assert [problem for document in documents for problem in schema_problems(document)] == []


@pytest.mark.parametrize("folder", FOLDERS, ids=name)
def test_a_folder_together_with_the_shared_part_breaks_no_rule(folder):
    shared = rendered(K8S / "base")
    documents = shared if folder.is_relative_to(K8S / "base") else [*shared, *rendered(folder)]

    assert list(map(str, problems(documents, MADE_BY_HAND))) == []


@pytest.mark.parametrize("component", COMPONENTS, ids=name)
def test_a_component_keeps_the_shared_part_right(component, tmp_path):
    documents = with_component(component, tmp_path)

    assert list(map(str, problems(documents, MADE_BY_HAND))) == []
    assert [problem for document in documents for problem in schema_problems(document)] == []


@pytest.mark.parametrize("kind", ["mpijob", "mpijob-elastic", "trainjob", "job"])
def test_what_trainer_manifest_writes_is_taken_by_the_schemas(kind):
    assert [problem for document in manifest(kind) for problem in schema_problems(document)] == []


def test_runs_are_there_to_be_looked_at():
    kinds = {document["kind"] for folder in RUNS for document in rendered(folder)}

    assert {"MPIJob", "TrainJob", "Job"} <= kinds


def test_every_file_belongs_to_a_kustomization():
    listed = set()
    for folder in ALL:
        kustomization = parse((folder / "kustomization.yaml").read_text())
        patches = [patch["path"] for patch in kustomization.get("patches", []) if "path" in patch]
        made_of = [file for made in kustomization.get("configMapGenerator", []) for file in made["files"]]
        listed |= {
            (folder / file).resolve()
            for file in [*kustomization.get("resources", []), *patches, *made_of, "kustomization.yaml"]
        }
    assert sorted({file for file in K8S.rglob("*") if file.is_file()} - listed) == [K8S / "README.md"]


def test_the_shared_part_has_what_runs_count_on():
    held = {f"{document['kind']}/{document['metadata']['name']}" for document in rendered(K8S / "base")}

    assert held >= SHARED_PARTS - MADE_BY_HAND


def test_no_run_may_take_the_name_of_what_is_there(tmp_path):
    there = [folder for folder in FOLDERS if folder not in RUNS]
    documents = [document for folder in there for document in rendered(folder)]
    documents += [document for component in COMPONENTS for document in with_component(component, tmp_path)]
    kinds = ("ConfigMap", "Job", "NetworkPolicy", "Pod", "Service")
    names = {document["metadata"]["name"] for document in documents if document["kind"] in kinds}

    assert {"mlflow", "default-deny", "data-index"} <= names
    words = ["manifest", "digits-hybrid", "--workers", "2", "--per-node", "1", "--name"]
    assert {name: main([*words, name]) for name in names} == dict.fromkeys(names, 2)


def test_nothing_is_in_a_namespace_of_its_own_and_the_namespace_is_strict():
    documents = [document for folder in FOLDERS for document in rendered(folder)]
    namespaces = {document["metadata"].get("namespace") for document in documents if document["kind"] != "Namespace"}
    labels = next(document for document in documents if document["kind"] == "Namespace")["metadata"]["labels"]

    assert namespaces == {"training"}
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def test_policies_let_nothing_in_or_out_by_themselves():
    policies = [document for document in rendered(K8S / "base") if document["kind"] == "NetworkPolicy"]
    of_all_pods = [policy["spec"] for policy in policies if policy["spec"]["podSelector"] == {}]

    assert {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]} in of_all_pods
    assert all("ingress" not in spec for spec in of_all_pods)
    # An empty rule, or one without peers, would let everybody in.
    rules = [rule for policy in policies for key in ("ingress", "egress") for rule in policy["spec"].get(key, [])]
    assert all(rule.get("to") or rule.get("from") for rule in rules)


def test_our_images_are_of_this_version():
    ours = re.compile(r"registry\.example\.com/[a-z0-9-]+:([^\s@]+)")
    tags = {tag for file in K8S.rglob("*.yaml") for tag in ours.findall(file.read_text())}

    assert {tag.removesuffix("-cpu") for tag in tags} == {__version__}


def test_the_data_index_is_made_by_a_command_that_there_is_and_where_runs_look(tmp_path, capsys):
    job = read_manifest(rendered(K8S / "data-index"), frozenset()).pods[0].containers[0].tree
    program, *arguments, folder = job["args"]
    paths = {re.search(r"^  path: (/data\S*)$", (run / "trainer.yaml").read_text(), re.MULTILINE) for run in RUNS}

    assert program == "trainer"
    assert {path[1] for path in paths if path} == {folder}
    # With a folder that holds nothing it gets as far as the folder.
    assert main([*arguments, str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "path", "key"),
    [
        ("Deployment", ("spec", "template", "spec"), "contaners"),
        ("PersistentVolumeClaim", ("spec",), "accessMode"),
        ("NetworkPolicy", ("spec",), "ingres"),
    ],
)
def test_a_misspelt_key_of_kubernetes_is_seen_for_both_versions(kind, path, key):
    document = copy.deepcopy(next(one for one in rendered(K8S / "base") if one["kind"] == kind))
    node = document
    for step in path:
        node = node[step]
    node[key] = []

    found = schema_problems(document)

    assert len([problem for problem in found if key in problem]) == len(VERSIONS)


@pytest.mark.parametrize(
    ("source", "kind", "path"),
    [
        ("mpijob", "MPIJob", ("spec",)),
        ("mpijob", "MPIJob", ("spec", "mpiReplicaSpecs", "Worker", "template", "metadata")),
        ("mpijob", "MPIJob", ("spec", "mpiReplicaSpecs", "Worker", "template", "spec", "containers", 0)),
        ("mpijob", "MPIJob", ("metadata",)),
        ("trainjob", "TrainJob", ("spec", "trainer")),
        ("trainjob", "TrainingRuntime", ("spec", "template", "spec", "replicatedJobs", 0, "template", "spec")),
    ],
)
def test_a_misspelt_key_of_an_operator_is_seen(source, kind, path):
    if not has_schema(kind):
        pytest.skip(f"the CustomResourceDefinition of {kind} is not here")
    document = next(one for one in manifest(source) if one["kind"] == kind)
    node = document
    for step in path:
        node = node[step]
    node["tipo"] = 1

    assert any("tipo" in problem for problem in schema_problems(document))


def test_an_operators_schema_takes_ports_by_number_and_by_name():
    if not has_schema("MPIJob"):
        pytest.skip("the CustomResourceDefinition of MPIJob is not here")
    for port, is_taken in ((2222, True), ("ssh", True), (2.5, False)):
        document = next(one for one in manifest("mpijob") if one["kind"] == "MPIJob")
        worker = document["spec"]["mpiReplicaSpecs"]["Worker"]["template"]["spec"]["containers"][0]
        worker["readinessProbe"]["tcpSocket"]["port"] = port
        assert (schema_problems(document) == []) is is_taken


def test_a_folder_that_does_not_render_says_why(tmp_path):
    kubectl()
    (tmp_path / "kustomization.yaml").write_text("resources: [missing.yaml]\n")

    with pytest.raises(AssertionError, match=r"missing\.yaml"):
        rendered(Path(tmp_path))
