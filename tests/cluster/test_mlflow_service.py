"""MLflow as a cluster has it: a server with PostgreSQL on hosts of their own, and runs on others that log over HTTP."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.chromium import CHROMIUM, Page
from tests.hosts import Host, joined_hosts, needs_hosts
from tests.launching import REPOSITORY, Launcher, launch_prefix, worker_environment
from tests.live_runs import LiveRun
from tests.mlflow_pages import shown_charts, shown_metrics, tick_and_compare
from tests.mlflow_service import MlflowService, journal_points, mlflow_service, needs_postgres
from trainer.tracking import FINISHED, PAUSED

pytestmark = [pytest.mark.cluster, needs_hosts, needs_postgres, pytest.mark.timeout(900)]

# Updates as the presets' own heads have them.
SCHEDULES = {"digits-decay-lr": 2160, "digits-hybrid": 1320, "digits-increase-batch": 1140}
LONG = ["digits-increase-batch", "schedule.epochs=60"]
needs_chromium = pytest.mark.skipif(
    not CHROMIUM.exists(), reason="Chromium is not installed (apt-get install chromium)"
)


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with (
        joined_hosts(tmp_path_factory.mktemp("hosts") / "net", 5) as network,
        mlflow_service(network, *network.hosts[:2]) as service,
    ):
        yield service


@pytest.fixture(scope="module")
def schedules(service, tmp_path_factory):
    """Three schedules that ran at the same time, each with two workers on a host of its own."""
    folder = tmp_path_factory.mktemp("schedules")
    launchers = ["torchrun", "horovodrun" if find_spec("horovod") else "torchrun", "torchrun"]
    with contextlib.ExitStack() as stack:
        runs = [
            stack.enter_context(start(service, host, folder / name, kind, name))
            for name, host, kind in zip(SCHEDULES, service.network.hosts[2:], launchers, strict=True)
        ]
        for run in runs:
            assert run.wait(400) == 0, run.said()
        return runs


def start(service: MlflowService, host: Host, folder: Path, kind: Launcher, *arguments: str) -> LiveRun:
    """`trainer train` with two workers on that host, with its record in the folder and in the server."""
    prefix = [*host.prefix(REPOSITORY), *launch_prefix(kind, 2)]
    return LiveRun(folder, kind, 2, ["train", *arguments], prefix, {"MLFLOW_TRACKING_URI": service.uri})


def trainer_on(service: MlflowService, *arguments: object) -> str:
    """What `trainer ARGUMENTS` says on the last host."""
    finished = subprocess.run(
        [*service.network.hosts[-1].prefix(REPOSITORY), sys.executable, "-m", "trainer", *map(str, arguments)],
        env=worker_environment() | {"MLFLOW_TRACKING_URI": service.uri, "COLUMNS": "200"},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


def assert_stored_as_recorded(service: MlflowService, run: LiveRun) -> None:
    log = run.log()
    assert log is not None
    assert service.points(log.run.run_uid) == journal_points(log)
    assert status_of(service, log.run.run_uid) == log.status


def status_of(service: MlflowService, run_uid: str) -> str:
    (run_id,) = service.run_ids(run_uid)
    ((status,),) = service.rows("select status from runs where run_uuid = %s", run_id)
    return str(status)


def test_what_three_hosts_log_at_the_same_time_is_in_postgresql_as_in_their_journals(service, schedules):
    for run, host in zip(schedules, service.network.hosts[2:], strict=True):
        assert "warning" not in run.said()
        assert_stored_as_recorded(service, run)
        (run_id,) = service.run_ids(run.log().run.run_uid)
        assert service.rows("select value from tags where run_uuid = %s and key = 'host'", run_id) == [(host.name,)]
        ((note,),) = service.rows("select value from tags where run_uuid = %s and key = 'mlflow.note.content'", run_id)
        assert f"after {SCHEDULES[run.log().run.name]:,} updates" in note


def test_compare_says_of_an_experiment_what_the_journals_say(service, schedules, tmp_path):
    # An experiment's runs are in the order in which they began.
    journals = [log.source for log in sorted((run.log() for run in schedules), key=lambda log: log.start_time_s)]
    from_server = trainer_on(
        service, "compare", "--experiment", "digits", "--no-store", "--output", tmp_path / "server"
    )
    from_disk = trainer_on(service, "compare", *journals, "--tracking", "off", "--output", tmp_path / "disk")
    assert tables(from_server) == tables(from_disk)
    assert all(f"{updates:,}" in from_server for updates in SCHEDULES.values())


def tables(text: str) -> str:
    """All that `trainer compare` says, but for its title and where it left its files."""
    return text.partition("\n")[2].partition("Page and figures")[0]


@needs_chromium
def test_the_pages_show_the_schedules_beside_each_other_by_the_names_of_the_metrics(service, schedules, tmp_path):
    logs = {run.log().run.name: run.log() for run in schedules}
    ((experiment,),) = service.rows("select experiment_id from experiments where name = 'digits'")
    runs_page = f"{service.uri}/#/experiments/{experiment}/runs?workflowType=machine_learning"
    address = f"MAP {service.name} {service.server_host.address}"
    with Page(tmp_path / "browser", width=1400, height=2300, resolve=address) as page:
        page.open(runs_page)
        tick_and_compare(page, list(logs))
        metrics = shown_metrics(page)
        for name in ("time_to_98.5_s", "train_time_to_98.5_s", "noise/sgd", "batch/global", "val/top1", "updates"):
            points = {run: service.points(log.run.run_uid) for run, log in logs.items()}
            expected = [max((p for p in points[run] if p[0] == name), key=lambda p: p[1])[2] for run in logs]
            assert metrics[name] == pytest.approx(expected, rel=2e-3), name  # it shows three or four digits
        # One curve of the noise scale, whatever the lever; and a bar a run for what a run has once.
        curves, bars = {"lines": 3, "bars": 0}, {"lines": 0, "bars": 3}
        expected = {
            "noise/sgd": curves | {"lines": 1},
            "batch/global": curves,
            "val/top1": curves,
            "time_to_98.5_s": bars,
        }
        page.open(f"{runs_page}&compareRunsMode=CHART")
        charts = shown_charts(page, "noise/sgd|batch/global|val/top1|^time_to", expected)
        page.screenshot(tmp_path / "charts.png")
    assert charts == expected


@pytest.mark.parametrize("part", ["server", "database"])
def test_what_goes_away_in_mid_run_and_comes_back_has_lost_nothing_and_nothing_twice(service, tmp_path, part):
    with start(service, service.network.hosts[2], tmp_path, "torchrun", *LONG) as run:
        run.wait_until(lambda: run.epochs() >= 2 and service.points(run.log().run.run_uid), 120)
        if part == "server":
            service.kill_server()
        else:
            service.stop_database()
        there = run.epochs()
        run.wait_until(lambda: run.epochs() >= there + 5, 120)  # nothing waits
        if part == "server":
            service.start_server()
            service.wait_for_server()
        else:
            service.start_database()
        assert run.wait(240) == 0, run.said()
        assert run.said().count("warning: MLflow") == 1
        assert f"warning: MLflow at {service.uri} cannot be used" in run.said()
    assert_stored_as_recorded(service, run)
    assert "no point was missing" in trainer_on(service, "sync", Path(run.log().source).parent)


def test_sync_sends_what_the_server_lacks_and_no_more(service, schedules):
    run = schedules[0]
    service.rows("delete from metrics where key = 'val/top1' and step > 20 and run_uuid = any(%s)",
                 service.run_ids(run.log().run.run_uid))  # fmt: skip
    assert ": 4 missing points sent; digits-decay-lr is FINISHED" in trainer_on(service, "sync", run.output)
    assert_stored_as_recorded(service, run)


def test_a_server_with_a_wrong_password_says_so_and_the_run_goes_on_with_its_journal(service, tmp_path):
    service.kill_server()
    before = len(service.server_log.read_text())
    service.start_server(password="not-this-one")
    with start(service, service.network.hosts[2], tmp_path, "torchrun", LONG[0], "schedule.epochs=3") as run:
        assert run.wait(120) == 0, run.said()
    service.kill_server()
    said = service.server_log.read_text()[before:]
    assert 'password authentication failed for user "mlflow"' in said
    assert "not-this-one" not in service.server_log.read_text()
    assert service.password not in service.server_log.read_text()
    (warning, reminder) = [line for line in run.said().splitlines() if line.startswith("warning:")]
    assert warning.startswith(f"warning: MLflow at {service.uri} cannot be used (Connection refused): training goes on")
    assert f"records were not sent to {service.uri}: trainer sync" in reminder
    service.start_server()
    service.wait_for_server()
    assert service.run_ids(run.log().run.run_uid) == []
    trainer_on(service, "sync", run.output)
    assert_stored_as_recorded(service, run)


def test_a_run_that_is_resumed_on_another_host_stays_one_run_in_mlflow(service, tmp_path):
    with start(service, service.network.hosts[2], tmp_path, "torchrun", *LONG) as first:
        first.wait_until(lambda: first.epochs() >= 2, 120)
        os.kill(first.worker(0), signal.SIGTERM)
        first.wait(60)
        run_uid = first.log().run.run_uid
        assert (first.log().status, status_of(service, run_uid)) == (PAUSED, "SCHEDULED")
    with start(service, service.network.hosts[3], tmp_path, "torchrun", "--resume", str(tmp_path / run_uid)) as second:
        assert second.wait(240) == 0, second.said()
    log = second.log()
    assert (log.status, log.run.run_uid, status_of(service, run_uid)) == (FINISHED, run_uid, FINISHED)
    stored, recorded = service.points(run_uid), journal_points(log)
    assert set(recorded) <= set(stored)
    # Beside that, what the first part closed with.
    assert {step for _, step, _, _ in set(stored) - set(recorded)} <= {0}
    assert len(stored) == len(set(stored))
