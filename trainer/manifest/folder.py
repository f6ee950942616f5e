"""A run's folder for kustomize: its settings as files of their own, the job, and what puts them together."""

from __future__ import annotations

from collections.abc import Sequence

from trainer.manifest.cluster_run import CALIBRATION_FILE, CONFIG_FILE, ClusterRun
from trainer.manifest.pod import Tree, labels
from trainer.yaml_text import documents_to_text, to_text

MARK = "# Written by: trainer manifest"
KUSTOMIZATION = "kustomization.yaml"
SETTINGS_FILES = (CONFIG_FILE, CALIBRATION_FILE)  # that a folder may have


def folder_texts(run: ClusterRun, documents: Sequence[Tree], comment: str) -> dict[str, str]:
    """The files by name; the last is the one that makes a folder of them. comment: lines that begin with #."""
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": run.namespace,
        "resources": ["job.yaml"],
        # Without a hash in its name: kustomize does not know where an MPIJob names its ConfigMap.
        "generatorOptions": {"disableNameSuffixHash": True, "labels": labels(run)},
        "configMapGenerator": [{"name": run.name, "files": sorted(run.texts)}],
    }
    return {
        **run.texts,
        "job.yaml": f"{comment}\n{documents_to_text(documents)}",
        KUSTOMIZATION: f"{comment}\n{to_text(kustomization)}",
    }
