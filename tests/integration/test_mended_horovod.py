"""What the mends of Horovod are for, seen in real jobs: a stalled worker is named and ended, a stopped one may save.

A stock build fails both, so they are skipped there: the service works on one, without these two protections.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import pytest

from tests.launching import worker_environment

BUILD = metadata.version("horovod") if importlib.util.find_spec("horovod") else "no Horovod"

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif("+mended" not in BUILD, reason=f"needs the Horovod that make setup builds; here: {BUILD}"),
]

STALLS = """
import sys, time
import horovod.torch as hvd, torch
hvd.init()
hvd.allreduce(torch.ones(1), name="both")
print("started", hvd.rank(), flush=True)
if hvd.rank() == 1:
    time.sleep(100)
hvd.allreduce(torch.ones(1), name="one")
"""

SAVES_FOR_EIGHT_SECONDS = """
import pathlib, signal, sys, time
def save(*_):
    time.sleep(8)
    pathlib.Path(sys.argv[1], "saved").touch()
    raise SystemExit(0)
signal.signal(signal.SIGTERM, save)
pathlib.Path(sys.argv[1], "training").touch()
while True:
    time.sleep(0.1)
"""


def horovodrun(workers: int, script: Path, *arguments: str | Path, **variables: str) -> subprocess.Popen[str]:
    command = ["horovodrun", "-np", str(workers), sys.executable, script, *arguments]
    return subprocess.Popen(
        [str(word) for word in command],
        env=worker_environment() | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def test_a_worker_that_stalls_is_named_and_the_job_ends_within_the_set_seconds(tmp_path):
    script = tmp_path / "stalls.py"
    script.write_text(STALLS)
    job = horovodrun(2, script, HOROVOD_STALL_CHECK_TIME_SECONDS="2", HOROVOD_STALL_SHUTDOWN_TIME_SECONDS="4")
    started = time.monotonic()
    try:
        said, _ = job.communicate(timeout=90)
    except subprocess.TimeoutExpired:
        os.killpg(job.pid, signal.SIGKILL)
        raise AssertionError(f"the job hangs:\n{job.communicate()[0]}") from None
    assert "started 0" in said
    assert "started 1" in said
    assert "1!: [allreduce.one]" in said, f"rank 1 and the tensor that it owes are named in:\n{said}"
    assert job.returncode != 0
    # 4 s until the shutdown is due, up to 2 s until the next check; the rest is for starting two processes.
    assert time.monotonic() - started < 60


def test_a_worker_has_more_than_five_seconds_to_save_when_the_job_is_stopped(tmp_path):
    script = tmp_path / "saves.py"
    script.write_text(SAVES_FOR_EIGHT_SECONDS)
    job = horovodrun(1, script, tmp_path)
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "training").exists():
            assert time.monotonic() < deadline, "the worker did not start within a minute"
            time.sleep(0.1)
        job.terminate()
        job.communicate(timeout=60)
    finally:
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)
    assert (tmp_path / "saved").exists()


JOINS_NOBODY = """
import horovod.torch as hvd
try:
    hvd.init()
except ValueError as error:
    print(error)
    hvd.shutdown()
"""
NOBODY_THERE = {
    "HOROVOD_RANK": "0", "HOROVOD_SIZE": "2", "HOROVOD_LOCAL_RANK": "0", "HOROVOD_LOCAL_SIZE": "1",
    "HOROVOD_CROSS_RANK": "0", "HOROVOD_CROSS_SIZE": "2", "HOROVOD_HOSTNAME": "localhost", "HOROVOD_GLOO_IFACE": "lo",
    "HOROVOD_CONTROLLER": "gloo", "HOROVOD_CPU_OPERATIONS": "gloo",
    "HOROVOD_GLOO_RENDEZVOUS_ADDR": "127.0.0.1", "HOROVOD_GLOO_RENDEZVOUS_PORT": "9",
}  # fmt: skip


def test_a_fleet_that_does_not_come_together_is_an_error_and_no_abort():
    alone = subprocess.run(
        [sys.executable, "-c", JOINS_NOBODY], env=worker_environment() | NOBODY_THERE, capture_output=True, text=True,
        timeout=90, check=False,
    )  # fmt: skip
    assert alone.returncode == 0, alone.stderr
    assert "Horovod initialization failed" in alone.stdout
