"""Any manifests, and any change to good ones: the rules answer with problems of one line, and raise nothing."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzzing import fuzz
from tests.manifests import KNOWN, manifest
from trainer.manifest.rules import problems

pytestmark = pytest.mark.unit

WORDS = ["apiVersion", "kind", "metadata", "name", "labels", "spec", "template", "containers", "volumes", "replicas",
         "MPIJob", "TrainJob", "TrainingRuntime", "Job", "Service", "NetworkPolicy", "Worker", "node", "sh", "-c",
         "torchrun", "horovodrun", "trainer", "train", "--nnodes", "-np", "$(A)", "'", "16Gi"]  # fmt: skip
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(10**30), 10**30)
    | st.floats()
    | st.text(max_size=6)
    | st.sampled_from([*WORDS, "\x00", "\x1b[2J", "a\nb", "\ud800", "0", "-1", "1:4", "9" * 400, "http://[", "a:b@c"])
)
TREES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(WORDS) | LEAVES, inner, max_size=4),
    max_leaves=12,
)


def places(node: Any) -> list[tuple[Any, Any]]:
    """Every place of a tree, as what holds it and the key."""
    keys = node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
    return [place for key in keys for place in ((node, key), *places(node[key]))]


def assert_told(documents: Any) -> None:
    for problem in problems(documents, KNOWN):
        assert len(str(problem).splitlines()) == 1
        assert "\x1b" not in str(problem)


@fuzz(150)
@given(documents=st.lists(TREES, max_size=4))
def test_any_documents_are_answered(documents):
    assert_told(documents)


@fuzz(60)
@given(
    kind=st.sampled_from(["mpijob", "mpijob-elastic", "trainjob", "job", "server"]),
    changes=st.lists(st.tuples(st.integers(0, 10**6), TREES), min_size=1, max_size=4),
)
def test_any_change_to_good_documents_is_answered(kind, changes):
    documents = manifest(kind)
    for place, value in changes:
        everywhere = places(documents)
        if everywhere:
            node, key = everywhere[place % len(everywhere)]
            node[key] = value
    assert_told(documents)


def test_an_alias_of_aliases_is_answered_in_few_words():
    """YAML can write a list of 10^9 words in ten lines, and a list that holds itself."""
    tree: list[Any] = ["x"] * 10
    for _ in range(8):
        tree = [tree] * 10
    itself: list[Any] = []
    itself.append(itself)
    for odd in (tree, itself, {"a": tree}):
        documents = manifest("mpijob")
        job = next(document for document in documents if document["kind"] == "MPIJob")["spec"]
        worker = job["mpiReplicaSpecs"]["Worker"]
        job["slotsPerWorker"] = job["launcherCreationPolicy"] = worker["restartPolicy"] = odd
        worker["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"] = odd
        worker["template"]["spec"]["volumes"].append(odd)

        found = problems(documents, KNOWN)

        assert len(found) >= 4
        assert all(len(str(problem)) < 600 for problem in found)
