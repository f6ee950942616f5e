"""The line that is made of a roll call, and what is refused as a notice."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.collective.roll_call import Answer, Call, hang_verdict, lost_verdict, ranks

pytestmark = pytest.mark.unit

PLACE = "epoch 3, update 71"
BEGIN = "nothing moved for 300 s (hang_timeout_s): "


def waits(rank, still_s=300.0):
    return Answer(rank, PLACE, "adding up gradients", True, still_s)


def stands(rank, doing="reading images", place=PLACE, still_s=300.0):
    return Answer(rank, place, doing, False, still_s)


@pytest.mark.parametrize(
    ("answers", "world_size", "text"),
    [
        (
            [waits(0), stands(1), waits(2)],
            4,
            "rank 3 does not answer (stopped, or the host or the network is lost); rank 1 stands still, reading images "
            f"in {PLACE}; ranks 0, 2 wait, adding up gradients in {PLACE}",
        ),
        (
            [waits(0), waits(1)],
            2,
            "nobody is missing and all wait: the network between them is lost, or they are out of step; ranks 0-1 "
            f"wait, adding up gradients in {PLACE}",
        ),
        (
            [waits(0), stands(1, place="epoch 3, update 70", still_s=2.0)],
            2,
            f"rank 1 is behind, reading images in epoch 3, update 70; rank 0 waits, adding up gradients in {PLACE}",
        ),
        (
            [stands(0), stands(1, "saving")],
            2,
            f"rank 0 stands still, reading images in {PLACE}; rank 1 stands still, saving in {PLACE}",
        ),
        (
            [waits(0)],
            4,
            "rank 0 reaches none of the other 3 workers (they are stopped, or the network is lost), adding up "
            f"gradients in {PLACE}",
        ),
        ([stands(0)], 1, f"reading images in {PLACE}"),
    ],
)
def test_a_hang_is_told_in_one_line(answers, world_size, text):
    assert hang_verdict(answers, answers[0], world_size, 300.0) == BEGIN + text


@pytest.mark.parametrize(
    ("answers", "world_size", "text"),
    [
        ([waits(0), waits(2)], 3, f"rank 1 does not answer, adding up gradients in {PLACE}"),
        ([waits(0)], 2, f"rank 1 does not answer, adding up gradients in {PLACE}"),
        ([waits(0)], 4, f"rank 0 reaches none of the other workers, adding up gradients in {PLACE}"),
        ([waits(0), waits(1)], 2, f"every worker answers, and a connection broke, adding up gradients in {PLACE}"),
    ],
)
def test_a_loss_is_told_in_one_line(answers, world_size, text):
    assert lost_verdict(answers, answers[0], world_size) == text


def test_ranks_in_a_row_are_told_as_one():
    assert ranks([3]) == "rank 3"
    assert ranks([5, 0, 2, 3, 4]) == "ranks 0, 2-5"
    assert ranks(range(256)) == "ranks 0-255"


def test_what_is_pinned_up_is_read_as_it_was():
    for answer in (waits(3), stands(0, still_s=0.1)):
        assert Answer.from_json(answer.to_json()) == answer
    for call in (Call(3), Call(0, is_of_a_loss=True)):
        assert Call.from_json(call.to_json()) == call


def test_nothing_that_moves_a_cursor_gets_from_the_board_to_a_terminal():
    answer = Answer.from_json(Answer(1, "\x1b[2Jepoch\r\n", "a" * 10_000, False, 1.0).to_json())
    assert answer.place == " [2Jepoch  "
    assert len(answer.doing) == 200


def test_lists_in_lists_without_end_are_no_notice():
    with pytest.raises(ValueError, match="no notice of a worker"):
        Answer.from_json("[" * 100_000)


@given(st.one_of(st.text(), st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists).map(repr)))
def test_what_is_no_notice_is_a_value_error(text):
    for kind in (Answer, Call):
        with pytest.raises(ValueError):  # noqa: PT011 - any
            kind.from_json(text)
