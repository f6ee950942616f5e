"""A password and a token at every door that takes one, and then a search through all that was written and said."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from tests.launching import run_trainer, run_workers
from trainer.cli.main import main
from trainer.tracking import journals_in, read_journal

pytestmark = pytest.mark.integration

PASSWORD, TOKEN = "hunter2-in-the-address", "hunter3-in-a-variable"
SERVER = f"http://me:{PASSWORD}@127.0.0.1:9"  # nobody listens there
BLOTTED = "http://***@127.0.0.1:9"
ONE_EPOCH = ["schedule.epochs=1", "schedule.curve.shape=constant", "schedule.curve.drops=[]"]


def holders(folder: Path, *said: str) -> list[str]:
    """Where a secret is found: files by name, and what was said."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    texts = {str(path): path.read_bytes() for path in files} | {text[-500:]: text.encode() for text in said}
    return [name for name, content in texts.items() if PASSWORD.encode() in content or TOKEN.encode() in content]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run whose password stood on its command line, with a token that no header can carry, started by a
    user who lets everybody write; and what it said."""
    folder = tmp_path_factory.mktemp("runs")
    script = "import os, sys; os.umask(0); os.execv(sys.executable, [sys.executable, '-m', 'trainer', *sys.argv[1:]])"
    words = ["train", "digits-increase-batch", *ONE_EPOCH, f"output={folder}", f"tracking.mlflow={SERVER}"]
    done = run_workers("alone", 1, ["-c", script, *words], env={"MLFLOW_TRACKING_TOKEN": f"{TOKEN}\n"})
    assert done.returncode == 0, done.stderr
    return folder, done


def test_a_run_writes_and_says_no_secret(run):
    folder, done = run
    assert holders(folder, done.stdout, done.stderr) == []
    log = read_journal(journals_in(folder)[0])
    # It was there to be written: in the settings, in the file of them, in the command.
    assert log.run.params["tracking.mlflow"] == BLOTTED
    assert f"mlflow: {BLOTTED}" in log.run.artifacts["config.yaml"]
    assert f"tracking.mlflow={BLOTTED}" in log.run.tags["command"]
    assert f"MLflow at {BLOTTED} cannot be used" in done.stdout


def test_nobody_else_can_write_what_a_run_has_written(run):
    folder, _ = run
    written = list(folder.rglob("*"))
    assert {"journal.jsonl", "weights.pt", "state.json"} <= {path.name for path in written}
    assert [path for path in written if path.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH)] == []


def test_what_is_sent_to_a_store_later_has_no_secret(run):
    folder, _ = run
    sent = run_trainer("sync", str(folder), "--tracking", f"sqlite:///{folder}/late.db")
    assert sent.returncode == 0, sent.stderr
    assert (folder / "late.db").exists()
    assert holders(folder, sent.stdout, sent.stderr) == []


def test_a_sweep_writes_and_says_no_secret_and_is_known_again(tmp_path):
    words = ["sweep", "digits-increase-batch", "--name", "grid", *ONE_EPOCH, f"output={tmp_path}"]
    for _ in range(2):
        done = run_trainer(*words, f"tracking.mlflow={SERVER}")
        assert done.returncode == 0, done.stderr
        assert holders(tmp_path, done.stdout, done.stderr) == []
    assert f"tracking.mlflow={BLOTTED}" in read_journal(tmp_path / "grid" / "sweep.jsonl").run.params["overrides"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "digits-hybrid", f"tracking={SERVER}"],
        ["train", "digits-hybrid", f"tracking.mlflw={SERVER}"],
        ["train", "digits-hybrid", f"tracking.mlflow=[{SERVER}"],
        ["train", f"{SERVER}/run.yaml"],
        ["train", "--tracking", SERVER],
        ["train", "--resume", SERVER],
        ["sweep", "digits-hybrid", "--dry-run", "--vary", f"tracking.mlflow=[{SERVER}"],
        ["sweep", "digits-hybrid", "--dry-run", "--vary", f"tracking.mlflow={SERVER},{SERVER}"],
        ["sync", SERVER],
        ["compare", SERVER, "--tracking", "off"],
    ],
    ids=lambda words: " ".join(words).replace(PASSWORD, "..."),
)
def test_a_refusal_says_no_secret(arguments, capsys, tmp_path):
    try:
        code = main(arguments)
    except SystemExit as leaving:
        code = leaving.code
    said = capsys.readouterr()
    assert code == 2
    assert said.err
    assert holders(tmp_path, said.out, said.err) == []
