"""What is kept of a run: the same when it comes back, refused when it is damaged."""

from __future__ import annotations

import hashlib
import json

import pytest
import torch
from torch import nn

from tests.fleet_in_threads import run_fleet
from tests.saved_runs import IDENTITY, STANDING, assert_equal, network_and_optimizer, newest, save, write
from trainer.collective.agreement import WorkerError
from trainer.collective.local import LocalCollective
from trainer.engine.checkpoint import newest_checkpoint, restore
from trainer.engine.errors import CheckpointError
from trainer.engine.run_state import RunState

pytestmark = pytest.mark.unit


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
