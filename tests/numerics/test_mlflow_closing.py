"""The numbers that a run closes with, and its descriptions, in a real MLflow store."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer.tracking import FINISHED, PAUSED, Journal, RunStart, read_journal
from trainer.tracking.mlflow_notes import EXPERIMENT_NOTE, NOTE_TAG
from trainer.tracking.mlflow_reader import load_run_logs
from trainer.tracking.mlflow_sender import send_journal
from trainer.tracking.mlflow_store import open_client

pytestmark = pytest.mark.numerics


def closed_run(path: Path, uid: str, epochs: range, status: str, best_top1: float) -> None:
    journal = Journal(path)
    journal.start(RunStart(uid, "digits", f"experiment of {uid}", {"target_top1": "null"}, {}, {}))
    for epoch in epochs:
        journal.log(epoch, {"val/top1": epoch / 10, "updates": 90.0 * epoch})
    summary = {"best_top1": best_top1, "final_top1": best_top1, "total_s": 9.5, "updates": 90.0 * epochs[-1]}
    journal.close(status, summary)


def stored(store: str, uid: str):
    client = open_client(store)
    (run,) = client.search_runs([client.get_experiment_by_name(f"experiment of {uid}").experiment_id])
    return client, run


def test_closing_numbers_are_at_a_step_of_their_own_where_mlflow_draws_bars(store: str, tmp_path: Path) -> None:
    closed_run(tmp_path / "journal.jsonl", "bars", range(1, 4), FINISHED, 0.3)
    send_journal(store, read_journal(tmp_path / "journal.jsonl"))
    client, run = stored(store, "bars")
    steps = {key: [m.step for m in client.get_metric_history(run.info.run_id, key)] for key in run.data.metrics}
    curve = [1, 2, 3]
    assert steps == {"val/top1": curve, "updates": curve, "best_top1": [0], "final_top1": [0], "total_s": [0]}
    (log,) = load_run_logs(store, experiment="experiment of bars")
    assert [epoch.epoch for epoch in log.epochs] == curve
    assert log.close is not None
    assert log.close.summary["best_top1"] == 0.3


def test_a_run_that_ended_twice_shows_what_it_closed_with_last(store: str, tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    closed_run(path, "again", range(1, 3), PAUSED, 0.2)
    assert send_journal(store, read_journal(path)) == 2 * 2 + 3
    closed_run(path, "again", range(3, 5), FINISHED, 0.4)
    assert send_journal(store, read_journal(path)) == 2 * 2 + 2  # total_s is as before
    assert send_journal(store, read_journal(path)) == 0
    _, run = stored(store, "again")
    assert {key: run.data.metrics[key] for key in ("best_top1", "total_s")} == {"best_top1": 0.4, "total_s": 9.5}


def test_an_experiment_and_a_finished_run_are_described_unless_somebody_has_done_so(store: str, tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    closed_run(path, "told", range(1, 3), PAUSED, 0.2)
    send_journal(store, read_journal(path))
    client, run = stored(store, "told")
    experiment = client.get_experiment(run.info.experiment_id)
    assert experiment.tags[NOTE_TAG] == EXPERIMENT_NOTE
    assert NOTE_TAG not in run.data.tags  # it is not over
    client.set_experiment_tag(experiment.experiment_id, NOTE_TAG, "ours")
    client.set_tag(run.info.run_id, NOTE_TAG, "looks odd")
    closed_run(path, "told", range(3, 5), FINISHED, 0.4)
    send_journal(store, read_journal(path))
    client, run = stored(store, "told")
    assert run.data.tags[NOTE_TAG] == "looks odd"
    assert client.get_experiment(run.info.experiment_id).tags[NOTE_TAG] == "ours"
    closed_run(tmp_path / "other.jsonl", "plain", range(1, 3), FINISHED, 0.2)
    send_journal(store, read_journal(tmp_path / "other.jsonl"))
    assert stored(store, "plain")[1].data.tags[NOTE_TAG].startswith("Top-1 20.00% (best 20.00%) after 180 updates")
