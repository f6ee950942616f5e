"""`trainer manifest --check`: manifests that people have changed, checked for what no schema sees."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainer.cli.exit_codes import FAILED
from trainer.manifest.cluster_run import ManifestError
from trainer.manifest.rules import SHARED_PARTS, problems
from trainer.yaml_text import YamlError, parse_documents


def check(files: Sequence[str]) -> int:
    """Says what is wrong with the manifests in these files, taken together; an exit code. Raises ManifestError."""
    if not files:
        raise ManifestError("--check: names no files: name them, or - for stdin, as in kubectl kustomize DIR | ...")
    documents = [document for file in files for document in _documents(file)]
    if not documents:  # such as what a failed command has left in a pipe
        raise ManifestError(f"{', '.join(files)}: holds no manifests: look at what wrote it")
    found = problems(documents, SHARED_PARTS)
    for problem in found:
        print(problem)
    print(f"documents: {len(documents)}, " + (f"problems: {len(found)}" if found else "nothing wrong with them"))
    return FAILED if found else 0


def _documents(file: str) -> list[Any]:
    try:
        documents = parse_documents(sys.stdin.read() if file == "-" else read_text(file))
    except YamlError as error:
        raise ManifestError(f"{file}{error.where}: no YAML: {error.problem}") from None
    return [inner for document in documents for inner in _unpacked(document)]


def _unpacked(document: Any) -> list[Any]:
    """`kubectl get` puts several objects into one of the kind List."""
    is_list = isinstance(document, dict) and document.get("kind") == "List" and isinstance(document.get("items"), list)
    return document["items"] if is_list else [document]


def read_text(file: str) -> str:
    """The file's text. Raises ManifestError."""
    try:
        return Path(file).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise ManifestError(f"{file}: cannot be read ({reason}): name a file") from None
