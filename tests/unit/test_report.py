"""What a comparison says of runs, against arithmetic by hand."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from trainer.report.curves import mean_curve
from trainer.report.groups import Group, common_target, group_runs, recipe_differences
from trainer.report.outcome import Spread, arrival, change, outcome_of, spread
from trainer.report.report import compare_runs, write_report
from trainer.report.runs import RunRecord, load_runs
from trainer.report.table import rich_table, seeds
from trainer.report.units import accuracy, count, duration, percent_label, time_unit
from trainer.tracking import FINISHED, Journal, RunStart, TrackingError

pytestmark = pytest.mark.unit

PLAN = {
    "phases": [
        {
            "first_epoch": 0,
            "last_epoch": 2,
            "global_batch": 1024,
            "micro_batch": 32,
            "accumulation_steps": 16,
            "world_size": 2,
            "lr": 0.05,
            "momentum": 0.9,
            "sgd_noise_scale": 45.0,
            "limited_by": "reference",
            "updates": 270,
        }
    ]
}


def record_run(
    folder: Path,
    name: str,
    seed: int,
    top1: Sequence[float],
    updates_per_epoch: int = 100,
    epoch_s: float = 2.0,
    status: str | None = FINISHED,
    target: str = "0.9",
    **params: str,
) -> Path:
    """A journal with an epoch for each accuracy; batches double and lr halves at each epoch."""
    journal = Journal(folder / f"{name}-{seed}-{len(params)}" / "journal.jsonl")
    recipe = {"name": name, "seed": str(seed), "target_top1": target, "schedule.epochs": str(len(top1)), **params}
    uid = re.sub(r"[^a-z0-9-]", "_", f"{folder.name}-{journal.path.parent.name}")
    journal.start(RunStart(uid, name, "first", recipe, {"world_size": "2"}, {"plan.json": json.dumps(PLAN)}))
    for epoch, value in enumerate(top1, 1):
        journal.log(
            epoch,
            {
                "val/top1": value,
                "val/loss": 2.0 / epoch,
                "train/loss": 1.0 / epoch,
                "updates": updates_per_epoch * epoch,
                "elapsed_s": epoch_s * epoch,
                "batch/global": 2 ** (3 + epoch),
                "optim/lr": 0.1 / 2**epoch,
            },
        )
    if status is not None:
        journal.close(status, {}, None if status == FINISHED else "loss is nan")
    return journal.path


@pytest.fixture
def runs(tmp_path: Path) -> tuple[RunRecord, ...]:
    """Two seeds of a slow schedule, two of one with half the updates in three quarters of the time."""
    record_run(tmp_path, "decay-lr", 0, [0.5, 0.90, 0.94])
    record_run(tmp_path, "decay-lr", 1, [0.5, 0.80, 0.96])
    record_run(tmp_path, "grow", 0, [0.4, 0.91, 0.95], updates_per_epoch=50, epoch_s=1.5, policy="batch")
    record_run(tmp_path, "grow", 1, [0.4, 0.92, 0.95], updates_per_epoch=50, epoch_s=1.5, policy="batch")
    return load_runs([str(tmp_path)], None, None)


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
def test_the_terminal_shows_every_cell_whether_recipes_stand_side_by_side_or_below_each_other(
    tmp_path: Path, recipes: int
) -> None:
    for number in range(recipes):
        record_run(tmp_path, f"recipe-{number}", 0, [0.5, 0.9], updates_per_epoch=100 + number)
    table = compare_runs(load_runs([str(tmp_path)], None, None)).table
    console = Console(file=StringIO(), width=250)
    console.print(rich_table(table, "Comparison"))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert all(cell in shown for row in table.rows for cell in (*row, *table.headers))


def test_the_findings_say_what_was_saved(runs: tuple[RunRecord, ...]) -> None:
    assert compare_runs(runs).findings == (
        "grow took 50 % fewer updates than decay-lr (150 instead of 300) and 25 % less time (4.50 ± 0.00 s instead of "
        "6.00 ± 0.00 s) and ended at 95.0 ± 0.0 %, against 95.0 ± 1.4 %. To 90 % it took 60 % fewer updates (100 "
        "instead of 250 ± 71) and 40 % less time (3.00 ± 0.00 s instead of 5.00 ± 1.41 s).",
    )


def test_on_a_saturated_fleet_the_findings_say_that_updates_were_saved_and_time_was_not(tmp_path: Path) -> None:
    record_run(tmp_path, "decay-lr", 0, [0.5, 0.8], updates_per_epoch=100, target="null")
    record_run(tmp_path, "grow", 0, [0.5, 0.8], updates_per_epoch=20, target="null", policy="batch")
    (finding,) = compare_runs(load_runs([str(tmp_path)], None, None)).findings
    assert finding == (
        "grow took 80 % fewer updates than decay-lr (40 instead of 200) and about the same time (4.00 s each) "
        "and ended at 80.0 %, against 80.0 %."
    )


def test_the_findings_say_who_missed_the_target(tmp_path: Path) -> None:
    record_run(tmp_path, "decay-lr", 0, [0.5, 0.95])
    record_run(tmp_path, "grow", 0, [0.5, 0.8], policy="batch")
    (finding,) = compare_runs(load_runs([str(tmp_path)], None, None)).findings
    assert finding.endswith("It did not reach 90 %, as decay-lr did.")


def test_a_single_run_is_reported_alone(tmp_path: Path) -> None:
    record_run(tmp_path, "alone", 0, [0.5, 0.95])
    report = compare_runs(load_runs([str(tmp_path)], None, None))
    assert report.findings == ("alone ended at 95.0 %. It reached 90 % after 200 updates and 4.00 s.",)
    assert write_report(report, tmp_path / "out")[0].exists()


def test_finished_runs_count_and_the_others_are_named(tmp_path: Path) -> None:
    record_run(tmp_path, "a", 0, [0.5, 0.9])
    record_run(tmp_path, "a", 1, [0.1], status="FAILED", **{"schedule.epochs": "2"})
    record_run(tmp_path, "b", 0, [0.7], status="KILLED")
    report = compare_runs(load_runs([str(tmp_path)], None, None))
    assert [row[:3] for row in report.table.rows] == [("a", "1, 1 failed", "90.0 %"), ("b", "1 killed", "70.0 %")]
    assert report.findings[0].startswith("b stands so far at 70.0 %, a ended at 90.0 %.")


def test_a_run_that_logs_little_is_compared_as_far_as_it_goes(tmp_path: Path) -> None:
    for number, metrics in enumerate([{"other": 1.0}, {"val/top1": math.nan}, {"val/top1": 0.5, "updates": 0}]):
        journal = Journal(tmp_path / str(number) / "journal.jsonl")
        journal.start(RunStart(f"u{number}", f"n{number}", "e", {}, {}, {"plan.json": "[1, {"}))
        journal.log(1, metrics)
        journal.close(FINISHED, {})
    report = compare_runs(load_runs([str(tmp_path)], None, None))
    assert report.table.rows[0][2:] == ("-", "-", "-", "-")
    assert write_report(report, tmp_path / "out")[0].exists()


def test_a_curve_is_the_mean_over_seeds_with_a_band_of_one_standard_deviation(runs: tuple[RunRecord, ...]) -> None:
    slow, _ = group_runs(runs)
    curve = mean_curve(slow, "val/top1", "updates", factor=100)
    assert curve.x == (100.0, 200.0, 300.0)
    assert curve.mean == pytest.approx((50.0, 85.0, 95.0))
    assert curve.low[1] == pytest.approx(85 - math.sqrt(50))  # 80 and 90
    assert curve.high[1] == pytest.approx(85 + math.sqrt(50))
    assert curve.has_band
    assert not mean_curve(Group("one", slow.runs[:1], ()), "val/top1").has_band
    assert mean_curve(slow, "never/logged").x == ()


def test_a_curve_keeps_to_the_epochs_that_all_its_runs_have(tmp_path: Path) -> None:
    record_run(tmp_path, "a", 0, [0.2, 0.4, 0.6], **{"schedule.epochs": "9"})
    record_run(tmp_path, "a", 1, [0.4, 0.6], **{"schedule.epochs": "9"})
    (group,) = group_runs(load_runs([str(tmp_path)], None, None))
    assert mean_curve(group, "val/top1").mean == pytest.approx((0.3, 0.5))


@pytest.mark.parametrize(
    ("times_s", "unit"), [([0.1, 179], "s"), ([1, 180], "min"), ([10_000], "min"), ([10_800, 1], "h"), ([], "s")]
)
def test_times_are_in_the_unit_that_suits_the_longest(times_s: list[float], unit: str) -> None:
    assert time_unit([*times_s, math.nan]).name == unit


def test_numbers_are_written_as_people_write_them() -> None:
    minutes = time_unit([600])
    assert duration(Spread(754.2, 12.0, 3), minutes) == "12.6 ± 0.2 min"
    assert accuracy(Spread(0.98765, math.nan, 1)) == "98.8 %"
    assert count(Spread(80_000.0, math.nan, 1)) == "80,000"
    assert count(Spread(2.5, 0.5, 2)) == "2.5 ± 0.5"
    assert [percent_label(value) for value in (0.76, 0.975, 0.29, 1.0)] == ["76 %", "97.5 %", "29 %", "100 %"]
    assert (duration(None, minutes), accuracy(None), count(None)) == ("-", "-", "-")


class PageReader(HTMLParser):
    """Collects what a browser would fetch, and the text that it would show."""

    def __init__(self) -> None:
        super().__init__()
        self.resources: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("link", "script", "iframe"):
            self.resources.append(tag)
        self.resources += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_shows_everything_and_fetches_nothing(runs: tuple[RunRecord, ...], tmp_path: Path) -> None:
    report = compare_runs(runs)
    page, *pictures = write_report(report, tmp_path / "out" / "deep")
    assert page.name == "report.html"
    assert [picture.name for picture in pictures] == ["summary.png", "accuracy.png", "loss.png", "schedule.png"]
    assert all(picture.read_bytes().startswith(b"\x89PNG") for picture in pictures)
    html = page.read_text("utf-8")
    reader = PageReader()
    reader.feed(html)
    assert len(reader.resources) == 4
    assert all(resource.startswith("data:image/png;base64,") for resource in reader.resources)
    assert not re.search(r"url\(|@import|https?:", html)
    text = reader.text.replace("\N{NO-BREAK SPACE}", " ").replace("\N{NON-BREAKING HYPHEN}", "-")
    assert all(finding in text for finding in report.findings)
    cells = [part for row in report.table.rows for cell in row for part in cell.split(" (")]
    assert all(cell in text for cell in cells)
    for expected in ("policy", "batch", "32 x 16 x 2", "1,024", "reference", *(run.run_uid for run in runs)):
        assert expected in text


def test_names_are_text_on_the_page_whatever_they_hold(tmp_path: Path) -> None:
    record_run(tmp_path, "<script>alert(1)</script>".replace("/", ""), 0, [0.5], note="<b>&amp;")
    record_run(tmp_path, "other", 0, [0.5], note="x")
    page, *_ = write_report(compare_runs(load_runs([str(tmp_path)], None, None)), tmp_path / "out")
    html = page.read_text("utf-8")
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert "&lt;b&gt;&amp;amp;" in html


def test_a_folder_that_cannot_be_written_is_refused(runs: tuple[RunRecord, ...], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(TrackingError, match=r"cannot write the report .* give --output DIR"):
        write_report(compare_runs(runs), tmp_path / "file")


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
