"""A sweep and its runs in MLflow: nested whatever comes first, and told apart. On a real SQLite store."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer.tracking import FINISHED, Journal, RunStart, TrackingError
from trainer.tracking.journal_reader import read_journal
from trainer.tracking.mlflow_reader import load_run_logs
from trainer.tracking.mlflow_sender import RunSender, send_journal
from trainer.tracking.mlflow_store import open_client

pytestmark = pytest.mark.numerics


def journal_of(path: Path, uid: str, experiment: str, *, sweep: bool = False, parent: str | None = None) -> Journal:
    journal = Journal(path / uid / "journal.jsonl")
    journal.start(RunStart(uid, uid, experiment, {}, {"kind": "sweep"} if sweep else {}, {}, parent))
    journal.log(1, {"val/top1": 0.5})
    return journal


@pytest.mark.parametrize("order", [("up", "left", "right"), ("left", "up", "right"), ("left", "right", "up")])
def test_runs_are_nested_under_their_sweep_in_whatever_order_they_are_sent(
    store: str, tmp_path: Path, order: tuple[str, ...]
) -> None:
    names = {word: f"{word}-{order.index('up')}" for word in order}
    experiments = {"up": "nested", "left": "nested", "right": "nested elsewhere"}
    for word in order:
        parent = None if word == "up" else names["up"]
        journal = journal_of(tmp_path, names[word], experiments[word], sweep=word == "up", parent=parent)
        journal.close(FINISHED, {})
        send_journal(store, read_journal(journal.path))
    client = open_client(store)
    everywhere = [client.get_experiment_by_name(name).experiment_id for name in set(experiments.values())]
    ids = {run.data.tags["run_uid"]: run.info.run_id for run in client.search_runs(everywhere)}
    # As MLflow itself finds the parent of a run, its pages too
    parents = {word: client.get_parent_run(ids[names[word]]) for word in order}
    assert parents["up"] is None
    assert parents["left"].info.run_id == parents["right"].info.run_id == ids[names["up"]]


def test_a_run_under_way_is_nested_as_soon_as_its_sweep_is_in_the_store(store: str, tmp_path: Path) -> None:
    run = journal_of(tmp_path, "early", "late sweep", parent="late")
    sender = RunSender(store)
    sender.send(read_journal(run.path))
    client = open_client(store)
    experiment = client.get_experiment_by_name("late sweep").experiment_id
    (stored,) = client.search_runs([experiment])
    assert client.get_parent_run(stored.info.run_id) is None
    assert stored.data.tags["parent_run_uid"] == "late"
    # The sweep comes from elsewhere, by a sender that did not look for runs
    late = client.create_run(experiment, tags={"run_uid": "late", "kind": "sweep"})
    run.log(2, {"val/top1": 0.6})
    sender.send(read_journal(run.path))
    assert client.get_parent_run(stored.info.run_id).info.run_id == late.info.run_id


def test_a_sweep_is_no_run_to_compare_and_a_run_remembers_its_sweep(store: str, tmp_path: Path) -> None:
    for uid, parent in (("whole", None), ("part-a", "whole"), ("part-b", "whole")):
        journal = journal_of(tmp_path, uid, "compared sweep", sweep=parent is None, parent=parent)
        journal.close(FINISHED, {})
        assert read_journal(journal.path).run.parent == parent
        send_journal(store, read_journal(journal.path))
    logs = load_run_logs(store, experiment="compared sweep")
    assert {(log.run.run_uid, log.run.parent) for log in logs} == {("part-a", "whole"), ("part-b", "whole")}
    client = open_client(store)
    experiment = client.get_experiment_by_name("compared sweep").experiment_id
    (sweep,) = client.search_runs([experiment], "tags.run_uid = 'whole'")
    with pytest.raises(TrackingError, match="is a sweep: name its folder, or its runs"):
        load_run_logs(store, [sweep.info.run_id])
