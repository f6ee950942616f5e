"""ssh-worker with a real sshd: commands that a launcher sends must be told once to stop, by whatever comes first."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

from tests.launching import REPOSITORY
from tests.ssh_workers import SCRIPT, is_listening, ssh_worker
from tests.waiting import wait_until

pytestmark = pytest.mark.integration


def test_a_worker_that_is_told_to_stop_lets_its_trainer_save_and_passes_on_its_exit_code(tmp_path):
    with ssh_worker(tmp_path, {}) as worker:
        client = worker.start_trainer(seconds=1)
        worker.process.send_signal(signal.SIGTERM)
        assert client.wait(20) == 85
        assert worker.process.wait(20) == 0
        assert worker.has_saved()
        assert worker.signals_heard() == "1"


def test_a_connection_that_breaks_is_told_to_the_trainer(tmp_path):
    """The launcher's own end: ssh passes no signal on."""
    with ssh_worker(tmp_path, {}) as worker:
        client = worker.start_trainer(seconds=0)
        client.kill()
        client.wait()
        wait_until(worker.has_saved, 20, lambda: "the trainer has saved")
        assert worker.process.poll() is None


def test_a_trainer_that_is_saving_is_told_once_though_launcher_and_worker_end_one_after_the_other(tmp_path):
    with ssh_worker(tmp_path, {}) as worker:
        client = worker.start_trainer(seconds=2)
        client.terminate()
        client.wait()
        wait_until(lambda: worker.signals_heard() == "1", 20, lambda: "it is told")
        time.sleep(0.5)
        worker.process.send_signal(signal.SIGTERM)
        assert worker.process.wait(20) == 0
        assert worker.has_saved()
        assert worker.signals_heard() == "1"


def test_what_a_session_has_left_behind_is_told_too(tmp_path):
    """mpirun's daemon leaves its session, and so do its workers."""
    with ssh_worker(tmp_path, {}) as worker:
        client = worker.start_trainer(seconds=1, then="< /dev/null > /dev/null 2>&1 &")
        assert client.wait(20) == 0
        worker.process.send_signal(signal.SIGTERM)
        assert worker.process.wait(20) == 0
        assert worker.has_saved()
        assert worker.signals_heard() == "1"


def test_commands_have_the_environment_of_the_container_their_own_input_and_exit_code(tmp_path):
    with ssh_worker(tmp_path, {"OF_THE_POD": "one\ntwo = 3"}) as worker:
        command = 'read line; echo "$OF_THE_POD $line"; exit 7'
        ended = subprocess.run([*worker.ssh, command], input="four\n", capture_output=True, text=True, check=False)
        assert (ended.returncode, ended.stdout, ended.stderr) == (7, "one\ntwo = 3 four\n", "")


def test_a_shell_of_its_own_is_refused_in_one_line(tmp_path):
    with ssh_worker(tmp_path, {}) as worker:
        ended = subprocess.run([*worker.ssh], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        assert ended.returncode == 2
        assert "ssh-worker: no command was given" in ended.stderr


def test_a_worker_without_its_keys_says_so(tmp_path):
    config = tmp_path / "sshd_config"
    config.write_text((REPOSITORY / "docker" / "sshd_config").read_text().replace("/home/trainer", str(tmp_path)))
    command = [sys.executable, "-I", SCRIPT, "--config", config]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert ended.returncode != 0
    assert "no hostkeys available" in ended.stderr
    assert "ssh-worker: sshd cannot start: are the job's keys mounted" in ended.stderr


def test_a_worker_whose_port_is_taken_fails(tmp_path):
    with ssh_worker(tmp_path, {}) as worker:
        command = [sys.executable, "-I", SCRIPT, "--config", worker.folder / "sshd_config"]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
        assert ended.returncode != 0
        assert "ssh-worker: sshd ended with code" in ended.stderr


def test_probes_that_hang_up_leave_no_line(tmp_path):
    with ssh_worker(tmp_path, {}) as worker:
        for _ in range(3):
            assert is_listening(worker.port)
        time.sleep(0.3)
        assert (tmp_path / "ssh-worker.log").read_text() == ""
