"""Each rule on manifests has manifests that break it: a small change to a good one, and the words that tell of it."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from tests.broken_jobs import BROKEN_JOBS
from tests.broken_pods import BROKEN_PODS
from tests.manifests import (
    JOB,
    KNOWN,
    LAUNCHER,
    SERVER,
    add,
    manifest,
    option,
    put,
    variable,
    without,
)
from trainer.manifest import rules
from trainer.manifest.rules import RULES, SHARED_PARTS, Problem, problems
from trainer.manifest.rules_view import quantity, read_manifest, selects

pytestmark = pytest.mark.unit

KINDS = ("mpijob", "mpijob-elastic", "trainjob", "job", "server")
FOLDER = Path(rules.__file__).parent

BY_NAME = {rule.__name__: rule for rule in RULES}
BROKEN = BROKEN_JOBS | BROKEN_PODS
BREAKERS = [(rule, *breaker) for rule, breakers in BROKEN.items() for breaker in breakers]


def found_by(rule, documents, known=KNOWN):
    return [str(problem) for problem in BY_NAME[rule](read_manifest(documents, frozenset(known)))]


@pytest.mark.parametrize("kind", KINDS)
def test_good_manifests_have_no_problems(kind):
    assert problems(manifest(kind), KNOWN) == []


@pytest.mark.parametrize(
    ("rule", "kind", "change", "words"),
    BREAKERS,
    ids=[f"{rule}-{place}" for place, (rule, *_) in enumerate(BREAKERS)],
)
def test_a_rule_catches_the_manifest_that_breaks_it(rule, kind, change, words):
    documents = manifest(kind, change)

    found = found_by(rule, documents)

    assert any(words in problem for problem in found), found


def test_every_problem_that_a_rule_can_find_has_a_manifest_that_shows_it():
    files = {rule.__code__.co_filename for rule in RULES}
    reached = set()

    def trace(frame, event, _):
        if frame.f_code.co_filename not in files:
            return None
        if event == "line":
            reached.add((frame.f_code.co_filename, frame.f_lineno))
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        for rule, kind, change, _ in BREAKERS:
            list(BY_NAME[rule](read_manifest(manifest(kind, change), KNOWN)))
    finally:
        sys.settrace(before)

    told = {
        (file, node.lineno)
        for file in files
        for node in ast.walk(ast.parse(Path(file).read_text()))
        if isinstance(node, ast.Yield)
    }
    assert len(told) > 100
    assert sorted(told - reached) == []


def test_every_rule_of_the_package_is_one_of_the_rules():
    """A function from a Manifest to problems that is not in the list would never be asked."""
    written = {
        node.name
        for file in FOLDER.glob("rules_*.py")
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.FunctionDef) and ast.unparse(node.returns or node) == "Iterator[Problem]"
        if not node.name.startswith("_") and len(node.args.args) == 1
    }
    assert written == set(BY_NAME) == set(BROKEN)


def test_what_is_known_to_be_in_the_cluster_is_no_problem():
    documents = manifest("job")

    missing = {str(problem) for problem in problems(documents)}

    assert any("there is no PersistentVolumeClaim images" in problem for problem in missing)
    assert any("there is no Service mlflow" in problem for problem in missing)
    assert problems(documents, SHARED_PARTS) == []


def test_a_runtime_that_the_cluster_has_needs_no_document():
    documents = manifest("trainjob", without("TrainingRuntime"))

    assert any("there is no TrainingRuntime imagenet" in problem for problem in found_by("train_jobs", documents))
    assert problems(documents, {*KNOWN, "TrainingRuntime/imagenet"}) == []


def test_a_launcher_may_be_called_through_a_shell():
    words = manifest("mpijob")[1]["spec"]["mpiReplicaSpecs"]["Launcher"]["template"]["spec"]["containers"][0]["args"]
    script = " \\\n  ".join(words)

    assert problems(manifest("mpijob", put(f"{LAUNCHER} args", ["sh", "-ec", f"exec {script}"])), KNOWN) == []
    fewer = manifest("mpijob", put(f"{LAUNCHER} args", ["sh", "-ec", script.replace("-np \\\n  16", "-np 8")]))
    assert any("-np is 8" in problem for problem in found_by("worker_counts", fewer))


def test_variables_of_the_manifest_are_put_in_place():
    documents = manifest(
        "job",
        add(f"{JOB} env", {"name": "NODES", "value": "3"}),
        option(JOB, "--nnodes", "$(NODES)"),
    )

    assert any("torchrun waits for 3 pods" in problem for problem in found_by("indexed_jobs", documents))


def test_options_are_known_with_underscores_and_equals_signs():
    words = ["torchrun", "--nnodes=2", "--nproc_per_node=4", "-m", "trainer", "train"]

    found = found_by("indexed_jobs", manifest("job", put(f"{JOB} args", words)))

    assert len(found) == 1
    assert "--nproc-per-node is 4, and a pod has 8 GPUs" in found[0]


def test_a_train_job_overrides_its_runtime():
    documents = manifest("trainjob", put("TrainJob spec trainer image", "server:latest"))

    assert any("server:latest may be another one tomorrow" in problem for problem in found_by("images", documents))


@pytest.mark.parametrize(("length", "is_taken"), [(48, True), (49, False)])  # and -node-0-1 and -abcde
def test_the_ending_that_a_train_jobs_pods_get_is_part_of_their_names(length, is_taken):
    found = found_by("train_jobs", manifest("trainjob", put("TrainJob metadata name", "a" * length)))

    assert any("no name that DNS takes" in problem for problem in found) is not is_taken


def test_a_digest_pins_an_image():
    documents = manifest("server", put(f"{SERVER} image", f"server@sha256:{'0a' * 32}"))

    assert found_by("images", documents) == []


@pytest.mark.parametrize(
    ("text", "value"),
    [("16Gi", 16 * 2**30), ("100m", 0.1), (8, 8.0), ("1.5", 1.5), ("2M", 2e6), ("9GB", None), ("", None), (True, None)],
)
def test_quantities_are_those_of_kubernetes(text, value):
    assert quantity(text) == value


@pytest.mark.parametrize(
    ("expression", "is_held"),
    [
        ({"key": "a", "operator": "In", "values": ["1", "2"]}, True),
        ({"key": "a", "operator": "NotIn", "values": ["1"]}, False),
        ({"key": "b", "operator": "Exists"}, False),
        ({"key": "b", "operator": "DoesNotExist"}, True),
        ({"key": "a", "operator": "Like", "values": ["1"]}, False),
    ],
)
def test_selectors_may_have_expressions(expression, is_held):
    assert selects({"matchExpressions": [expression]}, {"a": "1"}) is is_held


def test_a_document_that_is_no_object_is_a_problem():
    (problem,) = problems(["Job", *manifest("server")], KNOWN)

    assert str(problem) == "document 1: is 'Job': an object with kind and metadata is needed"


def test_an_address_from_elsewhere_is_not_looked_into():
    source = {"name": "MLFLOW_TRACKING_URI", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}

    assert problems(manifest("job", put(f"{JOB} env MLFLOW_TRACKING_URI", source)), KNOWN) == []


@pytest.mark.parametrize("address", ["https://mlflow.example.com", "http://mlflow.tools:5000"])
def test_a_server_may_be_outside_of_the_namespace(address):
    assert problems(manifest("job", variable(JOB, "MLFLOW_TRACKING_URI", address)), KNOWN) == []


def test_a_problem_is_one_line_whatever_the_names_hold():
    problem = Problem("Job/a\nb\x1b[2J", "has no name: give one")

    assert len(str(problem).splitlines()) == 1
    assert "\x1b" not in str(problem)
