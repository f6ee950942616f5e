"""`trainer manifest --check`: the verdict on files, and on what is none."""

from __future__ import annotations

import json

import pytest

from trainer.cli.main import main
from trainer.yaml_text import parse_documents

pytestmark = pytest.mark.unit


def test_what_was_written_passes_the_check_and_what_was_changed_does_not(tmp_path, capsys):
    assert main(["manifest", "imagenet-rn50-8192", "--workers", "16", "--per-node", "8"]) == 0
    text = capsys.readouterr().out
    file = tmp_path / "job.yaml"
    file.write_text(text)
    assert main(["manifest", "--check", str(file)]) == 0
    assert "nothing wrong" in capsys.readouterr().out
    file.write_text(text.replace("replicas: 2\n", "replicas: 3\n"))
    assert main(["manifest", "--check", str(file)]) == 1
    assert "-np" in capsys.readouterr().out
    file.write_text("kind: [")
    assert main(["manifest", "--check", str(file)]) == 2
    assert "line 1: no YAML" in capsys.readouterr().err


def test_a_check_of_nothing_is_no_success(tmp_path, capsys):
    file = tmp_path / "job.yaml"
    file.write_text("# what a failed kubectl has left\n")
    assert main(["manifest", "--check", str(file)]) == 2
    assert f"{file}: holds no manifests" in capsys.readouterr().err


def test_a_list_is_checked_as_what_it_holds(tmp_path, capsys):
    assert main(["manifest", "imagenet-rn50-8192", "--workers", "16", "--per-node", "8"]) == 0
    documents = parse_documents(capsys.readouterr().out)
    file = tmp_path / "list.json"
    file.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": documents}))
    assert main(["manifest", "--check", str(file)]) == 0
    assert capsys.readouterr().out == f"documents: {len(documents)}, nothing wrong with them\n"
