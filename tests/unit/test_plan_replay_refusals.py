"""What `trainer plan --replay` refuses: damaged decisions, what is no single run, and what else has no say in it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzzing import fuzz
from tests.recorded_decisions import Edit, drop, put, record, replayed
from trainer.cli.planning.replay import replay
from trainer.rule import GradientNoise
from trainer.tracking import TrackingError

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (drop("heard"), "is of an older version, whose decisions do not say what they heard: replay a run of this one"),
        (drop("lr"), "decision 1 is damaged (lr: Field required): restore the file"),
        (drop("gain"), "decision 1 is damaged (these are the fields of another version): restore the file"),
        (put("0.1", "lr"), "decision 1 is damaged (lr: Input should be a valid number): restore the file"),
        (put("nan", "heard", "progress"), "decision 1 is damaged (heard.progress: Input should be a valid number)"),
        (put(0, "plan", "world_size"), "decision 1 is damaged (a count is out of bounds): restore the file"),
        (put(10**400, "max_micro_batch"), "decision 1 is damaged (a count is out of bounds): restore the file"),
        (put(-1, "epoch"), "decision 1 is damaged (a count is out of bounds): restore the file"),
        (put(-1.0, "heard", "progress"), "decision 1 is damaged (progress is below 0): restore the file"),
        (put(asdict(GradientNoise(1.0, 1.0, -1.0, 1.0, 0.0)), "heard", "noise"), "damaged (a variance is below 0)"),
        (put(asdict(GradientNoise(1e200, 1.0, 1.0, 1.0, 0.0)), "heard", "noise"), "damaged (a measurement is out of b"),
    ],
)
def test_a_decision_that_no_run_of_this_version_wrote_is_refused_in_a_line(
    edit: Edit, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = record(tmp_path, edit=edit)
    code, out, err = replayed(capsys, str(journal))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"trainer: {journal}: ")
    assert message in err


def test_a_journal_without_a_decision_or_a_configuration_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = replayed(capsys, str(record(tmp_path / "a", epochs=[])))
    assert (code, err.partition("journal.jsonl: ")[2]) == (
        2,
        "holds no decision: the run ended before its first epoch\n",
    )
    code, _, err = replayed(capsys, str(record(tmp_path / "b", artifacts={})))
    assert (code, "does not say how its run was configured" in err) == (2, True)
    code, _, err = replayed(capsys, str(record(tmp_path / "c", artifacts={"config.yaml": "name: x\n"})))
    assert (code, err.endswith("schedule: is missing: set it\n")) == (2, True)


def test_what_is_no_single_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("notes\n")
    assert "is no record of a journal" in replayed(capsys, str(text))[2]
    assert "is no journal, and no folder with a journal.jsonl in it" in replayed(capsys, str(tmp_path / "away"))[2]
    one = record(tmp_path)
    (tmp_path / "run-2").mkdir()
    (tmp_path / "run-2" / "journal.jsonl").write_bytes(one.read_bytes())
    code, _, err = replayed(capsys, str(tmp_path))
    assert (code, err) == (
        2,
        f"trainer: --replay {tmp_path}: holds 2 runs: name one, {tmp_path / 'run-1'} for example\n",
    )


@pytest.mark.parametrize(
    "beside",
    [
        ["digits-hybrid"],
        ["schedule.epochs=3"],
        ["--workers", "2"],
        ["--calibration", "fleet.json"],
        ["--per-node", "2"],
        ["--price", "0"],
        ["--compare"],
    ],
)
def test_nothing_but_the_journal_has_a_say_in_a_replay(beside: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = replayed(capsys, "runs/one", *beside)
    assert (code, err) == (
        2,
        "trainer: --replay runs/one: takes all from the run's journal, and "
        f"{beside[0]} stands beside it: leave it out\n",
    )


@fuzz(20)
@given(
    path=st.sampled_from(
        [("epoch",), ("plan", "world_size"), ("max_micro_batch",), ("dataset_size",), ("heard", "global_batch"),
         ("heard", "progress"), ("heard", "noise"), ("heard", "noise", "trace"), ("heard", "noise", "squared_norm"),
         ("heard", "noise", "squared_norm_variance"), ("heard",), ("plan",), ("limited_by",)]
    ),
    value=st.integers(-3, 10**20) | st.floats() | st.none() | st.booleans() | st.text(max_size=3) | st.just({}),
    policy=st.sampled_from(["measured", "adascale"]),
)  # fmt: skip
def test_any_value_in_a_decision_is_replayed_or_refused(
    path: tuple[str, ...], value: object, policy: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    def edit(fields: dict[str, Any]) -> None:
        fields["heard"]["noise"] = asdict(GradientNoise(20.0, 1.0, 4.0, 0.01, -0.1))
        put(value, *path)(fields)

    overrides = [f"schedule.policy={policy}", "schedule.curve={shape: cosine}"]
    journal = record(tmp_path_factory.mktemp("fuzz"), *overrides, epochs=[(0, 1)], edit=edit)
    refusal = ""
    try:
        _ = replay(journal).is_same
    except TrackingError as error:
        refusal = str(error)
    assert refusal.isprintable()
