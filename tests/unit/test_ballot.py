"""How often workers vote: slow places have a vote each, fast ones share it, also where the pace changes."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest

from tests.fleet_in_threads import run_fleet
from trainer.collective.local import LocalCollective
from trainer.engine import ballot as under_test
from trainer.engine.ballot import Ballot, StopAgreed

pytestmark = pytest.mark.unit


class Places:
    """A ballot of one worker on a clock of its own; notes at which places it was asked for its vote."""

    def __init__(self, monkeypatch, stops_at=10**9):
        self.now, self.place, self.votes, self.stops_at = 100.0, 0, [], stops_at
        monkeypatch.setattr(under_test, "time", SimpleNamespace(monotonic=lambda: self.now))
        self.ballot = Ballot(LocalCollective(), self._wants_stop, between_votes_s=0.1)

    def _wants_stop(self):
        self.votes.append(self.place)
        return self.place >= self.stops_at

    def updates(self, number, each_s):
        """Most of an update lies before its vote, which goes beside the last backward. Returns whether it stopped."""
        for _ in range(number):
            self.place += 1
            self.now += 0.8 * each_s
            self.ballot.cast()
            self.now += 0.2 * each_s
            if self.ballot.count().stop:
                return True
        return False

    def images(self, number, each_s):
        """Batches of an evaluation."""
        for _ in range(number):
            self.place += 1
            yield self.place
            self.now += each_s


def test_every_slow_update_has_a_vote(monkeypatch):
    places = Places(monkeypatch)
    places.updates(20, 0.5)
    assert places.votes == list(range(1, 21))


def test_fast_updates_have_a_vote_about_as_often_as_was_asked_for(monkeypatch):
    places = Places(monkeypatch)
    places.updates(1000, 0.01)
    assert 80 <= len(places.votes) <= 110


@pytest.mark.parametrize("each_s", [1e-4, 0.0])
def test_however_fast_updates_are_some_have_a_vote(monkeypatch, each_s):
    places = Places(monkeypatch)
    places.updates(1000, each_s)
    assert max(b - a for a, b in itertools.pairwise([0, *places.votes])) == 51


@pytest.mark.parametrize("stops_at", range(1, 8))
@pytest.mark.parametrize("before", [0, 200])
def test_a_stop_between_epochs_is_heard_at_once_however_soon_the_next_update_comes(monkeypatch, before, stops_at):
    places = Places(monkeypatch, before + stops_at)
    places.updates(before, 0.001)
    places.ballot.held()
    places.now += 0.002  # the decision, and images that were there already
    assert places.updates(1, 0.0) or places.updates(50, 2.0)
    assert places.place == before + stops_at


def test_a_vote_by_itself_is_held_also_where_the_next_one_was_to_be_later(monkeypatch):
    places = Places(monkeypatch, stops_at=201)
    places.updates(200, 0.001)
    places.place += 1
    assert places.ballot.held().stop


def test_updates_that_are_only_queued_at_first_do_not_put_off_votes_for_long(monkeypatch):
    """A GPU's host is held up from the fourth update on."""
    places = Places(monkeypatch)
    places.ballot.held()
    places.updates(3, 0.001)
    places.updates(50, 2.0)
    assert places.votes == [0, 1, 2, *range(4, 54)]


def test_an_evaluation_does_not_go_by_the_pace_of_updates(monkeypatch):
    places = Places(monkeypatch, stops_at=201)
    places.updates(200, 0.001)
    with pytest.raises(StopAgreed):
        list(places.ballot.paced(places.images(50, 2.0), 50))
    assert places.place == 202, "the first is voted on before it is there"


def test_all_workers_vote_at_the_same_places_and_only_the_pace_of_the_first_counts():
    """A fleet that voted at different places would wait for ever."""

    def work(collective):
        place, asked = 0, []
        ballot = Ballot(collective, lambda: bool(asked.append(place)), between_votes_s=1e9)
        ballot.held()
        for place in range(1, 200):  # noqa: B007
            ballot.cast()
            ballot.count()
        return asked

    assert run_fleet(2, work) == [[0, 1, 2, 4, 8, 16, 32, 64, 115, 166]] * 2
