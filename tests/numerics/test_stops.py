"""A run that is stopped anywhere, by any worker, is saved there and ends as if nothing had happened."""

from __future__ import annotations

import itertools
import random
import time
from dataclasses import replace

import pytest
import torch

from tests.digits_jobs import SCHEDULE, Curves, StopAt, assert_same_tensors, job_of, timeless
from tests.fleet_in_threads import run_fleet
from trainer.engine.checkpoint import checkpoints_in, newest_checkpoint, read_checkpoint
from trainer.engine.run_state import epoch_ahead
from trainer.engine.saving import SavingPlan
from trainer.engine.train import train
from trainer.rule import Fleet

pytestmark = pytest.mark.numerics

EPOCH_OF_32 = 45  # updates in the first epoch, the batch of which is 32
BATCHES_OF_AN_EVALUATION = 4  # 357 images in batches of 96


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """One worker from the first update to the last."""
    job = job_of(tmp_path_factory.mktemp("whole"), curves := Curves(), dtype=torch.float64)
    state, _ = train(job)
    return job, curves.metrics, timeless(state)


def standing(folder):
    return newest_checkpoint(folder, pytest.fail).standing


# Votes are held before an epoch, and beside each update and each batch of the evaluation.
@pytest.mark.parametrize(
    ("vote", "samples_seen", "trained"),
    [
        (0, 0, None),  # before the first update
        (1, 32, 1),  # in the first update
        (EPOCH_OF_32, EPOCH_OF_32 * 32, EPOCH_OF_32),  # in the epoch's last
        (EPOCH_OF_32 + 1, EPOCH_OF_32 * 32, EPOCH_OF_32),  # in the evaluation's first batch
        (EPOCH_OF_32 + BATCHES_OF_AN_EVALUATION, EPOCH_OF_32 * 32, EPOCH_OF_32),  # in its last
        (EPOCH_OF_32 + BATCHES_OF_AN_EVALUATION + 1, EPOCH_OF_32 * 32, None),  # between two epochs
    ],
)
def test_a_stop_is_saved_where_it_was_agreed_on(tmp_path, vote, samples_seen, trained):
    state, _ = train(job_of(tmp_path, Curves(), wants_stop=StopAt(vote)))
    assert epoch_ahead(SCHEDULE, Fleet.of(1), state) is not None
    assert standing(tmp_path).state == state
    assert state.samples_seen == samples_seen
    assert (None if state.part is None else state.part.updates) == trained
    assert state.next_epoch == (1 if vote == EPOCH_OF_32 + BATCHES_OF_AN_EVALUATION + 1 else 0)


@pytest.mark.parametrize("seed", range(3))
def test_one_worker_stopped_again_and_again_ends_with_the_same_bits(tmp_path, whole, seed):
    random.seed(seed)
    merged, parts = {}, 0
    while True:
        # Now and then in the vote that stops at once: then nothing is done, and nothing lost.
        job = job_of(tmp_path, curves := Curves(), dtype=torch.float64, wants_stop=StopAt(random.randrange(50)))
        state, _ = train(job)
        merged |= curves.metrics
        parts += 1
        if epoch_ahead(SCHEDULE, Fleet.of(1), state) is None:
            break
    whole_job, metrics, end = whole
    assert parts >= 3
    assert merged == metrics
    assert timeless(state) == end
    assert_same_tensors(whole_job.model.state_dict(), job.model.state_dict())


def test_other_fleets_take_it_up_in_the_middle_of_an_epoch(tmp_path, whole):
    """2 workers, then 1, then 4, each stopped by one of them, the last not at all."""
    merged, ends = {}, []

    def go_on(collective):
        last = collective.world_size - 1
        stop = StopAt(30 if collective.rank == last and collective.world_size < 4 else 10**9)
        job = job_of(tmp_path, curves := Curves(), dtype=torch.float64, collective=collective, wants_stop=stop)
        state, _ = train(job)
        if collective.rank == 0:
            merged.update(curves.metrics)
            ends.append((state, job.model.state_dict()))

    for workers in (2, 1, 4):
        run_fleet(workers, go_on)
    (first, _), (second, _), (third, tensors) = ends
    assert (first.part.updates, second.next_epoch) == (30, 1)
    assert third.samples_seen == whole[2].samples_seen
    assert sorted(merged) == [1, 2, 3, 4, 5]
    for epoch, values in merged.items():
        cut = {key: values[key] for key in ("batch/micro", "batch/accumulation_steps")}
        assert values == pytest.approx({**whole[1][epoch], **cut}, rel=1e-6), epoch  # losses are added up in float32
    for name, tensor in whole[0].model.state_dict().items():
        torch.testing.assert_close(tensors[name], tensor, rtol=1e-12, atol=1e-12, msg=name)


def test_a_clock_that_jumps_moves_nothing(tmp_path, whole, monkeypatch):
    """The host's time goes back by a day whenever somebody asks for it."""
    days = itertools.count()
    monkeypatch.setattr(time, "time", lambda: 1.7e9 - 86400 * next(days))
    began = time.monotonic()

    class Timed(Curves):
        def log(self, epoch, metrics):
            super().log(epoch, metrics)
            shown.append(metrics["elapsed_s"])

    shown = []
    state, clock = train(job_of(tmp_path, timed := Timed(), dtype=torch.float64))
    assert shown == sorted(shown)
    assert 0 < state.target.elapsed_s <= shown[0] + 1e-6 < clock.elapsed() <= time.monotonic() - began
    assert timed.metrics == whole[1]


def test_all_workers_stop_in_the_same_place_whoever_is_asked(tmp_path):
    def stop(collective):
        wants_stop = StopAt(7 if collective.rank == 2 else 10**9)
        return train(job_of(tmp_path, Curves(), collective=collective, wants_stop=wants_stop))[0].samples_seen

    assert run_fleet(3, stop) == [7 * 30] * 3  # three workers share 30 of 32


def test_a_run_is_saved_within_an_epoch_when_its_time_has_come(tmp_path, whole):
    """Killed in the second epoch, it goes on from within it."""

    class Killed(Curves):
        def log(self, epoch, metrics):
            if epoch == 2:
                raise KeyboardInterrupt
            super().log(epoch, metrics)

    always = SavingPlan(every_minutes=1e-9, keep=3)
    with pytest.raises(KeyboardInterrupt):
        train(job_of(tmp_path, first := Killed(), dtype=torch.float64, saving=always))
    state = standing(tmp_path).state
    assert state.next_epoch == 1
    assert state.part.updates == 14  # of fifteen: after the last the evaluation comes, and then what is saved anyway
    assert len(checkpoints_in(tmp_path)) == 4  # three, and the best
    job = job_of(tmp_path, second := Curves(), dtype=torch.float64)
    train(job)
    assert first.metrics | second.metrics == whole[1]
    assert_same_tensors(whole[0].model.state_dict(), job.model.state_dict())


def test_a_run_saved_every_other_epoch_is_saved_at_its_end_too(tmp_path):
    saved = []

    class Watching(Curves):
        def log(self, epoch, metrics):
            super().log(epoch, metrics)
            saved.append([path.name for path in checkpoints_in(tmp_path)])

    train(job_of(tmp_path, Watching(), saving=SavingPlan(every_epochs=2, every_minutes=None, keep=9)))
    assert saved[0] == saved[1] == []
    assert len(saved[3]) == 1
    assert [read_checkpoint(path).standing.state.next_epoch for path in checkpoints_in(tmp_path)] == [5, 4, 2]


def test_fast_updates_share_a_vote_and_a_stop_is_still_agreed_on_by_all(tmp_path):
    """Updates of milliseconds, a vote a second: all ranks leave out the same ones."""
    votes = []

    def stop(collective):
        asked = StopAt(3 if collective.rank == 1 else 10**9)
        job = replace(job_of(tmp_path, Curves(), collective=collective, wants_stop=asked), between_votes_s=1.0)
        state, _ = train(job)
        votes.append(asked.votes)
        return state.samples_seen, state.updates

    ends = run_fleet(2, stop)
    assert len(set(ends)) == len(set(votes)) == 1
    (_, updates), *_ = ends
    assert votes[0] == 4
    assert updates > 3  # more than votes were held beside them
