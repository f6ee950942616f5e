"""What workers tell each other of files that they could not read."""

from __future__ import annotations

import pytest

from dali_pipelines.unreadable import UnreadableFiles
from tests.fleet_in_threads import run_fleet
from trainer.collective.agreement import WorkerError
from trainer.engine.unreadable import SharedUnreadable

pytestmark = pytest.mark.unit

GONE = "No such file or directory"


class Events:
    """Keeps what is recorded."""

    def __init__(self):
        self.events = []

    def event(self, kind, fields):
        self.events.append((kind, fields))


def told(met_by_rank, at_most, rounds=1):
    """Each worker's (recorded events, warnings, error, whether there is still news) after so many rounds of telling."""

    def work(collective):
        own = UnreadableFiles(at_most)
        events, warnings, error = Events(), [], None
        shared = SharedUnreadable(collective, own, events, warnings.append)
        try:
            for number in range(rounds):
                own.faults |= dict.fromkeys(met_by_rank[collective.rank][number : number + 1], GONE)
                shared.tell()
        except WorkerError as failure:
            error = str(failure)
        return events.events, warnings, error, shared.has_news()

    return run_fleet(len(met_by_rank), work)


def test_every_worker_hears_of_every_file():
    for events, warnings, error, has_news in told([["a"], [], ["b"]], at_most=2):
        assert events == [("unreadable", {"files": {"a": GONE, "b": GONE}})]
        assert warnings == [f"{path} cannot be decoded ({GONE}) and is passed over" for path in "ab"]
        assert error is None
        assert not has_news


def test_a_file_that_two_workers_meet_counts_once_whether_at_once_or_later():
    for events, warnings, error, has_news in told([["a", "b"], ["a"], ["b", "a", "b"]], at_most=2, rounds=3):
        assert [list(fields["files"]) for _, fields in events] == [["a", "b"]]
        assert len(warnings) == 2
        assert error is None
        assert not has_news


def test_what_is_known_is_not_told_again():
    for events, warnings, _, _ in told([["a", "c"], ["b"]], at_most=3, rounds=2):
        assert [list(fields["files"]) for _, fields in events] == [["a", "b"], ["c"]]
        assert len(warnings) == 3


def test_one_too_many_over_all_workers_stops_all_with_the_same_words_after_it_is_recorded():
    for events, warnings, error, _ in told([["a"], ["b"]], at_most=1):
        assert events == [("unreadable", {"files": {"a": GONE, "b": GONE}})]
        assert error.startswith(
            f"cannot be decoded: a ({GONE}), b ({GONE}), and data.max_unreadable allows 1: repair or"
        )
        assert warnings == []


def test_where_nobody_has_news_nothing_is_recorded():
    assert told([[], []], at_most=0) == [([], [], None, False)] * 2
