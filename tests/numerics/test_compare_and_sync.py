"""`trainer compare` and `trainer sync` as a user calls them, on real journals and a real SQLite store."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import pytest

from trainer.cli import compare, sync
from trainer.tracking import FINISHED, Journal, RunStart, TrackingError
from trainer.tracking.mlflow_store import open_client
from trainer.tracking.tracking_uri import sqlite_uri

pytestmark = pytest.mark.numerics


@pytest.fixture(autouse=True)
def _no_server_of_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("COLUMNS", "150")


def command(*words: str) -> int:
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers()
    compare.add_parser(commands)
    sync.add_parser(commands)
    args = parser.parse_args(words)
    code: int = args.run(args)
    return code


def record_runs(folder: Path) -> list[Path]:
    """Two runs: decay-lr and grow, which takes half the updates."""
    paths = []
    for name, updates in (("decay-lr", 100), ("grow", 50)):
        journal = Journal(folder / f"{name}-0" / "journal.jsonl")
        params = {"name": name, "seed": "0", "target_top1": "0.7", "policy": name}
        journal.start(RunStart(f"{name}-0", name, "digits", params, {"world_size": "2"}, {}))
        for epoch in (1, 2, 3):
            journal.log(
                epoch, {"val/top1": 0.25 * epoch, "updates": updates * epoch, "elapsed_s": 2.0 * epoch, "val/loss": 1.0}
            )
        journal.close(FINISHED, {"best_top1": 0.75})
        paths.append(journal.path)
    return paths


def test_compare_prints_the_table_and_says_where_everything_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record_runs(tmp_path / "runs")
    assert command("compare", str(tmp_path / "runs")) == 0
    out = capsys.readouterr().out
    assert "150 (2.00x)" in out
    assert "grow took 50 % fewer updates than decay-lr" in out
    assert str(tmp_path / "runs" / "comparison" / "report.html") in out
    assert "MLflow" not in out  # there is no store, and none was made
    assert sorted(os.listdir(tmp_path / "runs")) == ["comparison", "decay-lr-0", "grow-0"]
    assert sorted(os.listdir(tmp_path / "runs" / "comparison")) == [
        "accuracy.png",
        "loss.png",
        "report.html",
        "summary.png",
        "time.png",
    ]  # and no schedule.png, since these runs logged no lr


def test_the_first_run_named_is_what_the_others_are_held_against(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    decay_lr, grow = record_runs(tmp_path)
    command("compare", str(grow.parent), str(decay_lr), "--output", str(tmp_path / "here"))
    assert "decay-lr took 100 % more updates than grow" in capsys.readouterr().out
    assert (tmp_path / "here" / "report.html").exists()


def test_a_synced_experiment_is_compared_and_the_comparison_kept_with_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = record_runs(tmp_path / "runs")
    with open(paths[1], "ab") as file:
        file.write(b'{"type": "ev')
    assert command("sync", str(tmp_path / "runs")) == 0
    out = capsys.readouterr().out
    uri = sqlite_uri(tmp_path / "runs")
    assert f"{paths[0]}: 13 missing points sent; decay-lr is FINISHED in experiment digits at {uri}" in out
    assert f"{paths[1]}: line 6 is incomplete and was skipped" in out
    assert command("sync", str(paths[0])) == 0
    assert f"{paths[0]}: no point was missing" in capsys.readouterr().out

    by_experiment = ("compare", "--experiment", "digits", "--tracking", uri, "--output", str(tmp_path / "out"))
    assert command(*by_experiment, "--no-store") == 0
    assert "MLflow" not in capsys.readouterr().out
    assert command(*by_experiment) == 0
    out = capsys.readouterr().out
    assert "grow took 50 % fewer updates than decay-lr (150 instead of 300)" in out
    assert f"in experiment digits at {uri}" in out
    client = open_client(uri)
    runs = client.search_runs([client.get_experiment_by_name("digits").experiment_id])
    (comparison,) = [run for run in runs if run.info.run_name == "comparison"]
    assert comparison.data.tags["compared_runs"] == "decay-lr-0, grow-0"
    assert {item.path for item in client.list_artifacts(comparison.info.run_id)} >= {"report.html", "accuracy.png"}

    (grow,) = [run for run in runs if run.info.run_name == "grow"]
    assert command("compare", grow.info.run_id, "--tracking", uri, "--output", str(tmp_path / "out")) == 0
    assert "grow ended at 75.0 %. It reached 70 % after 150 updates and 6.00 s." in capsys.readouterr().out


def test_a_store_that_is_gone_does_not_spoil_the_comparison(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record_runs(tmp_path)
    assert command("compare", str(tmp_path), "--tracking", "http://127.0.0.1:9") == 0
    out = capsys.readouterr().out
    assert str(tmp_path / "comparison" / "report.html") in out
    assert "Not kept in MLflow: MLflow store http://127.0.0.1:9: Connection refused" in out


def test_the_users_server_is_asked_when_the_environment_names_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path, _) = record_runs(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(TrackingError, match=r"MLflow store http://127\.0\.0\.1:9: Connection refused"):
        command("sync", str(path))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["compare"], "name runs, or --experiment NAME"),
        (["compare", "x", "--experiment", "y"], "name runs, or --experiment NAME"),
        (["compare", "x"], "x: no such journal or folder"),
        (["compare", "--experiment", "y"], "there is no MLflow store to look in"),
        (["compare", "--experiment", "y", "--tracking", "off"], "there is no MLflow store to look in"),
        (["sync", "x"], "x: is no journal, and no folder with a journal.jsonl in it"),
    ],
)
def test_what_cannot_be_done_is_refused(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TrackingError, match=message):
        command(*words)
    assert os.listdir(tmp_path) == []


def test_sync_refuses_to_send_nowhere(tmp_path: Path) -> None:
    (path, _) = record_runs(tmp_path)
    with pytest.raises(TrackingError, match="nowhere to send to"):
        command("sync", str(path), "--tracking", "off")
