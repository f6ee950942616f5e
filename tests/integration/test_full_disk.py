"""A disk that fills up in the middle of a run: it says so, nothing saved is touched, and with more room it goes on."""

from __future__ import annotations

import os
import re
import subprocess

import pytest

from tests.kills import RUN, difference, finish
from tests.kills import Fleet as Workers
from tests.launching import run_trainer
from trainer.engine.checkpoint import checkpoints_in, newest_checkpoint
from trainer.tracking import FAILED, journals_in, read_journal

pytestmark = pytest.mark.integration


@pytest.fixture
def small_disk(tmp_path):
    """A file system of so little room that three checkpoints do not fit."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(disk)], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"this user may not mount a file system: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_disk_that_is_full_stops_the_run_and_costs_nothing(small_disk, tmp_path):
    keep_all = ["checkpoints.keep=99", "checkpoints.every_minutes=null"]
    full = run_trainer(*RUN, *keep_all, f"output={small_disk}", workers=1)
    assert full.returncode == 1, full.stdout + full.stderr
    assert re.search(
        r"trainer: .*: cannot write the (checkpoint|weights) \(No space left on device\): make room", full.stderr
    )
    assert "Traceback" not in full.stderr
    (journal,) = journals_in(small_disk)
    assert read_journal(journal).status == FAILED
    assert "No space left" in read_journal(journal).error
    saved = newest_checkpoint(journal.parent / "checkpoints", pytest.fail)
    assert len(checkpoints_in(journal.parent / "checkpoints")) < 3
    assert saved.standing.state.next_epoch > 0
    assert [name for name in os.listdir(journal.parent / "checkpoints") if name.startswith(".")] == []

    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    ended = run_trainer(*RUN, *keep_all, f"output={small_disk}")
    assert ended.returncode == 0, ended.stderr
    untouched, _, _ = finish(tmp_path / "untouched", Workers("alone", 1))
    assert difference(read_journal(journal), untouched) == 0.0
