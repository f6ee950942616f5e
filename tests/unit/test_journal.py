"""The journal: what is written is what is read, and what is damaged is named."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.tracking import (
    FINISHED,
    KILLED,
    PAUSED,
    RUNNING,
    Journal,
    RunStart,
    TrackingError,
    journals_in,
    read_journal,
)

pytestmark = pytest.mark.unit

RUN = RunStart(
    run_uid="20261122-digits-3f2a",
    name="digits",
    experiment="first",
    params={"seed": "1", "schedule.epochs": "2"},
    tags={"world_size": "2"},
    artifacts={"plan.json": "{}"},
)


def write_two_epochs(path: Path) -> Journal:
    journal = Journal(path)
    journal.start(RUN)
    journal.log(1, {"val/top1": 0.5, "train/loss": 2.0})
    journal.event("decision", {"epoch": 1, "lr": 0.1})
    journal.log(2, {"val/top1": 0.75, "train/loss": 1.0})
    return journal


def test_a_journal_gives_back_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "one" / "journal.jsonl"
    write_two_epochs(path).close(FINISHED, {"best_top1": 0.75})
    log = read_journal(path)
    assert log.run == RUN
    assert [(entry.epoch, entry.metrics) for entry in log.epochs] == [
        (1, {"val/top1": 0.5, "train/loss": 2.0}),
        (2, {"val/top1": 0.75, "train/loss": 1.0}),
    ]
    assert [(event.kind, event.fields) for event in log.events] == [("decision", {"epoch": 1, "lr": 0.1})]
    assert log.close is not None
    assert (log.status, log.close.summary, log.error) == (FINISHED, {"best_top1": 0.75}, None)
    assert log.torn_line is None
    assert log.record_count == 5
    times = [log.start_time_s, *(entry.time_s for entry in log.epochs), log.close.time_s]
    assert times == sorted(times)
    assert log.end_time_s == log.close.time_s


@pytest.mark.parametrize("value", [math.inf, -math.inf, 0.1, -0.0, 1e-320, 1.7976931348623157e308])
def test_numbers_come_back_to_the_bit(tmp_path: Path, value: float) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    journal.start(RUN)
    journal.log(1, {"train/loss": value})
    assert read_journal(path).epochs[0].metrics["train/loss"] == value


def test_nan_comes_back_as_nan_and_every_line_is_strict_json(tmp_path: Path) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    journal.start(RUN)
    journal.log(1, {"train/loss": math.nan, "val/loss": math.inf})
    journal.event("warning", {"values": [math.nan, {"deep": -math.inf}], "text": "täxt\n\u2028 \udc80"})
    for line in path.read_bytes().splitlines():
        json.loads(line, parse_constant=refuse)
    log = read_journal(path)
    assert math.isnan(log.epochs[0].metrics["train/loss"])
    assert log.events[0].fields == {"values": ["nan", {"deep": "-inf"}], "text": "täxt\n\u2028 ?"}


@pytest.mark.parametrize("cut", [1, 2, 20, 60])
def test_a_torn_last_line_is_skipped_and_named(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "journal.jsonl"
    write_two_epochs(path)
    content = path.read_bytes()
    path.write_bytes(content[:-cut])
    log = read_journal(path)
    assert log.torn_line == 4  # start, epoch 1, event, then the torn one
    assert [entry.epoch for entry in log.epochs] == [1]


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("", "JSONDecodeError"),
        ("{", "JSONDecodeError"),
        ("[]", "is not a JSON object"),
        ('{"type": "epoch", "time": 1, "epoch": 1, "metrics": {"a": NaN}}', "NaN is not JSON"),
        ('{"type": "epoch", "time": 1, "epoch": 1.5, "metrics": {}}', "'epoch' is missing or no count"),
        ('{"type": "epoch", "time": 1, "epoch": true, "metrics": {}}', "'epoch' is missing or no count"),
        ('{"type": "epoch", "time": 1, "epoch": 1, "metrics": {"a": "x"}}', "'a' is missing or no number"),
        ('{"type": "epoch", "epoch": 1, "metrics": {}}', "'time' is missing or no number"),
        ('{"type": "epoch", "time": 1e999, "epoch": 1, "metrics": {}}', "'time' is no time"),
        ('{"type": "close", "time": 1, "status": "DONE", "summary": {}}', "'status' is none of"),
        ('{"type": "epilogue", "time": 1}', "has an unknown type 'epilogue'"),
        ('{"type": "event", "time": 1, "kind": "\\ud800", "fields": {}}', "UnicodeEncodeError"),
        (
            '{"type":"start","time":1,"run_uid":"x","name":"n","experiment":"e","params":{},"tags":{},"artifacts":{}}',
            "is of run x, the lines before of 20261122-digits-3f2a",
        ),
    ],
)
def test_damage_in_the_middle_is_refused_with_file_and_line(tmp_path: Path, line: str, what: str) -> None:
    path = tmp_path / "journal.jsonl"
    write_two_epochs(path)
    lines = path.read_text("utf-8").splitlines()
    path.write_text("\n".join([lines[0], line, *lines[1:]]) + "\n", "utf-8")
    with pytest.raises(TrackingError) as caught:
        read_journal(path)
    message = str(caught.value)
    assert message.startswith(f"{path}, line 2: ")
    assert what in message
    assert "\n" not in message


@pytest.mark.parametrize("content", [b"", b"\x00\x01", b'{"type": "start"'])
def test_a_file_without_a_run_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(content)
    with pytest.raises(TrackingError, match="holds no run"):
        read_journal(path)


def test_a_missing_journal_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match=r"nowhere.jsonl: cannot read this journal \(No such file"):
        read_journal(tmp_path / "nowhere.jsonl")


def test_an_epoch_before_the_start_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text('{"type": "epoch", "time": 1, "epoch": 1, "metrics": {}}\n')
    with pytest.raises(TrackingError, match=r"line 1: is no record of a journal \(comes before the start of a run\)"):
        read_journal(path)


def test_status_tells_a_living_run_from_a_dead_one(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = write_two_epochs(path)
    assert read_journal(path).status == RUNNING
    copy = tmp_path / "copy.jsonl"  # nobody holds this one
    copy.write_bytes(path.read_bytes())
    assert read_journal(copy).status == KILLED
    assert "process died" in (read_journal(copy).error or "")
    journal.close("FAILED", {}, error="loss is nan in epoch 2")
    assert (read_journal(path).status, read_journal(path).error) == ("FAILED", "loss is nan in epoch 2")


def test_the_journal_of_a_process_that_was_killed_reads_as_killed(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    script = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom trainer.tracking import Journal, RunStart\n"
        "journal = Journal(Path(sys.argv[1]))\n"
        "journal.start(RunStart('u', 'n', 'e', {}, {}, {}))\njournal.log(1, {'a': 1.0})\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(path)], timeout=60, check=False)
    log = read_journal(path)
    assert (log.status, [entry.metrics for entry in log.epochs]) == (KILLED, [{"a": 1.0}])


def test_a_run_is_taken_up_again_in_the_same_journal(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    write_two_epochs(path).close("KILLED", {"total_s": 3.0}, error="SIGTERM")
    with open(path, "ab") as file:
        file.write(b'{"type": "epo')  # what a process that died in the middle of a record leaves
    journal = Journal(path)
    journal.start(RUN)
    assert read_journal(path).status == RUNNING
    journal.log(2, {"val/top1": 0.8})
    journal.log(3, {"val/top1": 0.9})
    journal.close(FINISHED, {})
    log = read_journal(path)
    assert (log.status, log.torn_line) == (FINISHED, None)
    assert [(entry.epoch, entry.metrics["val/top1"]) for entry in log.epochs] == [(1, 0.5), (2, 0.8), (3, 0.9)]


def test_a_paused_run_is_neither_failed_nor_finished_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = write_two_epochs(path)
    journal.event("fleet", {"epoch": 2, "planned": 4, "present": 2})
    journal.close(PAUSED, {})
    log = read_journal(path)
    assert (log.status, log.error, log.events[-1].fields["planned"]) == (PAUSED, None, 4)
    journal = Journal(path)
    journal.start(RUN)
    assert read_journal(path).status == RUNNING
    journal.close(FINISHED, {})
    assert read_journal(path).status == FINISHED


def test_two_processes_cannot_write_one_journal(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    write_two_epochs(path)
    with pytest.raises(TrackingError, match="another process is writing this journal"):
        Journal(path)


def test_another_runs_journal_is_not_continued(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    write_two_epochs(path).close(FINISHED, {})
    with pytest.raises(TrackingError, match="is the journal of run 20261122-digits-3f2a, not of other"):
        Journal(path).start(RunStart("other", "n", "e", {}, {}, {}))


def test_an_output_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(TrackingError, match=r"cannot write the journal of the run .* choose another output folder"):
        Journal(tmp_path / "file" / "run" / "journal.jsonl")


def test_a_full_disk_is_an_error_and_leaves_a_readable_journal(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    script = (
        "import resource, signal, sys\nfrom pathlib import Path\nfrom trainer.tracking import *\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "journal = Journal(Path(sys.argv[1]))\njournal.start(RunStart('u', 'n', 'e', {}, {}, {}))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (400, 400))\n"
        "try:\n    for epoch in range(1, 100): journal.log(epoch, {'a': 1.0})\n"
        "except TrackingError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], timeout=60, capture_output=True, text=True)
    assert done.stdout.startswith(f"{path}: cannot write the journal of the run (")
    log = read_journal(path)
    assert log.torn_line is None
    assert len(log.epochs) >= 1
    assert path.stat().st_size <= 400


def test_a_source_may_be_a_journal_a_runs_folder_or_a_folder_of_runs(tmp_path: Path) -> None:
    paths = [tmp_path / name / "journal.jsonl" for name in ("a", "b")]
    for path in paths:
        write_two_epochs(path)
    assert journals_in(paths[0]) == paths[:1]
    assert journals_in(paths[1].parent) == paths[1:]
    assert journals_in(tmp_path) == paths
    with pytest.raises(TrackingError, match="name the folder of a run"):
        journals_in(tmp_path / "c")


def _journal_text() -> str:
    start = {"type": "start", "time": 1, "run_uid": "u", "name": "n", "experiment": "e"}
    start |= {"params": {"seed": "1"}, "tags": {}, "artifacts": {}}
    rest = [
        {"type": "epoch", "time": 2, "epoch": 1, "metrics": {"a": 1.0, "b": "nan"}},
        {"type": "event", "time": 2, "kind": "target", "fields": {"x": [1, None]}},
        {"type": "close", "time": 3, "status": "FINISHED", "summary": {"a": 1}, "error": None},
    ]
    return "".join(json.dumps(record) + "\n" for record in (start, *rest))


JOURNAL = _journal_text().encode()
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def _reads_or_refuses(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    try:
        log, refusal = read_journal(path), None
    except TrackingError as error:
        log, refusal = None, str(error)
    if log is None:
        assert refusal is not None
        assert refusal.startswith(str(path))
        assert "\n" not in refusal
    else:
        assert log.record_count == content.count(b"\n")
        assert (log.torn_line is not None) == (not content.endswith(b"\n"))
        assert log.end_time_s >= 0
        str(log).encode()


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "journal.jsonl"


@given(at=st.integers(0, len(JOURNAL)), removed=st.integers(0, 40), inserted=st.binary(max_size=40))
@settings(max_examples=400, deadline=None)
def test_a_damaged_journal_is_read_or_refused_never_worse(
    scratch: Path, at: int, removed: int, inserted: bytes
) -> None:
    _reads_or_refuses(scratch, JOURNAL[:at] + inserted + JOURNAL[at + removed :])


@given(
    record=st.fixed_dictionaries(
        {},
        optional={
            key: json_values | st.sampled_from(["start", "epoch", "event", "close", "u", 0, 1, {}, "FINISHED"])
            for key in ("type", "time", "epoch", "metrics", "kind", "fields", "status", "summary", "error", "run_uid")
        },
    )
)
@settings(max_examples=400, deadline=None)
def test_any_json_record_is_read_or_refused_never_worse(scratch: Path, record: dict[str, object]) -> None:
    _reads_or_refuses(scratch, JOURNAL + json.dumps(record).encode() + b"\n")


@pytest.mark.parametrize("line", [b"[" * 100_000, b"1" * 10_000, b'{"time": 1' + b"0" * 400 + b"}", b"\xff\xfe"])
def test_monstrous_lines_are_refused(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(JOURNAL + line + b"\n")
    with pytest.raises(TrackingError, match="line 5: is no record of a journal"):
        read_journal(path)
