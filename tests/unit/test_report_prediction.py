"""Predicted beside measured, after a run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.recorded_runs import record_two_recipes
from trainer.report.page import page
from trainer.report.prediction import PREDICTION_NOTE
from trainer.report.report import compare_runs
from trainer.report.runs import load_runs
from trainer.report.table import Table, rich_tables
from trainer.tracking import FINISHED, Journal, RunStart

pytestmark = pytest.mark.unit

MINUS = "\N{MINUS SIGN}"


def plan_of(predicts: bool = True) -> dict[str, Any]:
    """Two phases: epochs 0 and 1 of 100 updates, 0.1 s each; epoch 2 of 20, 0.2 s each; 1 s after each epoch."""

    def phase(first: int, last: int, updates: int, update_s: float) -> dict[str, Any]:
        between = (last - first + 1) * 0.5
        predicted = {"update_s": update_s, "evaluation_s": between, "epochs_s": between}
        part = {"predicted": predicted} if predicts else {}
        return {"first_epoch": first, "last_epoch": last, "updates": updates, **part}

    phases = [phase(0, 1, 100, 0.1), phase(2, 2, 20, 0.2)]
    return {"predicted_seconds": 17.0 if predicts else None, "phases": phases}


def record(
    folder: Path,
    name: str,
    seed: int,
    plan: Mapping[str, Any],
    train_s: tuple[float, ...] = (6.0, 12.0, 16.0),
    elapsed_s: tuple[float, ...] = (7.0, 14.0, 18.7),
    **params: str,
) -> None:
    journal = Journal(folder / f"{name}-{seed}" / "journal.jsonl")
    recipe = {"seed": str(seed), **params}
    journal.start(RunStart(f"{name}-{seed}", name, "e", recipe, {}, {"plan.json": json.dumps(plan)}))
    for epoch, (train, elapsed) in enumerate(zip(train_s, elapsed_s, strict=True), 1):
        metrics = {"val/top1": 0.5, "updates": 10 * epoch, "time/train_s": train, "elapsed_s": elapsed}
        journal.log(epoch, metrics)
    journal.close(FINISHED, {})


def prediction(folder: Path) -> Table:
    table = compare_runs(load_runs([str(folder)], None, None)).prediction
    assert table is not None
    return table


def test_the_whole_run_and_the_training_of_each_phase_are_held_against_their_predictions(tmp_path: Path) -> None:
    record(tmp_path, "grow", 0, plan_of())
    table = prediction(tmp_path)
    assert table.headers == ("schedule", "predicted", "measured", "difference")
    assert [tuple(cell.strip() for cell in row) for row in table.rows] == [
        ("grow", "17.0 s", "18.7 s", "+10 %"),
        ("training, epochs 0-1", "10.0 s", "12.0 s", "+20 %"),  # 100 x 0.1
        ("training, epoch 2", "4.00 s", "4.00 s", "same"),  # 20 x 0.2; 16 - 12
        ("between epochs", "3.00 s", "2.70 s", f"{MINUS}10 %"),  # 18.7 - 16
    ]


def test_seeds_are_a_mean_with_its_spread(tmp_path: Path) -> None:
    record(tmp_path, "grow", 0, plan_of(), elapsed_s=(7.0, 14.0, 17.0))
    record(tmp_path, "grow", 1, plan_of(), elapsed_s=(7.0, 14.0, 19.0))
    first, *_ = prediction(tmp_path).rows
    assert first == ("grow", "17.0 s", "18.0 ± 1.4 s", "+6 %")  # one prediction for both: no spread


def test_runs_without_a_prediction_look_as_before(tmp_path: Path) -> None:
    record(tmp_path, "old", 0, plan_of(predicts=False))
    report = compare_runs(load_runs([str(tmp_path)], None, None))
    assert report.prediction is None
    assert "predicted" not in page(report, ()).lower()
    assert compare_runs(record_two_recipes(tmp_path / "others")).prediction is None


def test_only_schedules_with_a_prediction_are_in_the_table(tmp_path: Path) -> None:
    record(tmp_path, "grow", 0, plan_of())
    record(tmp_path, "old", 0, plan_of(predicts=False))
    assert [row[0] for row in prediction(tmp_path).rows if not row[0].startswith("\N{NO-BREAK SPACE}")] == ["grow"]


def test_a_calibration_is_no_part_of_the_recipe(tmp_path: Path) -> None:
    record(tmp_path, "grow", 0, plan_of(), calibration="a.json")
    record(tmp_path, "grow", 1, plan_of(predicts=False), calibration="null")
    report = compare_runs(load_runs([str(tmp_path)], None, None))
    assert [group.label for group in report.groups] == ["grow"]
    # the seed without a prediction is measured, but no part of the difference
    assert prediction(tmp_path).rows[0] == ("grow", "17.0 s", "18.7 ± 0.0 s", "+10 %")


def test_a_setting_that_is_null_is_that_of_a_version_without_it(tmp_path: Path) -> None:
    record(tmp_path, "grow", 0, plan_of())
    record(tmp_path, "grow", 1, plan_of(), fleet="null")
    assert len(compare_runs(load_runs([str(tmp_path)], None, None)).groups) == 1


def test_settings_that_a_version_did_not_have_yet_are_those_it_went_by(tmp_path: Path) -> None:
    record(tmp_path, "grow", 0, plan_of())
    new = {"memory_format": "auto", "compile": "false", "gradients.wire": "float32", "optimizer.fused": "null"}
    record(tmp_path, "grow", 1, plan_of(), **new)
    record(tmp_path, "grow", 2, plan_of(), **{**new, "compile": "true"})
    groups = compare_runs(load_runs([str(tmp_path)], None, None)).groups
    assert [group.label for group in groups] == ["grow (compile=false)", "grow (compile=true)"]


def test_a_run_that_broke_off_counts_as_far_as_it_got(tmp_path: Path) -> None:
    record(tmp_path, "grow", 0, plan_of(), train_s=(6.0, 12.0), elapsed_s=(7.0, 14.0))
    whole, first, second, between = prediction(tmp_path).rows
    assert whole[1:] == ("17.0 s", "-", "-")
    assert first[2:] == ("12.0 s", "+20 %")
    assert (second[2], between[2]) == ("-", "-")


def test_a_run_that_went_beyond_its_plan_is_held_against_it_at_its_end(tmp_path: Path) -> None:
    record(tmp_path, "ada", 0, plan_of(), train_s=(6.0, 12.0, 16.0, 20.0), elapsed_s=(7.0, 14.0, 18.7, 23.4))
    whole, *_, last, between = prediction(tmp_path).rows
    assert whole[1:] == ("17.0 s", "23.4 s", "+38 %")
    assert last[1:] == ("4.00 s", "4.00 s", "same")
    assert between[2] == "3.40 s"


@pytest.mark.parametrize(
    "part", [None, 3, {"update_s": "x", "evaluation_s": True}, {"update_s": [1]}, {}], ids=lambda part: str(part)
)
def test_a_plan_that_says_little_is_taken_as_far_as_it_goes(tmp_path: Path, part: Any) -> None:
    plan = plan_of()
    plan["phases"][0]["predicted"] = part
    plan["phases"][1] = {"predicted": part}
    record(tmp_path, "grow", 0, plan)
    whole, first, second, _ = prediction(tmp_path).rows
    assert (whole[1], first[1], second[1]) == ("17.0 s", "-", "-")


def test_the_page_shows_the_table_and_says_what_it_holds(tmp_path: Path) -> None:
    record(tmp_path, "grow", 0, plan_of())
    html = page(compare_runs(load_runs([str(tmp_path)], None, None)), ())
    assert "<h2>As predicted?</h2>" in html
    assert "<td>17.0 s</td><td>18.7 s</td><td>+10&nbsp;%</td>" in html
    assert PREDICTION_NOTE in html
    assert html.count('<tr class="part">') == 3  # two phases, and what lies between epochs


def test_the_parts_of_one_schedule_stand_below_each_other_in_the_terminal(tmp_path: Path) -> None:
    record(tmp_path, "grow", 0, plan_of())
    (shown,) = rich_tables(prediction(tmp_path), "As predicted?", 80)
    assert [str(column.header) for column in shown.columns] == ["schedule", "predicted", "measured", "difference"]
