"""A run's folder for kustomize: its settings as a file of their own, the job, and what puts them together."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from trainer.manifest.cluster_run import CALIBRATION_FILE, CONFIG_FILE, ClusterRun, ManifestError
from trainer.manifest.pod import Tree, labels
from trainer.yaml_text import documents_to_text, to_text

MARK = "# Written by: trainer manifest"
_FILES = {CONFIG_FILE, CALIBRATION_FILE}


def write_folder(folder: Path, run: ClusterRun, documents: Sequence[Tree], comment: str) -> list[Path]:
    """Writes the folder, or writes it anew; the files that it has now. comment: lines that begin with #.

    Raises ManifestError, before anything is written, where a file of another origin is in the way.
    """
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": run.namespace,
        "resources": ["job.yaml"],
        # Without a hash in its name: kustomize does not know where an MPIJob names its ConfigMap.
        "generatorOptions": {"disableNameSuffixHash": True, "labels": labels(run)},
        "configMapGenerator": [{"name": run.name, "files": sorted(run.texts)}],
    }
    texts = {
        **run.texts,
        "job.yaml": f"{comment}\n{documents_to_text(documents)}",
        # Last: without it the folder is none yet.
        "kustomization.yaml": f"{comment}\n{to_text(kustomization)}",
    }
    try:
        _refuse_to_overwrite(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            _write(folder / name, text)
        for name in _FILES - texts.keys():  # of a run before
            (folder / name).unlink(missing_ok=True)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is no text"
        raise ManifestError(f"--out {folder}: cannot be written ({reason}): name another folder") from None
    return [folder / name for name in texts]


def _refuse_to_overwrite(folder: Path) -> None:
    """A folder that this wrote before may be written anew; one that holds anything else may not."""
    kustomization = folder / "kustomization.yaml"
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not (kustomization.is_file() and kustomization.read_text(encoding="utf-8").startswith(MARK)):
        raise ManifestError(f"--out {folder}: holds something else than a run's manifests: name another folder")


def _write(path: Path, text: str) -> None:
    handle, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(aside, 0o644)
        os.replace(aside, path)
    except BaseException:
        os.unlink(aside)
        raise
