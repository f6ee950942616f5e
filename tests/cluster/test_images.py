"""The images are built and do their work: alone, and as the hosts of a job over ssh, with keys and host file where the
MPI operator mounts them; stopped in the middle, they save. What `make image-check` prints is for docs/results.md."""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import containers
from tests.containers import MLFLOW, TRAINER, make_keys
from tests.waiting import wait_until
from trainer.tracking import RunLog, TrackingError, journals_in, read_journal

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(2400)]

_USER = 1000
_SLOTS = 2
_EPOCHS = 12
_HOROVODRUN = ("horovodrun", "--gloo", "--disable-cache")


@pytest.fixture(scope="module")
def images(request) -> None:
    """Both are built; layers of before are used again."""
    if reason := containers.what_is_missing():
        pytest.skip(reason)
    wheels = containers.wheels()
    if wheels is None or not list(wheels.glob("torch-*cpu*.whl")):
        pytest.skip("pip's find-links names no folder with a CPU build of torch")
    base = containers.base_image()
    report(request, f"base {containers.size_mib(base):.0f} MiB; {versions()}")
    for target, tag in (("trainer", TRAINER), ("mlflow", MLFLOW)):
        seconds = containers.build(target, tag, wheels)
        report(request, f"{tag}: {containers.size_mib(tag):.0f} MiB, built in {seconds:.0f} s")


@dataclass(frozen=True, slots=True)
class Hosts:
    """Two workers and room for a launcher on a network of their own. folder: with the runs, for all of them."""

    mark: str
    network: str
    folder: Path

    @property
    def workers(self) -> tuple[str, str]:
        return f"{self.mark}-worker-0", f"{self.mark}-worker-1"

    @property
    def launcher(self) -> str:
        return f"{self.mark}-launcher"

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    def start_workers(self) -> None:
        """Those that do not run. The first has the image's entry point around its ssh-worker, the second has none:
        there it is process 1 itself, as with `command` in a manifest."""
        for name, entry_point in zip(self.workers, ([], ["--entrypoint", "[]"]), strict=True):
            if not containers.is_running(name):
                containers.remove(name)
                containers.start(name, TRAINER, "ssh-worker", options=[*self._options(), *entry_point])

    def launch(self, *command: str) -> None:
        """The launcher's container, with a command; of what was there before nothing is left."""
        containers.remove(self.launcher)
        containers.start(self.launcher, TRAINER, *command, options=self._options())

    def log(self) -> RunLog | None:
        """The one run's record so far."""
        with contextlib.suppress(TrackingError, ValueError):
            (journal,) = journals_in(self.runs)
            return read_journal(journal)
        return None

    def wait_for_epoch(self, epoch: int, timeout_s: float = 120) -> None:
        wait_until(
            lambda: (log := self.log()) is not None and len(log.epochs) >= epoch,
            timeout_s,
            lambda: containers.said(self.launcher),
        )

    def _options(self) -> list[str]:
        mounts = {self.folder / "ssh": "/home/trainer/.ssh:ro", self.folder / "mpi": "/etc/mpi:ro", self.runs: "/runs"}
        volumes = [option for source, place in mounts.items() for option in ("--volume", f"{source}:{place}")]
        # As the manifests have it: no rights, and nothing to write to but these.
        rights = ["--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--read-only"]
        scratch = ["--tmpfs", "/tmp:mode=1777", "--tmpfs", "/home/trainer/.cache:mode=1777"]
        return ["--network", self.network, "--env", "OMP_NUM_THREADS=1", *rights, *scratch, *volumes]


@pytest.fixture
def hosts(images, tmp_path) -> Iterator[Hosts]:
    mark = f"lbt{secrets.token_hex(3)}"
    hosts = Hosts(mark, mark, tmp_path)
    for name in ("ssh", "mpi", "runs"):
        (tmp_path / name).mkdir(mode=0o755)
    shutil.chown(hosts.runs, _USER, _USER)
    make_keys(tmp_path / "ssh")
    (tmp_path / "mpi" / "hostfile").write_text("".join(f"{name} slots={_SLOTS}\n" for name in hosts.workers))
    with containers.network(hosts.network):
        try:
            hosts.start_workers()
            yield hosts
        finally:
            containers.remove(hosts.launcher, *hosts.workers)


def train(*launcher: str, epochs: int = _EPOCHS) -> list[str]:
    """A job of two workers a host over ssh. Batches of 48 leave few updates, which take a while on shared cores."""
    hosts = [*launcher, "-np", str(2 * _SLOTS), "--hostfile", "/etc/mpi/hostfile"]
    settings = [
        f"schedule.epochs={epochs}",
        "schedule.reference.global_batch=48",
        "output=/runs",
        "tracking.mlflow=off",
    ]
    return [*hosts, "trainer", "train", "digits-increase-batch", *settings, "--resume", "auto"]


def versions() -> str:
    commands = (["buildah", "--version"], ["podman", "--version"], ["runc", "--version"])
    said = (subprocess.run(command, capture_output=True, text=True, check=True).stdout for command in commands)
    return ", ".join(text.splitlines()[0].split(" (")[0] for text in said)


def report(request, line: str) -> None:
    """A line for people, also where output is captured."""
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(f"\n    {line}", end="", flush=True)


def test_the_trainers_image_holds_no_compiler_no_cache_and_nothing_of_the_builders(images):
    left = r".*/(pip\.conf|ca\.crt|wheels|\.cache|g\+\+|make|pip|ssh_host_.*_key|archives/.*\.deb|lists/.+)"
    script = f"find / -xdev -regextype posix-extended -regex '{left}'"
    assert containers.run_once(TRAINER, "sh", "-c", script, options=["--user", "0"]).split() == []


def test_the_trainers_image_runs_as_a_user(images):
    assert containers.run_once(TRAINER, "sh", "-c", "id -u; id -g; id -un; pwd").split() == [
        "1000", "1000", "trainer", "/home/trainer"
    ]  # fmt: skip


def test_the_servers_image_has_no_torch_and_is_nobody_special(images):
    script = "import importlib.util, os; print(os.getuid(), importlib.util.find_spec('torch'))"
    assert containers.run_once(MLFLOW, "python3", "-c", script).split() == ["1000", "None"]


def test_the_doctor_finds_all_that_training_needs(images, request):
    findings = json.loads(containers.run_once(TRAINER, "trainer", "doctor", "--json"))
    seen = {finding["name"]: (finding["verdict"], finding["seen"]) for finding in findings["findings"]}
    report(request, f"doctor: Horovod {seen['Horovod'][1]}; DALI {seen['DALI'][1]}")
    assert findings["can_train"]
    assert {name for name, (verdict, _) in seen.items() if verdict == "missing"} == set()
    assert all(word in seen["Horovod"][1] for word in ("mended", "Gloo", "MPI")), seen["Horovod"]


def test_a_run_can_be_planned_and_trained_without_a_network(images):
    plan = containers.run_once(TRAINER, "trainer", "plan", "digits-increase-batch")
    assert "1,140 updates, 34,560 samples" in plan
    train = ["trainer", "train", "digits-increase-batch", "schedule.epochs=2"]
    said = containers.run_once(TRAINER, *train, options=["--env", "OMP_NUM_THREADS=1"])
    assert re.search(r"epoch +2/2 .* top-1", said), said


def test_two_hosts_train_and_one_that_is_stopped_lets_the_run_be_saved(hosts, request):
    hosts.launch(*train(*_HOROVODRUN))
    hosts.wait_for_epoch(3)
    seconds, code = containers.stop(hosts.workers[1])
    assert code == 0, containers.said(hosts.workers[1])
    containers.wait(hosts.launcher)
    stopped = hosts.log()
    assert stopped.status == "PAUSED", containers.said(hosts.launcher)
    assert 3 <= len(stopped.epochs) < _EPOCHS
    report(request, f"podman stop of a worker: saved in {seconds:.1f} s, after {len(stopped.epochs)} epochs")

    hosts.start_workers()
    hosts.launch(*train(*_HOROVODRUN))
    assert containers.wait(hosts.launcher) == 0, containers.said(hosts.launcher)
    ended = hosts.log()
    assert (ended.status, [epoch.epoch for epoch in ended.epochs]) == ("FINISHED", list(range(1, _EPOCHS + 1)))
    report(request, f"resumed and finished: top1 {ended.epochs[-1].metrics['val/top1']:.4f}")


def test_a_launcher_that_is_stopped_lets_the_run_be_saved(hosts, request):
    """ssh passes no signal on: the workers' own ssh-worker notices."""
    hosts.launch(*train(*_HOROVODRUN))
    hosts.wait_for_epoch(3)
    seconds, _ = containers.stop(hosts.launcher)
    wait_until(lambda: hosts.log().status != "RUNNING", 60, lambda: containers.said(hosts.workers[0]))
    stopped = hosts.log()
    assert stopped.status == "PAUSED", containers.said(hosts.workers[0])
    report(request, f"podman stop of the launcher: ended in {seconds:.1f} s, saved after {len(stopped.epochs)} epochs")

    hosts.launch(*train(*_HOROVODRUN))
    assert containers.wait(hosts.launcher) == 0, containers.said(hosts.launcher)
    assert hosts.log().status == "FINISHED"


def test_mpirun_reaches_the_hosts_too(hosts):
    hosts.launch(*train("mpirun", "--bind-to", "none", "-x", "PATH", epochs=1))
    assert containers.wait(hosts.launcher) == 0, containers.said(hosts.launcher)
    ended = hosts.log()
    assert (ended.status, len(ended.epochs)) == ("FINISHED", 1)


def test_a_worker_is_healthy_while_its_sshd_answers(hosts):
    worker = hosts.workers[0]
    wait_until(lambda: is_healthy(worker), 20, lambda: containers.said(worker))
    stop = "kill -STOP $(grep -l '^sshd' /proc/[0-9]*/comm | cut -d/ -f3)"
    containers.podman("exec", worker, "sh", "-c", stop)
    assert not is_healthy(worker)


def is_healthy(name: str) -> bool:
    """What the image's own health check says."""
    return containers.podman("healthcheck", "run", name, check=False).returncode == 0


def test_the_server_answers_and_stops_when_told(images, request):
    name = f"lbt{secrets.token_hex(3)}-mlflow"
    try:
        started = time.monotonic()
        containers.start(name, MLFLOW, options=["--network", "none"])
        wait_until(lambda: is_healthy(name), 120, lambda: containers.said(name))
        seconds = time.monotonic() - started
        ended_s, _ = containers.stop(name)
        report(request, f"MLflow: answers /health after {seconds:.1f} s, stops in {ended_s:.1f} s")
        assert ended_s < 30, containers.said(name)
    finally:
        containers.remove(name)
