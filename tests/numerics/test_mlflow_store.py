"""What a journal says and what MLflow holds are the same, whether it was sent once, in parts, or twice.

On a real SQLite store; nothing here opens a network connection.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from trainer.tracking import (
    FINISHED,
    KILLED,
    PAUSED,
    RUNNING,
    Journal,
    MlflowTracker,
    RunStart,
    Trackers,
    TrackingError,
)
from trainer.tracking.journal_reader import read_journal
from trainer.tracking.mlflow_reader import load_run_logs
from trainer.tracking.mlflow_sender import RunSender, send_journal
from trainer.tracking.mlflow_store import open_client, store_comparison
from trainer.tracking.tracking_uri import sqlite_uri

pytestmark = pytest.mark.numerics


def start_of(uid: str) -> RunStart:
    return RunStart(
        run_uid=uid,
        name="digits-hybrid",
        experiment=f"experiment of {uid}",
        params={"seed": "3", "schedule.curve.drops": '[{"epoch": 12}]', "empty": ""}
        | {f"p{i}": "x" for i in range(150)},
        tags={"world_size": "2", "git_commit": "abc"},
        artifacts={"plan.json": '{"phases": []}', "config.yaml": "seed: 3\n"},
    )


def write_journal(path: Path, uid: str, epochs: int = 3) -> Journal:
    journal = Journal(path)
    journal.start(start_of(uid))
    for epoch in range(1, epochs + 1):
        journal.log(epoch, metrics_of(epoch))
    return journal


def metrics_of(epoch: int) -> dict[str, float]:
    loss = math.nan if epoch == 2 else math.inf if epoch == 3 else 0.1
    return {"val/top1": epoch / 10, "train/loss": loss, "updates": 90 * epoch, "elapsed_s": 1.5 * epoch}


def stored_points(store: str, run_id: str) -> list[tuple[str, int, str, int]]:
    client = open_client(store)
    return sorted(
        (key, metric.step, repr(metric.value), metric.timestamp)
        for key in client.get_run(run_id).data.metrics
        for metric in client.get_metric_history(run_id, key)
    )


def run_id_of(store: str, uid: str) -> str:
    client = open_client(store)
    experiment = client.get_experiment_by_name(f"experiment of {uid}")
    (run,) = [run for run in client.search_runs([experiment.experiment_id]) if run.data.tags.get("run_uid") == uid]
    return str(run.info.run_id)


def test_a_journal_sent_to_mlflow_and_loaded_again_is_the_same_run(store: str, tmp_path: Path) -> None:
    write_journal(tmp_path / "journal.jsonl", "same").close(FINISHED, {"best_top1": 0.3, "time_to_97_s": 4.5})
    log = read_journal(tmp_path / "journal.jsonl")
    assert send_journal(store, log) == 3 * 4 + 2
    (loaded,) = load_run_logs(store, experiment="experiment of same")
    assert loaded.run == replace(log.run, tags=log.run.tags | {"run_uid": "same"})
    assert (loaded.status, loaded.error) == (FINISHED, None)
    assert abs(loaded.start_time_s - log.start_time_s) < 1e-3  # MLflow keeps milliseconds
    for ours, theirs in zip(log.epochs[:2], loaded.epochs[:2], strict=True):
        assert (ours.epoch, repr(ours.metrics)) == (
            theirs.epoch,
            repr({key: theirs.metrics[key] for key in ours.metrics}),
        )
        assert abs(ours.time_s - theirs.time_s) < 1e-3
    assert loaded.epochs[2].metrics["train/loss"] == math.inf
    assert loaded.close is not None
    assert loaded.close.summary["time_to_97_s"] == 4.5
    (by_id,) = load_run_logs(store, [run_id_of(store, "same")])
    assert repr(by_id) == repr(loaded)


def test_sending_twice_doubles_nothing(store: str, tmp_path: Path) -> None:
    write_journal(tmp_path / "journal.jsonl", "twice").close(FINISHED, {"updates": 270.0, "best_top1": 0.3})
    log = read_journal(tmp_path / "journal.jsonl")
    assert send_journal(store, log) == 3 * 4 + 1  # the closing number of updates is that of the last epoch
    before = stored_points(store, run_id_of(store, "twice"))
    assert send_journal(store, log) == 0
    assert stored_points(store, run_id_of(store, "twice")) == before


def test_what_arrived_in_part_is_completed(store: str, tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = write_journal(path, "part", epochs=1)
    RunSender(store).send(read_journal(path))
    run_id = run_id_of(store, "part")
    journal.log(2, metrics_of(2))
    open_client(store).log_metric(run_id, "val/top1", 0.2, step=2)  # one of the epoch's four got through
    assert open_client(store).get_run(run_id).info.status == RUNNING
    journal.close(KILLED, {}, error="SIGTERM")
    assert send_journal(store, read_journal(path)) == 3
    assert [(key, step) for key, step, _, _ in stored_points(store, run_id)] == sorted(
        (key, step) for key in metrics_of(1) for step in (1, 2)
    )
    run = open_client(store).get_run(run_id)
    assert (run.info.status, run.data.tags["error"]) == (KILLED, "SIGTERM")
    assert run.info.end_time == round(1000 * read_journal(path).end_time_s)


def test_a_run_whose_process_died_is_marked_killed_and_taken_up_again_as_running(store: str, tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = write_journal(path, "died")
    content = path.read_bytes()
    journal.close(FINISHED, {})
    path.write_bytes(content)  # as it was before the close
    send_journal(store, read_journal(path))
    run_id = run_id_of(store, "died")
    assert open_client(store).get_run(run_id).info.status == KILLED
    journal = Journal(path)
    journal.start(start_of("died"))
    send_journal(store, read_journal(path))
    assert open_client(store).get_run(run_id).info.status == RUNNING
    journal.log(4, {"val/top1": 0.4})
    journal.close(FINISHED, {})
    assert send_journal(store, read_journal(path)) == 1
    assert open_client(store).get_run(run_id).info.status == FINISHED


def test_a_paused_run_is_scheduled_until_it_goes_on(store: str, tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    write_journal(path, "paused").close(PAUSED, {})
    send_journal(store, read_journal(path))
    run_id = run_id_of(store, "paused")
    assert open_client(store).get_run(run_id).info.status == "SCHEDULED"
    assert send_journal(store, read_journal(path)) == 0
    (log,) = load_run_logs(store, [run_id])
    assert (log.status, log.error, log.is_being_written) == (PAUSED, None, False)
    journal = Journal(path)
    journal.start(start_of("paused"))
    send_journal(store, read_journal(path))
    assert open_client(store).get_run(run_id).info.status == RUNNING
    journal.log(4, {"val/top1": 0.4})
    journal.close(FINISHED, {"total_s": 3.0})
    assert send_journal(store, read_journal(path)) == 2  # the new epoch's, and the summary's: nothing twice
    assert open_client(store).get_run(run_id).info.status == FINISHED


def test_why_a_run_broke_off_is_forgotten_when_it_has_gone_on(store: str, tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    write_journal(path, "again").close(KILLED, {}, error="SIGTERM")
    send_journal(store, read_journal(path))
    run_id = run_id_of(store, "again")
    assert open_client(store).get_run(run_id).data.tags["error"] == "SIGTERM"
    journal = Journal(path)  # the store does not hear of it before it is finished
    journal.start(start_of("again"))
    journal.close(FINISHED, {})
    send_journal(store, read_journal(path))
    assert "error" not in open_client(store).get_run(run_id).data.tags
    (log,) = load_run_logs(store, [run_id])
    assert (log.status, log.error) == (FINISHED, None)


def test_a_run_that_ends_the_same_way_twice_is_stored_as_it_ended_last(store: str, tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    write_journal(path, "twice").close(KILLED, {}, error="the first")
    send_journal(store, read_journal(path))
    write_journal(path, "twice", epochs=4).close(KILLED, {}, error="the second")
    log = read_journal(path)
    assert send_journal(store, log) == len(metrics_of(4))
    run = open_client(store).get_run(run_id_of(store, "twice"))
    assert (run.info.status, run.data.tags["error"]) == (KILLED, "the second")
    assert run.info.end_time == round(1000 * log.end_time_s)
    stored = Path(store.removeprefix("sqlite:///")).parent / "mlartifacts" / run.info.run_id / "artifacts"
    assert (stored / "journal.jsonl").read_bytes() == path.read_bytes()


def test_artifacts_lie_beside_the_database(store: str, tmp_path: Path) -> None:
    write_journal(tmp_path / "journal.jsonl", "files").close(FINISHED, {})
    send_journal(store, read_journal(tmp_path / "journal.jsonl"))
    client = open_client(store)
    run_id = run_id_of(store, "files")
    assert {item.path for item in client.list_artifacts(run_id)} == {"plan.json", "config.yaml", "journal.jsonl"}
    folder = Path(store.removeprefix("sqlite:///")).parent / "mlartifacts"
    assert client.get_run(run_id).info.artifact_uri.startswith(folder.as_uri())
    assert (folder / run_id / "artifacts" / "journal.jsonl").read_bytes() == (tmp_path / "journal.jsonl").read_bytes()


def test_the_tracker_sends_while_the_run_goes_on_and_all_by_the_end(store: str, tmp_path: Path) -> None:
    warnings: list[str] = []
    journal = Journal(tmp_path / "journal.jsonl")
    trackers = Trackers([journal, MlflowTracker(journal.path, store, warnings.append)])
    trackers.start(start_of("live"))
    for epoch in range(1, 41):
        trackers.log(epoch, metrics_of(1))
        trackers.event("decision", {"epoch": epoch})
    trackers.close(FINISHED, {"best_top1": 0.1})
    assert warnings == []
    points = stored_points(store, run_id_of(store, "live"))
    assert len(points) == 40 * 4 + 1
    times = {entry.epoch: round(1000 * entry.time_s) for entry in read_journal(journal.path).epochs}
    assert all(timestamp == times[step] for key, step, _, timestamp in points if key != "best_top1")
    assert open_client(store).get_run(run_id_of(store, "live")).info.status == FINISHED
    assert not [thread for thread in threading.enumerate() if thread.name == "mlflow-tracker"]


def test_a_file_that_is_no_database_costs_one_warning_and_a_reminder(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("this is no database, however long one looks at it " * 100)
    warnings: list[str] = []
    journal = Journal(tmp_path / "run" / "journal.jsonl")
    trackers = Trackers([journal, MlflowTracker(journal.path, sqlite_uri(tmp_path), warnings.append)])
    trackers.start(start_of("broken"))
    trackers.log(1, metrics_of(1))
    trackers.close(FINISHED, {})
    assert len(warnings) == 2
    assert "file is not a database" in warnings[0]
    assert "training goes on" in warnings[0]
    assert warnings[1].endswith(f"trainer sync {journal.path}")
    assert warnings[1].startswith("MLflow: 3 records were not sent")
    assert read_journal(journal.path).status == FINISHED


@pytest.mark.parametrize("place", ["missing/folder/mlflow.db", "text.db"])
def test_a_store_that_cannot_be_opened_is_refused_at_once_by_sync(tmp_path: Path, place: str) -> None:
    (tmp_path / "text.db").write_text("no database " * 100)
    write_journal(tmp_path / "journal.jsonl", "refused").close(FINISHED, {})
    with pytest.raises(TrackingError, match="cannot be used as MLflow's database"):
        send_journal(f"sqlite:///{tmp_path / place}", read_journal(tmp_path / "journal.jsonl"))


def test_an_unknown_experiment_is_refused_with_those_there_are(store: str, tmp_path: Path) -> None:
    write_journal(tmp_path / "journal.jsonl", "known").close(FINISHED, {})
    send_journal(store, read_journal(tmp_path / "journal.jsonl"))
    with pytest.raises(TrackingError, match=r"experiment 'nope': is not in .*it has: .*experiment of known"):
        load_run_logs(store, experiment="nope")


def test_a_comparison_is_a_run_of_its_own_that_is_no_run_to_compare(store: str, tmp_path: Path) -> None:
    write_journal(tmp_path / "journal.jsonl", "shown").close(FINISHED, {})
    send_journal(store, read_journal(tmp_path / "journal.jsonl"))
    (tmp_path / "report.html").write_text("<p>")
    run_id = store_comparison(store, "experiment of shown", ["shown"], [tmp_path / "report.html"])
    run = open_client(store).get_run(run_id)
    assert (run.info.run_name, run.info.status) == ("comparison", FINISHED)
    assert run.data.tags["compared_runs"] == "shown"
    assert [item.path for item in open_client(store).list_artifacts(run_id)] == ["report.html"]
    assert [log.run.run_uid for log in load_run_logs(store, experiment="experiment of shown")] == ["shown"]


def test_mlflow_is_quiet_keeps_to_itself_and_leaves_the_environment_alone(tmp_path: Path) -> None:
    write_journal(tmp_path / "journal.jsonl", "quiet").close(FINISHED, {})
    script = (
        "import os, socket, sys\nfrom pathlib import Path\n"
        "def refuse(*_): raise AssertionError('a network connection')\n"
        "socket.socket.connect = refuse\n"
        "from trainer.tracking import read_journal\n"
        "assert 'mlflow' not in sys.modules\n"
        "from trainer.tracking.mlflow_sender import send_journal\n"
        "assert 'mlflow' not in sys.modules\n"
        "before = dict(os.environ)\n"
        "send_journal(sys.argv[2], read_journal(Path(sys.argv[1])))\n"
        "assert dict(os.environ) == before, set(os.environ) ^ set(before)\n"
        "from mlflow.telemetry import get_telemetry_client\n"
        "assert get_telemetry_client() is None\n"
    )
    # Without the variables in which MLflow would see that it is being tested, and keep quiet by itself.
    hints = ("PYTEST", "CI", "GITHUB", "MLFLOW", "_MLFLOW", "DO_NOT_TRACK")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(hints)}
    environment |= {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / "config")}
    environment.setdefault("PYTHONPATH", os.getcwd())
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "journal.jsonl"), sqlite_uri(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not (tmp_path / "config").exists()
