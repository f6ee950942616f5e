"""`trainer plan --replay`: a run's decisions follow from its journal, and whoever has it can see that."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from tests.recorded_decisions import GROW, measured_at, put, record, replayed
from trainer.rule import GradientNoise

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(("policy", "max_micro_batch"), [("planned", "72"), ("measured", "auto"), ("adascale", "72")])
def test_a_runs_decisions_are_decided_again_to_the_bit(
    policy: str, max_micro_batch: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = record(tmp_path, f"schedule.policy={policy}", f"schedule.limits.max_micro_batch={max_micro_batch}")
    for place in (journal, journal.parent, tmp_path):
        code, out, err = replayed(capsys, str(place))
        assert (code, err) == (0, "")
        assert out.splitlines()[-1] == "14 decisions, all decided again as they were recorded"


def test_a_journal_that_ends_in_half_a_line_is_replayed_as_far_as_it_goes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = record(tmp_path, epochs=[(0, 1)])
    with journal.open("a") as file:
        file.write('{"type": "eve')
    code, out, err = replayed(capsys, str(journal))
    assert (code, err) == (0, f"{journal}: line 4 is incomplete and was skipped\n")
    assert out.endswith("1 decision, decided again as it was recorded\n")


def test_epochs_decided_alike_are_a_row_with_what_was_heard_before_its_first_and_its_last(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, _ = replayed(capsys, str(record(tmp_path, "schedule.policy=measured")))
    assert "digits-increase-batch, policy measured, as decided in run run-1" in out
    rows = [" ".join(line.split()) for line in out.splitlines()[5:-2]]
    # 20 e samples, with an error of sqrt(4 + 2 x 20 e x 0.1 + (20 e)^2 x 0.01): 20 e = 180 gives 19.1; and at least
    # B where that, of B, is 20 e - B: 162.6
    assert rows == [
        "0-9 16 16 x 1 x 1 0.2 0.9 180 - to 180 ± 19 - to 163",
        "10 32 32 x 1 x 1 0.13333 0.9 60 200 ± 21 181 growth",
        "11-13 48 48 x 1 x 1 0.2 0.9 60 220 ± 23 to 260 ± 27 199 to 235",
    ]


def test_the_gain_is_shown_with_how_far_along_the_schedule_the_run_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    epochs = [(epoch, 1) for epoch in range(12)]
    _, out, _ = replayed(capsys, str(record(tmp_path, "schedule.policy=adascale", epochs=epochs)))
    *_, ninth, tenth, eleventh = [" ".join(line.split()) for line in out.splitlines()[5:-2]]
    assert ninth.startswith("0-9 16 16 x 1 x 1 0.2 0.9 180 - to 180 ± 19 1 0.00")
    # (200/16 + 1) / (200/48 + 1) = 2.613; 30 updates of 48 samples count as so many of 16: 0.871 epochs
    assert tenth.startswith("10 48 48 x 1 x 1 0.17419 0.9 52.258 200 ± 21 2.613 10.00")
    assert eleventh.endswith("220 ± 23 2.642 10.87")


def test_a_scale_that_is_lost_in_noise_is_told_by_what_it_is_above(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def lost(fields: dict[str, Any]) -> None:
        fields["heard"]["noise"] = asdict(GradientNoise(800.0, -0.1, 4.0, 0.25, 0.0))

    journal = str(record(tmp_path, "schedule.policy=measured", epochs=[(0, 1)], edit=lost))
    _, out, _ = replayed(capsys, journal)
    (row,) = (line.split() for line in out.splitlines()[5:-2])
    assert row[-3:] == ["over", "2,000", "2,000"]  # 800 / (-0.1 + 0.5)
    (decision,) = json.loads(replayed(capsys, journal, "--json")[1])["decisions"]
    assert decision["gradient_noise_scale"] is decision["gradient_noise_scale_error"] is None
    assert decision["gradient_noise_scale_at_least"] == pytest.approx(2000, rel=0.01)


def test_a_run_that_was_resumed_on_another_fleet_is_replayed_decision_by_decision(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    epochs = [(9, 1), (10, 1), (11, 1), (11, 3), (12, 3)]
    code, out, _ = replayed(capsys, str(record(tmp_path, epochs=epochs)))
    assert code == 0
    rows = [line.split()[:7] for line in out.splitlines()[5:-2]]
    assert [(row[0], row[6]) for row in rows] == [("9", "1"), ("10-11", "1"), ("11-12", "3")]
    assert out.endswith("5 decisions, all decided again as they were recorded\n")


def test_epochs_that_a_resumed_run_repeated_are_rows_of_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, _ = replayed(capsys, str(record(tmp_path, epochs=[(3, 1), (4, 1), (3, 1), (4, 1), (5, 1)])))
    assert [line.split()[0] for line in out.splitlines()[5:-2]] == ["3-4", "3-5"]


@pytest.mark.parametrize("edit", ["epoch", "progress"])
def test_a_decision_after_the_end_of_the_schedule_cannot_be_decided_again(
    edit: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change = put(24, "epoch") if edit == "epoch" else put(24 * 1440.0, "heard", "progress")
    curve = "schedule.curve={shape: cosine}"
    code, out, _ = replayed(capsys, str(record(tmp_path, curve, epochs=[(0, 1)], edit=change)))
    assert (code, out.endswith("cannot be decided again: begins after the end of the schedule\n")) == (1, True)


def test_what_is_decided_otherwise_is_named_with_both_and_ends_in_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def edit(fields: dict[str, Any]) -> None:
        if fields["epoch"] in (3, 4):
            fields["lr"] *= 1 + 2**-52
        if fields["epoch"] == 11:
            fields["plan"]["micro_batch"], fields["limited_by"] = 24, "the \x1b[2Jweather"
        if fields["epoch"] == 13:
            fields["plan"]["world_size"] = 500

    journal = record(tmp_path, "schedule.policy=measured", edit=edit)
    code, out, _ = replayed(capsys, str(journal))
    assert code == 1
    assert out.splitlines()[-4:] == [
        "14 decisions, 4 not decided again as recorded:",
        "epochs 3-4: lr was 0.20000000000000007 and is 0.2 now",
        "epoch 11: plan.micro_batch was 24 and is 48 now, limited_by was the \\x1b[2Jweather and is schedule now",
        "epoch 13: cannot be decided again: 500 workers cannot share a global batch of 48 samples: run at most 48 "
        "workers, or raise what limits the batch",
    ]


@pytest.mark.parametrize(
    ("epochs", "said"),
    [
        ([1, 2, 3, 4, 4, 5, 6, 7], "epochs 1-4, 4 once more, 5-7: "),  # resumed within epoch 4
        ([3, 4, 3, 4, 5], "epochs 3-4, 3-4 once more, 5: "),
        ([3, 3], "epochs 3, 3 once more: "),
        ([1, 2, 3], "epochs 1-3: "),
        ([3], "epoch 3: "),
    ],
)
def test_an_epoch_that_was_decided_for_another_time_is_told_apart(
    epochs: list[int], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = record(tmp_path, epochs=[(epoch, 1) for epoch in epochs], edit=put(0.3, "lr"))
    _, out, _ = replayed(capsys, str(journal))
    assert out.splitlines()[-1] == f"{said}lr was 0.3 and is 0.2 now"


def test_epochs_that_differ_in_the_same_way_are_told_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def edit(fields: dict[str, Any]) -> None:
        if fields["epoch"] in (2, 3, 6):
            fields["lr"] = 0.3
        if fields["plan"]["world_size"] == 2:
            fields["momentum"] = 0.5

    epochs = [(2, 1), (3, 1), (4, 1), (4, 2), (5, 1), (6, 1)]
    _, out, _ = replayed(capsys, str(record(tmp_path, epochs=epochs, edit=edit)))
    assert out.splitlines()[-3:] == [
        "6 decisions, 4 not decided again as recorded:",
        "epochs 2-3, 6: lr was 0.3 and is 0.2 now",
        "epoch 4 once more: momentum was 0.5 and is 0.9 now",  # the first of its decisions is as it was
    ]


def test_programs_get_every_decision_with_its_inputs_and_what_differs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def edit(fields: dict[str, Any]) -> None:
        if fields["epoch"] == 2:
            fields["gain"] = 1.5

    code, out, _ = replayed(capsys, str(record(tmp_path, "schedule.policy=adascale", edit=edit)), "--json")
    document = json.loads(out)
    assert code == 1
    assert {key: document[key] for key in ("name", "run_uid", "policy", "is_same")} == {
        "name": GROW,
        "run_uid": "run-1",
        "policy": "adascale",
        "is_same": False,
    }
    first, _, third = document["decisions"][:3]
    assert (first["is_same"], first["gradient_noise_scale"], first["heard"]["noise"]) == (True, None, None)
    assert (third["is_same"], third["gradient_noise_scale"], third["plan"]["micro_batch"]) == (False, 40.0, 16)
    assert first["gradient_noise_scale_at_least"] is None
    assert third["gradient_noise_scale_at_least"] == measured_at(2).at_least < 40 - 4
    assert third["differences"] == [{"field": "gain", "recorded": 1.5, "decided": 1.0}]
