"""What `trainer manifest` refuses: one line says why, and nothing is written."""

from __future__ import annotations

import pytest

from trainer.cli.main import main
from trainer.yaml_text import parse_documents

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--per-node", "8"], "--workers is missing"),
        (["--workers", "8"], "--per-node is missing"),
        (["--workers", "9", "--per-node", "8"], "9 workers are no whole number of nodes of 8"),
        (["--workers", "8", "--per-node", "0"], "--per-node 0: give 1 or more"),
        (["--workers", "4,30:8", "--per-node", "4"], "take --kind mpijob-elastic"),
        (["--workers", "8", "--per-node", "8", "--name", "Run_1"], "--name 'Run_1': Kubernetes takes no such name"),
        (["--workers", "8", "--per-node", "8", "--name", "x" * 60], "give a shorter --name"),
        (["--workers", "8", "--per-node", "8", "data.path=/home/me"], "is not in the volume that pods have at /data"),
        (["--workers", "8", "--per-node", "8", "data.path=../me"], "is not in the volume that pods have at /data"),
        (["--workers", "9000", "--per-node", "8"], "cannot share a global batch of 8192"),
        (["--workers", "8", "--per-node", "8", "--out", "/dev/null/x"], "cannot be written"),
        (["--workers", "8", "--per-node", "8", "--image", "trainer:latest"], "trainer:latest"),
        (["--workers", "8", "--per-node", "8", "--image", "trainer"], "image: trainer may be another one tomorrow"),
        (["--workers", "8", "--per-node", "8", "--image", "a b:1"], "--image 'a b:1': is no image's name"),
        (["--workers", "8", "--per-node", "8", "--namespace", "n" * 64], "give at most 63 lower-case letters"),
        (["--workers", "8", "--per-node", "8", "tracking.mlflow=http://host:99999"], "give http://HOST:PORT"),
        (["--workers", "8", "--per-node", "8", "tracking.mlflow=http://[::1"], "give http://HOST:PORT"),
        (["--check"], "imagenet-rn50-8192: cannot be read"),
    ],
)
def test_what_cannot_be_written_is_refused_in_one_line(words, told, capsys):
    assert main(["manifest", "imagenet-rn50-8192", *words]) == 2
    out, err = capsys.readouterr()
    assert told in err
    assert (out, err.count("\n")) == ("", 1)


def test_a_folder_may_be_written_anew_but_nothing_else_is_touched(tmp_path, capsys):
    out = tmp_path / "run"
    words = ["manifest", "imagenet-rn50-8192", "--per-node", "8", "--out", str(out)]
    assert main([*words, "--workers", "8"]) == 0
    assert main([*words, "--workers", "16"]) == 0
    job, _ = parse_documents((out / "job.yaml").read_text())
    assert job["spec"]["mpiReplicaSpecs"]["Worker"]["replicas"] == 2
    assert {file.name for file in out.iterdir()} == {"kustomization.yaml", "job.yaml", "trainer.yaml"}
    (out / "kustomization.yaml").write_text("resources: [mine.yaml]\n")
    assert main([*words, "--workers", "8"]) == 2
    assert "holds something else" in capsys.readouterr().err
    assert (out / "kustomization.yaml").read_text() == "resources: [mine.yaml]\n"


def test_a_password_never_gets_into_a_manifest(capsys):
    words = ["manifest", "digits-hybrid", "tracking.mlflow=http://me:hunter2@host", "--workers", "2", "--per-node", "1"]
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert "secret mlflow-credentials" in err
    assert "hunter2" not in out + err
