"""Workers that stand still in real jobs: named with their place within the set time, and nothing of the job is left.

Seconds are those of the tests alone; a run has minutes.
"""

from __future__ import annotations

import os
import signal

import pytest

from tests.elastic_fleets import HOSTS, Hosts, horovod_fleet
from tests.fleet_runs import THREE_EPOCHS
from tests.launching import REPOSITORY, launch_prefix, needs_horovod
from tests.live_runs import LiveRun
from tests.sleepy_worker import LAST_UPDATE
from trainer.tracking import FAILED, FINISHED, KILLED

pytestmark = pytest.mark.integration

LIMIT_S = 6  # above what a busy machine takes for a first update
TRAIN = ["train", "digits-decay-lr", "schedule.epochs=100", "tracking.mlflow=off", f"hang_timeout_s={LIMIT_S}"]


def assert_ends(job):
    """The launcher ends by itself, badly, and nothing outlives it."""
    assert job.wait(100) != 0  # launchers have a SIGKILL of their own after up to a minute
    job.wait_until(lambda: not job.pids(), 10)


def the_line(job):
    """What was said of the hang, once."""
    (line,) = [line for line in job.said().splitlines() if "nothing moved" in line]
    return line[line.index("trainer: ") + len("trainer: ") :]


@pytest.mark.parametrize(
    ("launcher", "frozen"),
    [
        pytest.param("torchrun", 0, marks=pytest.mark.long),
        ("torchrun", 1),
        pytest.param("horovodrun", 1, marks=needs_horovod),
    ],
)
def test_a_frozen_worker_is_named_and_the_whole_job_ends(tmp_path, launcher, frozen):
    with LiveRun(tmp_path, launcher, 2, TRAIN) as job:
        job.wait_until(job.epochs, 120)
        os.kill(job.worker(frozen), signal.SIGSTOP)
        assert_ends(job)
        line, log = the_line(job), job.log()
    assert line.startswith(
        f"nothing moved for {LIMIT_S} s (hang_timeout_s): rank {frozen} does not answer (stopped, or the host or the "
        f"network is lost); rank {1 - frozen} waits, "
    )
    assert " in epoch " in line or " in the evaluation after epoch " in line
    # Rank 0 keeps the record; a frozen one writes nothing, and its end shows by the journal's.
    unclosed = KILLED, "the journal ends without a closing record: the process died"
    assert (log.status, log.error) == (unclosed if frozen == 0 else (FAILED, line))


@pytest.mark.parametrize(
    "launcher", [pytest.param("torchrun", marks=pytest.mark.long), pytest.param("horovodrun", marks=needs_horovod)]
)
def test_a_slow_worker_is_waited_for_and_one_that_sleeps_for_good_is_named_with_its_place(tmp_path, launcher):
    # Two naps are longer than the limit, each is within it.
    worker, naps = str(REPOSITORY / "tests" / "sleepy_worker.py"), {"NAP_S": str(0.6 * LIMIT_S)}
    with LiveRun(tmp_path, launcher, 2, TRAIN, prefix=[*launch_prefix(launcher, 2), worker], env=naps) as job:
        assert_ends(job)
        line, log = the_line(job), job.log()
    place = f"epoch 0, update {LAST_UPDATE}"
    assert line == (
        f"nothing moved for {LIMIT_S} s (hang_timeout_s): rank 1 stands still, reading images in {place}; rank 0 "
        f"waits, adding up gradients in {place}"
    )
    assert (log.status, log.error) == (FAILED, line)
    assert "trainer: rank 1 stands here:" in job.said()
    assert "time.sleep(1000)" in job.said()


@pytest.mark.long
@needs_horovod
def test_an_elastic_fleet_goes_on_without_a_frozen_worker(tmp_path):
    arguments = ["train", *THREE_EPOCHS, "tracking.mlflow=off", "--resume", "auto", f"hang_timeout_s={LIMIT_S}"]
    with horovod_fleet(tmp_path / "runs", Hosts(tmp_path, HOSTS), 2, arguments) as job:
        job.wait_until(lambda: any(job.output.glob("*/checkpoints/[0-9]*")), 120)
        os.kill(job.worker(1), signal.SIGSTOP)
        assert job.wait() == 0, job.said()[-3000:]
        job.wait_until(lambda: not job.pids(), 10)
        assert the_line(job).startswith(f"nothing moved for {LIMIT_S} s (hang_timeout_s): rank 1 does not answer")
        log = job.log()
    workers = [event.fields["plan"]["world_size"] for event in log.events if event.kind == "decision"]
    assert (log.status, len(log.epochs), workers[0], workers[-1]) == (FINISHED, 3, 2, 1)
