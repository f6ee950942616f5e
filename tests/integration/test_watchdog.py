"""The watchdog on fleets in threads: what it says, who says it, whom it leaves alone."""

from __future__ import annotations

import os
import subprocess
import threading
import time

import pytest

from tests.fleet_in_threads import run_fleet
from trainer.collective import watchdog as module
from trainer.collective.board import BoardError, BoardGoneError, MemoryBoard, NoBoard
from trainer.collective.local import LocalCollective
from trainer.collective.roll_call import Answer
from trainer.collective.watchdog import Watchdog
from trainer.collective.whereabouts import Whereabouts

pytestmark = pytest.mark.integration

LIMIT_S = 0.4


def run_watched(world_size, work, **options):
    """Runs work(rank, whereabouts, watchdog) on that many workers; returns by rank the texts with which the record was
    closed, and the exit codes."""
    options = {"limit_s": LIMIT_S, **options}

    def worker(collective):
        closed, codes, whereabouts = [], [], Whereabouts()
        with Watchdog(collective, whereabouts, close_record=closed.append, leave=codes.append, **options) as watchdog:
            work(collective.rank, whereabouts, watchdog)
        return closed, codes

    return run_fleet(world_size, worker)


def move(whereabouts, seconds, pause_s=LIMIT_S / 10):
    """Marks again and again for so long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        whereabouts.mark("computing")
        time.sleep(pause_s)


def ended(watchdog):
    """Waits until the watchdog has done its work."""
    watchdog._thread.join(20)
    assert not watchdog._thread.is_alive()


def test_who_stands_still_is_named_by_the_lowest_rank_and_all_end(capsys):
    def work(rank, whereabouts, watchdog):
        whereabouts.at("epoch 3, update 71")
        whereabouts.mark("reading images" if rank == 1 else "adding up gradients", is_meeting=rank != 1)
        ended(watchdog)

    (closed, codes), *others = run_watched(3, work)
    text = (
        "nothing moved for 0.4 s (hang_timeout_s): rank 1 stands still, reading images in epoch 3, update 71; ranks 0, "
        "2 wait, adding up gradients in epoch 3, update 71"
    )
    assert (closed, codes) == ([text], [1])
    assert others == [([], [1]), ([], [1])]
    said = capsys.readouterr().err
    assert said.count(f"trainer: {text}\n") == 1
    assert said.count("stands here:") == 1
    assert "trainer: rank 1 stands here:" in said
    assert "in ended\n" in said, "the stack of the loop's own thread"


def test_a_worker_that_does_not_answer_is_named_and_one_that_waits_is_not_shown_with_its_stack(capsys):
    frozen = threading.Event()

    def work(rank, whereabouts, watchdog):
        whereabouts.mark("adding up gradients", is_meeting=True)
        if rank == 0:
            watchdog._is_closed.set()  # its thread ends, as that of a frozen process does
            frozen.wait(20)
        else:
            ended(watchdog)
            frozen.set()

    _, (closed, codes) = run_watched(2, work)
    assert codes == [1]
    assert closed == [
        "nothing moved for 0.4 s (hang_timeout_s): rank 0 does not answer (stopped, or the host or the network is "
        "lost); rank 1 waits, adding up gradients in the start"
    ]
    assert "stands here" not in capsys.readouterr().err


def test_a_worker_that_is_slower_than_the_others_is_waited_for():
    def work(rank, whereabouts, watchdog):
        for _ in range(4):  # 1.2 s in all, three times the limit
            whereabouts.mark("computing" if rank == 1 else "adding up gradients", is_meeting=rank == 0)
            time.sleep(0.75 * LIMIT_S)

    assert run_watched(2, work) == [([], []), ([], [])]


def test_a_worker_that_moves_and_never_comes_is_said_to_be_behind():
    done = threading.Event()

    def work(rank, whereabouts, watchdog):
        if rank == 0:
            whereabouts.mark("adding up gradients", is_meeting=True)
            ended(watchdog)
            done.set()
        while rank == 1 and not done.is_set():
            move(whereabouts, LIMIT_S / 4)

    ((text,), codes), (_, others) = run_watched(2, work)
    assert codes == others == [1]
    assert "rank 1 is behind, computing in the start; rank 0 waits" in text


def test_time_in_which_the_whole_process_was_stopped_does_not_count(monkeypatch):
    """As SIGSTOP and SIGCONT show themselves: a wait that takes much longer than was asked for."""
    clock = iter(range(0, 10**9, 1000))
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    collective = LocalCollective()
    codes = []
    with Watchdog(collective, Whereabouts(), 300.0, close_record=print, leave=codes.append) as watchdog:
        watchdog._is_closed.wait(2.5)
        # Two or three ticks of a second, which count double at most, and as many looks at the board, which count
        # CALL_S at most, where the clock showed a thousand seconds for each.
        assert 0 < watchdog._still_s < 16
    assert codes == []


def test_a_worker_alone_is_watched_too(capsys):
    codes, closed = [], []
    whereabouts = Whereabouts()
    with Watchdog(LocalCollective(), whereabouts, LIMIT_S, close_record=closed.append, leave=codes.append) as watchdog:
        whereabouts.at("epoch 0, update 5")
        next(whereabouts.reading([1]))
        whereabouts.mark("reading images")
        ended(watchdog)
    assert closed == ["nothing moved for 0.4 s (hang_timeout_s): reading images in epoch 0, update 5"]
    assert codes == [1]


class HalfLostBoard(MemoryBoard):
    """Takes what is pinned up, and is out of reach for whoever reads."""

    reads = 0

    def get(self, key):
        self.reads += not key.endswith("call")
        raise BoardError


@pytest.mark.parametrize("kind", [NoBoard, HalfLostBoard])
def test_without_a_board_every_worker_speaks_for_itself(kind):
    def work(rank, whereabouts, watchdog):
        board = watchdog._board = kind()
        ended(watchdog)
        if kind is HalfLostBoard:
            assert board.reads <= 2, "each may take seconds: the first that fails is the last"

    texts = [closed for closed, _ in run_watched(3, work)]
    for rank, (text,) in enumerate(texts):
        assert f"rank {rank} reaches none of the other 2 workers (they are stopped, or the network is lost)" in text


class FailingBoard(MemoryBoard):
    """Fails in one way, but for every third reader."""

    def __init__(self, error, answers):
        super().__init__()
        self.error, self.answers, self.reads = error, answers, 0

    def get(self, key):
        self.reads += 1
        if self.answers and self.reads % 3 == 0:
            return None
        raise self.error


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("error", "answers", "times"), [(BoardGoneError, False, 1), (BoardGoneError, True, 0), (BoardError, False, 0)]
)
def test_a_board_that_nobody_keeps_any_more_is_told_of_once(error, answers, times, workers):
    told = []

    def work(rank, whereabouts, watchdog):
        board = watchdog._board = FailingBoard(error, answers)
        while board.reads < 10:
            move(whereabouts, LIMIT_S / 10)

    run_watched(workers, work, board_is_gone=lambda: told.append("gone"))
    assert len(told) == workers * times


def test_a_record_that_does_not_close_holds_nobody(monkeypatch):
    monkeypatch.setattr(module, "CLOSING_S", 0.2)
    codes = []
    stuck = threading.Event()
    watchdog = Watchdog(
        LocalCollective(), Whereabouts(), LIMIT_S, close_record=lambda text: stuck.wait(60), leave=codes.append
    )
    with watchdog:
        watchdog._thread.join(10)
        assert codes == [1]
    stuck.set()


def test_a_worker_whose_collective_failed_learns_who_is_gone_from_those_that_still_train():
    """Rank 2 has ended, rank 1 notices, rank 0 does not yet."""
    told = threading.Event()
    heard = {}

    def work(rank, whereabouts, watchdog):
        whereabouts.at("epoch 1, update 9")
        if rank == 0:
            while not told.is_set():
                move(whereabouts, LIMIT_S / 4)
        if rank == 1:
            watchdog._is_closed.set()
            watchdog._thread.join()
            heard[1] = watchdog.lost()
            told.set()

    assert run_watched(3, work) == [([], [])] * 3, "a loss ends nobody by itself"
    assert heard == {1: None}, "rank 0 is there, and speaks for all"


def test_the_lowest_rank_that_is_left_names_the_lost_ones():
    def work(rank, whereabouts, watchdog):
        whereabouts.at("epoch 1, update 9")
        whereabouts.mark("adding up gradients", is_meeting=True)
        watchdog._is_closed.set()
        watchdog._thread.join()
        return None if rank in (0, 3) else texts.__setitem__(rank, watchdog.lost())

    texts = {}
    run_watched(4, work)
    assert texts == {1: "ranks 0, 3 do not answer, adding up gradients in epoch 1, update 9", 2: None}


def test_those_that_can_go_on_without_a_frozen_worker_are_not_ended():
    """Where workers rejoin, the loop's own error comes soon after the frozen worker's end."""

    def work(rank, whereabouts, watchdog):
        whereabouts.mark("adding up gradients", is_meeting=True)
        if rank == 1:
            watchdog._is_closed.set()
        time.sleep(5 * LIMIT_S)  # beyond the limit and the roll call

    assert run_watched(2, work, rejoins=True) == [([], []), ([], [])]


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="only Linux has pidfds")
def test_a_frozen_neighbour_of_a_fleet_that_has_lost_a_worker_is_ended_and_let_go_of():
    """A worker may go from fleet to fleet many times."""
    with subprocess.Popen(["sleep", "60"]) as frozen:
        watchdog = Watchdog(LocalCollective(), Whereabouts(), LIMIT_S, close_record=print, rejoins=True)
        held = watchdog._neighbours[1] = os.pidfd_open(frozen.pid)
        with pytest.raises(ConnectionError), watchdog:
            raise ConnectionError
        assert frozen.poll() is None
        watchdog.lost()
        assert frozen.wait(10) == -9
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(held)


def test_a_notice_that_is_none_is_passed_over():
    def work(rank, whereabouts, watchdog):
        watchdog._pin("call", "{]")
        watchdog._pin("answer.1", '{"rank": 0}')
        move(whereabouts, LIMIT_S)
        assert watchdog._answer_of(1) is None
        watchdog._pin("answer.1", Answer(0, "here", "nothing", False, 0.0).to_json())
        assert watchdog._answer_of(1) is None, "another rank's answer"

    assert run_watched(2, work) == [([], []), ([], [])]
