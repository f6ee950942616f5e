"""What is kept of a run: whole or not there, the same when it comes back, refused when it is damaged."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import resource

import pytest
import torch
from torch import nn

from tests.fleet_in_threads import run_fleet
from trainer.collective.agreement import WorkerError
from trainer.collective.local import LocalCollective
from trainer.engine.checkpoint import newest_checkpoint, restore
from trainer.engine.errors import CheckpointError
from trainer.engine.optimizer import build_optimizer
from trainer.engine.run_state import EpochPart, RunState, Standing, TargetReached
from trainer.engine.saving import CheckpointWriter, SavingPlan
from trainer.engine.tensors import to_bytes
from trainer.engine.weights import write_weights
from trainer.models import build_model

pytestmark = pytest.mark.unit

IDENTITY = {"seed": "1", "data": "digest"}
TARGET = TargetReached(elapsed_s=0.1 + 0.2, train_s=1 / 3, updates=7, epochs=0.7)
STANDING = Standing(RunState(2880, 180, 2, 0.9, 1 / 3, TARGET), {"train": 1.1, "data_wait": 0.1}, 1e-7)


def network_and_optimizer(name="momentum", updates=0, seed=0):
    """A network with batch norm, and an optimizer that has stepped."""
    torch.manual_seed(seed)
    model = build_model("small-convnet", 10, ghost_batch=4)
    optimizer = build_optimizer(name, model, lr=0.1, momentum=0.9, weight_decay=1e-4)
    for _ in range(updates):
        loss = nn.functional.cross_entropy(model(torch.randn(8, 3, 8, 8)), torch.randint(0, 10, (8,)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model, optimizer


def write(folder, standing, model, optimizer, keep=2):
    """A checkpoint in the folder, and the weights beside the folder."""
    weights = folder.parent / f"{folder.name}.weights.pt"
    writer = CheckpointWriter(folder, weights, IDENTITY, SavingPlan(keep=keep))
    writer.save(standing, model, optimizer, {})
    writer.finish()


def newest(folder):
    """The newest checkpoint, of those that are whole without exception."""
    return newest_checkpoint(folder, pytest.fail)


def save(folder, samples_seen=2880, keep=2, top1=None, part=None, **options):
    """A checkpoint, after an epoch that was evaluated so; returns the network and the optimizer that were saved."""
    model, optimizer = network_and_optimizer(updates=2, **options)
    state = RunState(samples_seen=samples_seen, next_epoch=0 if top1 is None else 1, last_top1=top1 or 0.0, part=part)
    standing = Standing(state, {}, 0.0)
    write(folder, standing, model, optimizer, keep)
    return model, optimizer


def assert_equal(saved, restored):
    """Two state dicts, to the bit."""
    if isinstance(saved, torch.Tensor):
        assert torch.equal(saved, restored)
    elif isinstance(saved, dict):
        assert saved.keys() == restored.keys()
        for key in saved:
            assert_equal(saved[key], restored[key])
    elif isinstance(saved, (list, tuple)):
        assert len(saved) == len(restored)
        for one, other in zip(saved, restored, strict=True):
            assert_equal(one, other)
    else:
        assert saved == restored


@pytest.mark.parametrize("name", ["momentum", "nesterov", "adam", "adamw", "lars"])
def test_network_and_optimizer_come_back_to_the_bit(tmp_path, name):
    model, optimizer = network_and_optimizer(name, updates=3)
    write(tmp_path, STANDING, model, optimizer)
    other_model, other_optimizer = network_and_optimizer(name, seed=9)
    restore(newest(tmp_path), other_model, other_optimizer, LocalCollective())
    assert_equal(model.state_dict(), other_model.state_dict())
    assert_equal(optimizer.state_dict(), other_optimizer.state_dict())


def test_where_the_run_stands_comes_back_to_the_bit(tmp_path):
    write(tmp_path, STANDING, *network_and_optimizer())
    checkpoint = newest(tmp_path)
    assert checkpoint.standing == STANDING
    assert checkpoint.identity == IDENTITY


def test_a_run_without_a_target_comes_back_without_one(tmp_path):
    save(tmp_path)
    assert newest(tmp_path).standing.state == RunState(samples_seen=2880)


def test_the_state_of_every_workers_optimizer_is_rank_0s(tmp_path):
    _, saved = save(tmp_path)
    checkpoint = newest(tmp_path)

    def take_part(collective):
        model, optimizer = network_and_optimizer(seed=collective.rank)
        restore(checkpoint if collective.rank == 0 else None, model, optimizer, collective)
        return optimizer.state_dict()

    for state in run_fleet(3, take_part):
        assert_equal(saved.state_dict(), state)


def test_no_checkpoint_is_none(tmp_path):
    assert newest(tmp_path / "checkpoints") is None


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


def test_a_damaged_one_is_passed_over_for_the_one_before_it(tmp_path):
    for samples_seen in (1440, 2880, 4320):
        save(tmp_path, samples_seen, keep=3)
    for name, file in (("4320", "optimizer.pt"), ("2880", "state.json")):
        (tmp_path / name / file).write_bytes(b"")
    said = []
    assert newest_checkpoint(tmp_path, said.append).path.name == "1440"
    for line, file in zip(said, ("4320/optimizer.pt", "2880/state.json"), strict=True):
        assert line.endswith(
            f"{file}: is damaged (its SHA-256 is not the one in SHA256SUMS): going on from 1440 samples"
        )
    (tmp_path / "1440" / "SHA256SUMS").unlink()
    with pytest.raises(CheckpointError, match=r"4320/optimizer\.pt: is damaged .*: restore it"):
        newest_checkpoint(tmp_path, said.append)


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


def cut(content):
    return content[: len(content) // 2]


def one_bit(content):
    return content[:-20] + bytes([content[-20] ^ 1]) + content[-19:]


@pytest.mark.parametrize("name", ["state.json", "model.pt", "optimizer.pt", "SHA256SUMS"])
@pytest.mark.parametrize("damage", [cut, one_bit, None], ids=["cut off", "one bit", "missing"])
def test_a_damaged_checkpoint_is_refused_by_name(tmp_path, name, damage):
    save(tmp_path)
    path = tmp_path / "2880" / name
    content = path.read_bytes()
    path.unlink()
    if damage is not None:
        path.write_bytes(damage(content))
    model, optimizer = network_and_optimizer()
    with pytest.raises(ValueError, match=rf"2880/{'[a-zA-Z.0-9]+' if name == 'SHA256SUMS' else name}: ") as refused:
        restore(newest(tmp_path), model, optimizer, LocalCollective())
    assert isinstance(refused.value, (CheckpointError, WorkerError))
    assert "train anew without --resume" in str(refused.value)


def test_all_workers_hear_of_damage(tmp_path):
    save(tmp_path)
    checkpoint = newest(tmp_path)
    (tmp_path / "2880" / "model.pt").write_bytes(b"")

    def take_part(collective):
        model, optimizer = network_and_optimizer()
        with pytest.raises(WorkerError, match=r"2880/model\.pt: is damaged"):
            restore(checkpoint if collective.rank == 0 else None, model, optimizer, collective)
        return True

    assert all(run_fleet(3, take_part))


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    save(tmp_path)
    other = nn.Linear(3, 3)
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1)
    with pytest.raises(WorkerError, match=r"model\.pt: does not fit this network"):
        restore(newest(tmp_path), other, optimizer, LocalCollective())


def test_an_error_without_words_is_named_by_its_kind(tmp_path):
    save(tmp_path)
    model, optimizer = network_and_optimizer()
    optimizer.register_load_state_dict_pre_hook(fail_without_a_word)
    with pytest.raises(WorkerError, match=r"optimizer\.pt: does not fit this network and optimizer \(AssertionError\)"):
        restore(newest(tmp_path), model, optimizer, LocalCollective())


def fail_without_a_word(optimizer, state):
    raise AssertionError


def test_a_state_with_fields_of_another_version_is_refused(tmp_path):
    save(tmp_path)
    path = tmp_path / "2880" / "state.json"
    state = json.loads(path.read_text())
    state["standing"]["state"]["rewinds"] = 3
    path.write_text(json.dumps(state))
    rewrite_sums(path)
    with pytest.raises(CheckpointError, match=r"state\.json: is none that this version can read"):
        newest(tmp_path)


def test_nothing_but_tensors_and_plain_values_is_unpickled(tmp_path):
    save(tmp_path)
    path = tmp_path / "2880" / "model.pt"
    torch.save({"weight": Trap()}, path)
    rewrite_sums(path)
    model, optimizer = network_and_optimizer()
    with pytest.raises(WorkerError, match=r"model\.pt: does not fit"):
        restore(newest(tmp_path), model, optimizer, LocalCollective())
    assert not Trap.sprung


class Trap:
    """Runs code when it is unpickled."""

    sprung = False

    def __reduce__(self):
        return spring, ()


def spring():
    Trap.sprung = True


def rewrite_sums(path):
    """As if the file had been written like this."""
    sums = path.parent / "SHA256SUMS"
    others = [line for line in sums.read_text().splitlines() if not line.endswith(path.name)]
    sums.write_text("\n".join([*others, f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}"]) + "\n")


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
