"""What a comparison says of runs, against arithmetic by hand."""

from __future__ import annotations

import math
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from tests.recorded_runs import record_run, record_two_recipes
from trainer.config import flatten, load_config
from trainer.report.curves import mean_curve
from trainer.report.groups import Group, common_target, group_runs, recipe_differences
from trainer.report.outcome import Spread, arrival, change, outcome_of, spread
from trainer.report.report import compare_runs
from trainer.report.runs import EPOCHS_SEEN, RunRecord, load_runs
from trainer.report.table import rich_tables, seeds
from trainer.report.units import (
    accuracy,
    count,
    duration,
    listed,
    p_value,
    percent_label,
    signed_percent_of,
    signed_points,
    significant,
    time_unit,
)
from trainer.tracking import FINISHED, Journal, RunStart, TrackingError

pytestmark = pytest.mark.unit


@pytest.fixture
def runs(tmp_path: Path) -> tuple[RunRecord, ...]:
    return record_two_recipes(tmp_path)


def test_spread_is_the_mean_and_the_standard_deviation_of_a_sample() -> None:
    assert spread([2.0, 4.0, math.nan, math.inf, 9.0]) == Spread(5.0, math.sqrt((9 + 1 + 16) / 2), 3)
    single = spread([7.0])
    assert single is not None
    assert (single.mean, single.n, math.isnan(single.sd)) == (7.0, 1, True)
    assert spread([math.nan]) is None
    assert spread([]) is None


def test_the_target_is_met_at_the_first_epoch_at_or_above_it(runs: tuple[RunRecord, ...]) -> None:
    first, second, *_ = runs
    met = arrival(first, 0.9)
    assert met is not None
    assert (met.epoch, met.updates, met.elapsed_s) == (2, 200.0, 4.0)
    later = arrival(second, 0.9)
    assert later is not None
    assert later.epoch == 3
    assert arrival(first, 0.95) is None


def test_seeds_of_one_recipe_are_one_group_and_recipes_are_not_mixed(tmp_path: Path) -> None:
    record_run(tmp_path, "a", 0, [0.5])
    record_run(tmp_path, "a", 1, [0.5])
    record_run(tmp_path, "a", 2, [0.5], policy="hybrid")
    record_run(tmp_path, "b", 0, [0.5])
    groups = group_runs(load_runs([str(tmp_path)], None, None))
    assert [(group.label, [run.seed for run in group.runs]) for group in groups] == [
        ("a (policy=unset)", ["0", "1"]),
        ("a (policy=hybrid)", ["2"]),
        ("b", ["0"]),
    ]
    assert recipe_differences(groups) == {"policy": ("", "hybrid", "")}
    assert common_target(groups) == 0.9


def test_what_only_guards_a_run_is_no_part_of_its_recipe(tmp_path: Path) -> None:
    settings = flatten(load_config("digits-hybrid"))
    guards = {key: settings[key] for key in settings if key.startswith("checkpoints.") or key == "hang_timeout_s"}
    record_run(tmp_path, "a", 0, [0.5])
    record_run(tmp_path, "a", 1, [0.5], **guards, **{"data.max_unreadable": "3"})
    assert [group.label for group in group_runs(load_runs([str(tmp_path)], None, None))] == ["a"]


def test_a_run_that_was_done_again_counts_once_and_the_newest_counts(tmp_path: Path) -> None:
    record_run(tmp_path / "first", "a", 0, [0.5])
    record_run(tmp_path / "first", "a", 1, [0.6])
    record_run(tmp_path / "second", "a", 0, [0.7])
    (group,) = group_runs(load_runs([str(tmp_path / "first"), str(tmp_path / "second")], None, None))
    assert [run.values("val/top1") for run in group.runs] == [(0.6,), (0.7,)]
    assert seeds(group) == "2, 1 repeated"


def test_an_outcome_is_over_seeds_and_its_costs_end_at_the_target(runs: tuple[RunRecord, ...]) -> None:
    slow, fast = (outcome_of(group, 0.9) for group in group_runs(runs))
    assert slow.final_top1 == Spread(pytest.approx(0.95), pytest.approx(math.sqrt(2) / 100), 2)  # 0.94 and 0.96
    assert slow.whole_run.updates == Spread(300.0, 0.0, 2)
    assert slow.whole_run.time_s == Spread(6.0, 0.0, 2)
    assert (slow.reached, fast.reached) == (2, 2)
    assert slow.to_target is not None
    assert slow.to_target.epochs == Spread(2.5, math.sqrt(0.5), 2)  # epochs 2 and 3
    assert slow.to_target.updates == Spread(250.0, math.sqrt(5000), 2)
    assert fast.to_target is not None
    assert fast.to_target.time_s == Spread(3.0, 0.0, 2)


def test_a_change_is_clear_when_it_is_larger_than_both_spreads_together() -> None:
    half = change(Spread(50.0, 3.0, 3), Spread(100.0, 4.0, 3))
    assert half is not None
    assert (half.fraction, half.speed_up, half.is_clear) == (-0.5, 2.0, True)
    within = change(Spread(96.0, 3.0, 3), Spread(100.0, 4.0, 3))  # 4 apart, spreads together sqrt(9 + 16) = 5
    assert within is not None
    assert not within.is_clear
    assert change(None, Spread(1.0, 0.0, 2)) is None
    assert change(Spread(1.0, 0.0, 2), Spread(0.0, 0.0, 2)) is None


def test_the_table_has_means_spreads_and_speed_ups(runs: tuple[RunRecord, ...]) -> None:
    table = compare_runs(runs).table
    slow, fast = (dict(zip(table.headers, row, strict=True)) for row in table.rows)
    assert slow == {
        "schedule": "decay-lr",
        "seeds": "2",
        "final top-1": "95.0 ± 1.4 %",
        "best top-1": "95.0 ± 1.4 %",
        "updates": "300",
        "total time": "6.00 ± 0.00 s",
        "reached 90 %": "2 of 2",
        "epochs to 90 %": "2.5 ± 0.7",
        "updates to 90 %": "250 ± 71",
        "time to 90 %": "5.00 ± 1.41 s",
    }
    assert fast["updates"] == "150 (2.00x)"
    assert fast["total time"] == "4.50 ± 0.00 s (1.33x)"
    assert fast["updates to 90 %"] == "100 (2.50x)"
    assert fast["time to 90 %"] == "3.00 ± 0.00 s (1.67x)"


@pytest.mark.parametrize("recipes", [2, 6])
@pytest.mark.parametrize("width", [60, 80, 250])
def test_the_terminal_shows_every_cell_whatever_its_width(tmp_path: Path, recipes: int, width: int) -> None:
    for number in range(recipes):
        for seed in (0, 1):
            top1 = [0.5, 0.9 + 0.01 * seed]
            record_run(tmp_path, f"recipe-{number}", seed, top1, updates_per_epoch=100 + number, epoch_s=200 + number)
    table = compare_runs(load_runs([str(tmp_path)], None, None)).table
    console = Console(file=StringIO(), width=width)
    for part in rich_tables(table, "Comparison", width):
        console.print(part)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    # A speed-up may stand below its cost, and a header may break between words; nothing else may.
    pieces = [piece for row in table.rows for cell in row for piece in cell.replace(" (", "\n(").split("\n")]
    assert all(piece in shown for piece in (*pieces, *" ".join(table.headers).split()))
    assert max(map(len, shown.splitlines())) <= width


def test_a_narrow_terminal_folds_long_names_and_has_a_table_for_each_column(tmp_path: Path) -> None:
    for number in range(5):
        record_run(tmp_path, f"recipe-{number}-{'x' * 40}", 0, [0.5, 0.9])
    parts = rich_tables(compare_runs(load_runs([str(tmp_path)], None, None)).table, "Comparison", 36)
    assert [len(part.columns) for part in parts] == [2] * 9
    assert {part.columns[0].width for part in parts} == {28}


def test_a_wide_terminal_has_one_table_without_broken_cells(tmp_path: Path) -> None:
    for number in range(6):
        record_run(tmp_path, f"recipe-{number}", 0, [0.5, 0.9], updates_per_epoch=100 + number)
    table = compare_runs(load_runs([str(tmp_path)], None, None)).table
    (shown,) = rich_tables(table, "Comparison", 250)
    assert [column.width for column in shown.columns] == [
        max(map(len, column)) for column in zip(table.headers, *table.rows, strict=True)
    ]


def test_a_curve_is_the_mean_over_seeds_with_a_band_from_the_lowest_to_the_highest(runs: tuple[RunRecord, ...]) -> None:
    slow, _ = group_runs(runs)
    curve = mean_curve(slow, "val/top1", "updates", factor=100)
    assert curve.x == (100.0, 200.0, 300.0)
    assert curve.mean == pytest.approx((50.0, 85.0, 95.0))
    assert curve.low == pytest.approx((50, 80, 94))
    assert curve.high == pytest.approx((50, 90, 96))
    assert curve.has_band
    assert not mean_curve(Group("one", slow.runs[:1], ()), "val/top1").has_band
    assert mean_curve(slow, "never/logged").x == ()


def test_a_curve_keeps_to_the_epochs_that_all_its_runs_have(tmp_path: Path) -> None:
    record_run(tmp_path, "a", 0, [0.2, 0.4, 0.6], **{"schedule.epochs": "9"})
    record_run(tmp_path, "a", 1, [0.4, 0.6], **{"schedule.epochs": "9"})
    (group,) = group_runs(load_runs([str(tmp_path)], None, None))
    assert mean_curve(group, "val/top1").mean == pytest.approx((0.3, 0.5))


@pytest.mark.parametrize(
    ("times_s", "unit"),
    [
        ([0.1, 179], "s"),
        ([1, 180], "min"),
        ([10_000], "min"),
        ([10_800, 1], "h"),
        ([], "s"),
        ([259_199], "h"),
        ([259_200], "d"),
    ],
)
def test_times_are_in_the_unit_that_suits_the_longest(times_s: list[float], unit: str) -> None:
    assert time_unit([*times_s, math.nan]).name == unit


def test_numbers_are_written_as_people_write_them() -> None:
    minutes = time_unit([600])
    assert duration(Spread(754.2, 12.0, 3), minutes) == "12.6 ± 0.2 min"
    assert accuracy(Spread(0.98765, math.nan, 1)) == "98.8 %"
    assert accuracy(Spread(0.94312, 0.0018, 3)) == "94.31 ± 0.18 %"  # spreads below a point have two digits
    assert accuracy(Spread(0.94312, 0.0118, 3)) == "94.3 ± 1.2 %"
    assert [p_value(p) for p in (1.0, 0.354, 0.0312, 0.00312, 0.0009)] == [
        "p = 1",
        "p = 0.35",
        "p = 0.031",
        "p = 0.0031",
        "p < 0.001",
    ]
    assert [signed_points(value) for value in (0.0012, -0.0163, -0.00001)] == ["+0.12", "\N{MINUS SIGN}1.63", "0.00"]
    assert [listed(names) for names in (["a"], ["a", "b"], ["a", "b", "c"])] == ["a", "a and b", "a, b and c"]
    assert [significant(value) for value in (0.01234, 33.06, 61_920.4, 0)] == ["0.0123", "33.1", "61,920", "0"]
    assert [signed_percent_of(value) for value in (0.031, -0.4, 0.004)] == ["+3 %", "\N{MINUS SIGN}40 %", "same"]
    assert count(Spread(80_000.0, math.nan, 1)) == "80,000"
    assert count(Spread(2.5, 0.5, 2)) == "2.5 ± 0.5"
    assert [percent_label(value) for value in (0.76, 0.975, 0.29, 1.0)] == ["76 %", "97.5 %", "29 %", "100 %"]
    assert (duration(None, minutes), accuracy(None), count(None)) == ("-", "-", "-")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere", "nowhere: no such journal or folder, and no MLflow run id"),
        ("0123456789abcdef0123456789abcdef", "there is no MLflow store to look in: give --tracking URI"),
    ],
)
def test_a_run_that_is_not_there_is_refused(source: str, message: str) -> None:
    with pytest.raises(TrackingError, match=message):
        load_runs([source], None, None)


def test_a_run_without_an_epoch_is_refused_by_name(tmp_path: Path) -> None:
    path = record_run(tmp_path, "fresh", 0, [], status=None)
    with pytest.raises(TrackingError, match=f"{path}: has no finished epoch yet"):
        load_runs([str(path)], None, None)


def test_epochs_are_counted_in_samples_where_the_size_of_the_dataset_is_known(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "run" / "journal.jsonl")
    journal.start(RunStart("u", "n", "e", {}, {}, {"plan.json": '{"dataset_size": 1000, "phases": []}'}))
    for epoch, samples in ((1, 1024), (2, 2048), (3, 2304)):
        journal.log(epoch, {"val/top1": 0.5, "samples_seen": samples})
    journal.close(FINISHED, {})
    (run,) = load_runs([str(journal.path)], None, None)
    assert run.values(EPOCHS_SEEN) == (1.024, 2.048, 2.304)
    assert mean_curve(group_runs([run])[0], "val/top1").x == (1.024, 2.048, 2.304)
