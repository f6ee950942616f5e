"""What ends a GPU benchmark in the middle costs no more than its rest."""

from __future__ import annotations

import io
import os
import signal

import pytest

from benchmarks.apart import EndedEarly, apart
from benchmarks.gpu_all import Part, run

pytestmark = pytest.mark.integration


def rows(end):
    yield os.getpid()
    yield "second"
    if end == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if end == "raised":
        raise RuntimeError("a decoder's error")


def test_work_apart_arrives_from_another_process():
    pid, second = apart(rows, "well")
    assert pid != os.getpid()
    assert second == "second"


@pytest.mark.parametrize(("end", "words"), [("killed", "ended by SIGKILL"), ("raised", "ended with exit code 1")])
def test_what_came_before_the_end_has_arrived(end, words):
    work = apart(rows, end)
    next(work)
    assert next(work) == "second"
    with pytest.raises(EndedEarly, match=words):
        next(work)


def test_a_part_that_fails_or_takes_too_long_stops_no_other(capsys):
    out = io.StringIO()
    chosen = [
        Part("wrong", ("imagenet_like", "/nowhere", "/nowhere"), 60.0),
        Part("slow", ("side_by_side",), 0.0),
        Part("good", ("side_by_side",), 60.0),
    ]
    assert run(chosen, out) == 1
    ended = [line.split(" | ")[2].rstrip(" |\n") for line in out.getvalue().splitlines()[-3:]]
    assert ended == ["with exit code 1", "ended after its limit of 0 s", "well"]
    assert capsys.readouterr().out == out.getvalue()
    assert run(chosen[2:], out) == 0
