"""How a run is saved: whole or not there, so many of them, while it goes on, on a disk that may be full."""

from __future__ import annotations

import contextlib
import os
import resource

import pytest
import torch

from tests.saved_runs import STANDING, assert_equal, network_and_optimizer, newest, save, write
from trainer.collective.local import LocalCollective
from trainer.engine.checkpoint import newest_checkpoint, restore
from trainer.engine.errors import CheckpointError
from trainer.engine.run_state import EpochPart, RunState, Standing
from trainer.engine.saving import CheckpointWriter, SavingPlan
from trainer.engine.tensors import to_bytes
from trainer.engine.weights import write_weights

pytestmark = pytest.mark.unit


def checkpoints(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_newest_are_kept_and_what_is_not_ours_is_left_alone(tmp_path):
    folder = tmp_path / "checkpoints"
    for samples_seen in (480, 960, 1440, 10080):  # 10080 comes before 960 where names are compared
        save(folder, samples_seen)
        (folder / "notes").mkdir(exist_ok=True)
    assert newest(folder).standing.state.samples_seen == 10080
    assert checkpoints(folder) == ["10080", "1440", "notes"]
    save(folder, 11520, keep=1)
    assert checkpoints(folder) == ["11520", "notes"]
    assert checkpoints(folder / "11520") == ["SHA256SUMS", "model.pt", "optimizer.pt", "state.json"]


def test_the_best_is_kept_and_linked(tmp_path):
    for epoch, top1 in enumerate([0.5, 0.7, 0.9, 0.9, 0.8, 0.1], 1):
        save(tmp_path, 1440 * epoch, keep=1, top1=top1)
    assert checkpoints(tmp_path) == ["4320", "8640", "best"]  # the first of equals
    assert os.readlink(tmp_path / "best") == "4320"
    # what is within an epoch has the last one's accuracy, and its own was not measured
    save(tmp_path, 9000, keep=1, top1=0.99, part=EpochPart(1, 360, 2.0, 1.0))
    assert checkpoints(tmp_path) == ["4320", "9000", "best"]
    save(tmp_path, 10080, keep=1, top1=0.95)
    assert checkpoints(tmp_path) == ["10080", "best"]
    assert newest(tmp_path / "best" / "..").path.name == "10080"


def test_damaged_ones_further_on_cost_no_checkpoint_of_the_run_that_goes_on(tmp_path):
    for samples_seen in (1440, 2880, 4320):
        save(tmp_path, samples_seen, keep=3)
    for name in ("2880", "4320"):
        (tmp_path / name / "model.pt").write_bytes(b"")
    save(tmp_path, 2000, keep=1)
    assert newest_checkpoint(tmp_path, lambda damage: None).path.name == "2000"
    save(tmp_path, 5000, keep=1)
    assert checkpoints(tmp_path) == ["5000"]


def test_a_save_that_was_killed_is_not_seen_and_cleared_away_later(tmp_path):
    folder = tmp_path / "checkpoints"
    save(folder, 1440)
    for left in (f".2880.{os.getpid()}", ".2880.1", ".960.1.old"):
        (folder / left).mkdir()
        (folder / left / "model.pt").write_bytes(b"half")
    (folder / ".best.7").symlink_to("960")
    (tmp_path / ".checkpoints.weights.pt.7").write_bytes(b"half")
    for place in (tmp_path, folder):
        (place / ".nfs0000.1").write_text("a file system's own")
    assert newest(folder).path.name == "1440"
    save(folder, 2880)
    assert checkpoints(folder) == [".nfs0000.1", "1440", "2880"]
    assert checkpoints(tmp_path) == [".nfs0000.1", "checkpoints", "checkpoints.weights.pt"]


def test_what_a_thread_could_not_write_is_said_at_the_next_occasion(tmp_path):
    (tmp_path / "checkpoints").write_text("a file")
    writer = CheckpointWriter(tmp_path / "checkpoints", tmp_path / "weights.pt", {}, SavingPlan(every_minutes=None))
    model, optimizer = network_and_optimizer()
    writer.save(STANDING, model, optimizer, {})
    writer.close()
    assert writer.is_due()
    with pytest.raises(CheckpointError, match="2880: cannot write the checkpoint"):
        writer.save(STANDING, model, optimizer, {})
    assert not writer.is_due()
    writer.finish()


def test_a_checkpoint_is_of_the_moment_in_which_it_was_made(tmp_path):
    """The network goes on to learn while the thread writes."""
    model, optimizer = network_and_optimizer(updates=1)
    writer = CheckpointWriter(tmp_path / "checkpoints", tmp_path / "weights.pt", {}, SavingPlan())
    then = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    averaged = {name: torch.full_like(tensor, 7.0) for name, tensor in then.items() if name.endswith("running_mean")}
    assert averaged
    writer.save(STANDING, model, optimizer, averaged)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.zero_()
    writer.finish()
    other, other_optimizer = network_and_optimizer(seed=3)
    restore(newest(tmp_path / "checkpoints"), other, other_optimizer, LocalCollective())
    assert_equal({**then, **averaged}, other.state_dict())
    assert_equal({**then, **averaged}, torch.load(tmp_path / "weights.pt", weights_only=True))


def test_the_same_place_can_be_saved_again(tmp_path):
    save(tmp_path, seed=1)
    model, _ = save(tmp_path, seed=2)
    other_model, other_optimizer = network_and_optimizer()
    restore(newest(tmp_path), other_model, other_optimizer, LocalCollective())
    assert_equal(model.state_dict(), other_model.state_dict())


@contextlib.contextmanager
def full_disk(free_bytes):
    """No file may grow beyond that."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (free_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("free_bytes", [0, 3000, 150_000])  # fails at the state, the network (100 kB), the optimizer
def test_a_checkpoint_that_cannot_be_written_is_named_and_the_old_one_stays(tmp_path, free_bytes):
    save(tmp_path, 1440)
    before = {path: path.read_bytes() for path in (tmp_path / "1440").iterdir()}
    model, optimizer = network_and_optimizer("adam", updates=1)  # two moments: twice as big as the network
    with (
        full_disk(free_bytes),
        pytest.raises(CheckpointError, match=r"2880: cannot write the checkpoint \(File too large\)"),
    ):
        write(tmp_path, Standing(RunState(2880)), model, optimizer)
    assert [path.name for path in tmp_path.iterdir()] == ["1440"]
    assert {path: path.read_bytes() for path in (tmp_path / "1440").iterdir()} == before


def test_a_place_that_is_no_folder_is_named(tmp_path):
    (tmp_path / "checkpoints").write_text("a file")
    with pytest.raises(CheckpointError, match=r"checkpoints/2880: cannot write the checkpoint \(.*\): make room"):
        save(tmp_path / "checkpoints")


def test_weights_are_replaced_whole_or_not_at_all(tmp_path):
    model, _ = network_and_optimizer()
    path = tmp_path / "weights.pt"
    write_weights(path, to_bytes(model.state_dict()))
    old = path.read_bytes()
    with (
        full_disk(3000),
        pytest.raises(CheckpointError, match=r"weights\.pt: cannot write the weights \(File too large\)"),
    ):
        write_weights(path, to_bytes(model.state_dict()))
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]
    assert_equal(model.state_dict(), torch.load(path, weights_only=True))
