"""A run and an MLflow server that comes and goes: the run does not notice, and in the end nothing is missing."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.waiting import wait_until
from trainer.tracking import FINISHED, KILLED, Journal, MlflowTracker, RunStart, Trackers, TrackingError, read_journal
from trainer.tracking.mlflow_reader import load_run_logs
from trainer.tracking.mlflow_sender import send_journal
from trainer.tracking.mlflow_store import open_client

pytestmark = pytest.mark.integration

SERVER_START_S = 120  # a server makes its database first; on a busy machine that takes half a minute
CATCH_UP_S = 60


class Server:
    """An `mlflow server` on loopback that can be started, killed, and started again on the same data."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self.folder}/server.db"]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with open(self.folder / "server.log", "ab") as log:
            self._process = subprocess.Popen(
                command, env=os.environ | quiet, stdout=log, stderr=log, cwd=self.folder, start_new_session=True
            )
        wait_until(self._answers, SERVER_START_S, lambda: "the server answers")

    def kill(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(timeout=10)
            self._process = None

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=2) as answer:
                return answer.status == 200
        except (urllib.error.URLError, OSError):
            return False


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    folder = tmp_path / "server"
    folder.mkdir()
    server = Server(folder)
    yield server
    server.kill()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def start_of(uid: str) -> RunStart:
    return RunStart(uid, "digits", "served", {"seed": "0"}, {"world_size": "2"}, {"plan.json": '{"phases": []}'})


def steps(uri: str, uid: str) -> dict[str, list[int]]:
    """The steps of every curve that the server holds of the run, with doubles if there are any."""
    client = open_client(uri)
    experiment = client.get_experiment_by_name("served")
    runs = client.search_runs([experiment.experiment_id], f"tags.run_uid = '{uid}'") if experiment else []
    assert len(runs) <= 1
    return {
        key: sorted(metric.step for metric in client.get_metric_history(run.info.run_id, key))
        for run in runs
        for key in run.data.metrics
    }


def test_a_server_that_is_dead_at_the_start_and_comes_back_gets_everything_while_the_run_goes_on(
    server: Server, tmp_path: Path
) -> None:
    warnings: list[str] = []
    journal = Journal(tmp_path / "run" / "journal.jsonl")
    trackers = Trackers([journal, MlflowTracker(journal.path, server.uri, warnings.append)])
    trackers.start(start_of("late"))
    for epoch in (1, 2):
        trackers.log(epoch, {"val/top1": 0.1 * epoch, "updates": 10.0 * epoch})
    wait_until(lambda: len(warnings) == 1, CATCH_UP_S, lambda: "the missing server is spoken of")
    assert warnings[0].startswith(f"MLflow at {server.uri} cannot be used (Connection refused): training goes on")
    server.start()
    wait_until(
        lambda: steps(server.uri, "late").get("updates") == [1, 2], CATCH_UP_S, lambda: "the epochs have arrived"
    )
    trackers.log(3, {"val/top1": 0.3, "updates": 30.0})
    trackers.close(FINISHED, {"best_top1": 0.3})
    assert len(warnings) == 1
    assert steps(server.uri, "late") == {"val/top1": [1, 2, 3], "updates": [1, 2, 3], "best_top1": [0]}
    (log,) = load_run_logs(server.uri, experiment="served")
    assert (log.status, log.run.artifacts) == (FINISHED, {"plan.json": '{"phases": []}'})


def test_what_a_server_missed_after_it_died_is_sent_by_sync_and_nothing_twice(server: Server, tmp_path: Path) -> None:
    server.start()
    warnings: list[str] = []
    journal = Journal(tmp_path / "run" / "journal.jsonl")
    trackers = Trackers([journal, MlflowTracker(journal.path, server.uri, warnings.append)])
    trackers.start(start_of("cut"))
    trackers.log(1, {"val/top1": 0.1})
    wait_until(lambda: steps(server.uri, "cut") == {"val/top1": [1]}, CATCH_UP_S, lambda: "the first epoch has arrived")
    server.kill()
    for epoch in (2, 3):
        before = time.monotonic()
        trackers.log(epoch, {"val/top1": 0.1 * epoch})
        assert time.monotonic() - before < 0.5  # the run does not wait for a dead server
    before = time.monotonic()
    trackers.close(KILLED, {"best_top1": 0.3}, error="SIGTERM")
    assert time.monotonic() - before < 15
    assert warnings[-1].endswith(f"trainer sync {journal.path}")
    with pytest.raises(TrackingError, match="Connection refused"):
        send_journal(server.uri, read_journal(journal.path))

    server.start()
    assert send_journal(server.uri, read_journal(journal.path)) == 3
    assert send_journal(server.uri, read_journal(journal.path)) == 0
    assert steps(server.uri, "cut") == {"val/top1": [1, 2, 3], "best_top1": [0]}
    (log,) = load_run_logs(server.uri, experiment="served")
    assert (log.status, log.error) == (KILLED, "SIGTERM")


def test_a_server_that_takes_calls_and_never_answers_holds_nobody_up(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        uri = f"http://user:secret@127.0.0.1:{listener.getsockname()[1]}"
        warnings: list[str] = []
        journal = Journal(tmp_path / "run" / "journal.jsonl")
        trackers = Trackers(
            [journal, MlflowTracker(journal.path, uri, warnings.append, start_timeout_s=2, close_timeout_s=2)]
        )
        trackers.start(start_of("hung"))
        before = time.monotonic()
        trackers.log(1, {"val/top1": 0.1})
        assert time.monotonic() - before < 0.5
        trackers.close(FINISHED, {})
        assert time.monotonic() - before < 5
        assert "MLflow: 3 records were not sent to http://***@127.0.0.1" in warnings[-1]


def test_a_password_in_the_address_shows_up_nowhere(tmp_path: Path) -> None:
    uri = f"http://user:secret@127.0.0.1:{free_port()}"
    warnings: list[str] = []
    journal = Journal(tmp_path / "run" / "journal.jsonl")
    trackers = Trackers([journal, MlflowTracker(journal.path, uri, warnings.append)])
    trackers.start(start_of("shy"))
    trackers.close(FINISHED, {})
    with pytest.raises(TrackingError) as caught:
        send_journal(uri, read_journal(journal.path))
    assert len(warnings) == 2
    shown = "".join(warnings) + str(caught.value) + journal.path.read_text()
    assert "127.0.0.1" in shown
    assert "secret" not in shown
    assert caught.value.__suppress_context__  # nor in a traceback
