"""Journals, calibrations and checkpoints with anything in them: read, or refused in the one line for users."""

from __future__ import annotations

import json
import pickle
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzzing import fuzz
from tests.simple_calibration import calibration_of
from trainer.calibration.calibration import read_calibration
from trainer.calibration.errors import CalibrationError
from trainer.config import load_config
from trainer.engine.tensors import from_bytes, to_bytes
from trainer.tracking import Journal, RunStart, TrackingError, read_journal

pytestmark = pytest.mark.unit

RUN = RunStart("u", "n", "e", {"seed": "1"}, {"host": "h"}, {"config.yaml": "seed: 1\n"})
NUMBERS = st.integers(-5, 5) | st.integers(-(10**400), 10**400) | st.floats()
LEAVES = (
    st.none() | st.booleans() | NUMBERS | st.text(max_size=5) | st.sampled_from(["nan", "\ud800", "\0", "FINISHED"])
)
JSON = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
PIECES = st.sampled_from(
    [b'"\\ud800"', b"NaN", b"-Infinity", b"1e999", b"9" * 5000, b"[" * 3000, b'{"a":' * 3000, b"null", b"\n", b"\xff",
     b"\0", b'"', b"{", b"}", b"\r", b'{"type": "close"}\n']
)  # fmt: skip


@pytest.fixture(scope="module")
def scratch(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


def read_or_refused(read: Callable[[Path], object], error: type[ValueError], file: Path, content: bytes) -> object:
    file.write_bytes(content)
    value, refusal = None, ""
    try:
        value = read(file)
    except error as failure:
        refusal = str(failure)
    assert refusal == "" or refusal.startswith(str(file))
    assert refusal.isprintable()
    assert len(refusal) < 1000
    str(value).encode()
    return value


def damaged(content: bytes) -> st.SearchStrategy[bytes]:
    """The content with something cut out and something put in, at one to three places."""

    def change(changes: list[tuple[int, int, bytes]]) -> bytes:
        result = content
        for at, removed, inserted in changes:
            result = result[:at] + inserted + result[at + removed :]
        return result

    one = st.tuples(st.integers(0, len(content)), st.integers(0, 30), PIECES | st.binary(max_size=8))
    return st.lists(one, min_size=1, max_size=3).map(change)


@pytest.fixture(scope="module")
def whole_journal(tmp_path_factory) -> bytes:
    file = tmp_path_factory.mktemp("whole") / "journal.jsonl"
    journal = Journal(file)
    journal.start(RUN)
    journal.log(1, {"a": 1.0, "b": float("nan")})
    journal.event("target", {"x": [1, None]})
    journal.close("FINISHED", {"a": 1.0})
    return file.read_bytes()


@fuzz(100)
@given(data=st.data())
def test_a_damaged_journal_is_read_or_refused(scratch, whole_journal, data):
    read_or_refused(read_journal, TrackingError, scratch / "journal.jsonl", data.draw(damaged(whole_journal)))


@fuzz(80)
@given(
    records=st.lists(
        st.fixed_dictionaries(
            {"type": st.sampled_from(["start", "epoch", "event", "close"]), "time": st.integers(0, 9)},
            optional={
                "epoch": NUMBERS,
                "metrics": JSON,
                "kind": st.text(max_size=5) | JSON,
                "fields": JSON,
                "status": LEAVES,
                "summary": JSON,
                "error": JSON,
                "run_uid": LEAVES | st.just("u"),
            },
        ),
        max_size=3,
    )
)
def test_any_records_are_read_or_refused(scratch, records):
    start = {"type": "start", "time": 1, "run_uid": "u", "name": "n", "experiment": "e"}
    lines = [start | {"params": {}, "tags": {}, "artifacts": {}}, *records]
    try:
        content = "".join(json.dumps(line) + "\n" for line in lines).encode()
    except ValueError:  # Python writes no number of more than 4,300 digits
        return
    read_or_refused(read_journal, TrackingError, scratch / "journal.jsonl", content)


def test_an_endless_line_is_refused_in_memory_of_its_size(scratch):
    file = scratch / "long.jsonl"
    file.write_bytes(b"[" * 1_000_000 + b"\n")
    tracemalloc.start()
    with pytest.raises(TrackingError, match="line 1: is no record of a journal"):
        read_journal(file)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10_000_000


CALIBRATION = calibration_of(load_config("digits-hybrid")).model_dump_json().encode()


@fuzz(100)
@given(content=damaged(CALIBRATION))
def test_a_damaged_calibration_is_read_or_refused(scratch, content):
    read_or_refused(read_calibration, CalibrationError, scratch / "calibration.json", content)


@fuzz(100)
@given(key=st.sampled_from(sorted(json.loads(CALIBRATION))), value=JSON)
def test_any_value_in_a_calibration_is_read_or_refused(scratch, key, value):
    document = json.loads(CALIBRATION) | {key: value}
    read_or_refused(read_calibration, CalibrationError, scratch / "calibration.json", json.dumps(document).encode())


@pytest.mark.parametrize("key", ["9" * 5000, "two\nlines", "\x1b[2J"])
def test_a_calibrations_unknown_key_is_told_in_one_short_line(scratch, key):
    document = json.loads(CALIBRATION) | {key: 1}
    content = json.dumps(document).encode()
    assert read_or_refused(read_calibration, CalibrationError, scratch / "calibration.json", content) is None


class Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.mkdir, (self.path,)


def test_tensors_are_read_without_running_what_stands_beside_them(scratch):
    content = to_bytes({"weight": torch.ones(3), "hostile": Hostile(scratch / "made")})
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        from_bytes(content)
    assert not (scratch / "made").exists()
