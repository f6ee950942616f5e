"""What a comparison says in words, against arithmetic by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.recorded_runs import record_run, record_two_recipes
from trainer.report.page import page
from trainer.report.report import compare_runs
from trainer.report.runs import RunRecord, load_runs
from trainer.tracking import FINISHED, RUNNING, Journal, RunStart, TrackingError

pytestmark = pytest.mark.unit


@pytest.fixture
def runs(tmp_path: Path) -> tuple[RunRecord, ...]:
    return record_two_recipes(tmp_path)


def test_the_findings_say_what_was_saved_and_whether_the_accuracies_agree(runs: tuple[RunRecord, ...]) -> None:
    # Finals 94 and 96 % against 95 and 95 %: a standard error of 1 point with one degree of freedom, t = 12.71.
    assert compare_runs(runs).findings == (
        "grow ends within the spread of the seeds of decay-lr (a difference that is sure to be clear: 12.71 points).",
        "grow took 50 % fewer updates than decay-lr (150 instead of 300) and 25 % less time (4.50 ± 0.00 s instead of "
        "6.00 ± 0.00 s) and ended at 95.00 ± 0.00 %, level with the 95.0 ± 1.4 % of decay-lr (95 % confidence interval "
        "\N{MINUS SIGN}12.71 to +12.71; Welch's t-test, n = 2 and 2, p = 1): within the spread of the seeds. "
        "A difference of 12.71 points or more would have been clear. To 90 % it took 60 % fewer updates (100 instead "
        "of 250 ± 71) and 40 % less time (3.00 ± 0.00 s instead of 5.00 ± 1.41 s).",
    )


def test_on_a_saturated_fleet_the_findings_say_that_updates_were_saved_and_time_was_not(tmp_path: Path) -> None:
    record_run(tmp_path, "decay-lr", 0, [0.5, 0.8], updates_per_epoch=100, target="null")
    record_run(tmp_path, "grow", 0, [0.5, 0.8], updates_per_epoch=20, target="null", policy="batch")
    headline, finding = compare_runs(load_runs([str(tmp_path)], None, None)).findings
    assert headline == (
        "The seeds cannot tell whether grow agrees with decay-lr: that takes two finished runs or more of each, "
        "and some spread among them."
    )
    assert finding == (
        "grow took 80 % fewer updates than decay-lr (40 instead of 200) and about the same time (4.00 s each) "
        "and ended at 80.0 %, against 80.0 %."
    )


def record_samples(folder: Path, name: str, samples: Sequence[int], gains: Sequence[float] = ()) -> None:
    """A run with batches of 128 that had read so many samples after each epoch."""
    journal = Journal(folder / name / "journal.jsonl")
    journal.start(RunStart(name, name, "e", {"name": name}, {}, {}))
    for epoch, seen in enumerate(samples, 1):
        gain = {"optim/gain": gains[epoch - 1]} if gains else {}
        numbers = {"updates": seen / 128, "elapsed_s": epoch, "batch/global": 128, "samples_seen": seen}
        journal.log(epoch, {"val/top1": 0.5, **numbers, **gain})
    journal.close(FINISHED, {})


def test_a_run_that_read_more_samples_than_the_first_is_told_and_has_its_column(tmp_path: Path) -> None:
    record_samples(tmp_path, "1-decay", [1000, 2000])
    record_samples(tmp_path, "2-ada", [1000, 2000, 3100], [1.0, 2.25, 1.5])
    record_samples(tmp_path, "3-grow", [1000, 1950])
    report = compare_runs(load_runs([str(tmp_path)], None, None))
    place = report.table.headers.index("samples read")
    assert [row[place] for row in report.table.rows] == ["2,000", "3,100 (0.65x)", "1,950 (1.03x)"]
    _, ada, grow = report.findings
    assert ada.endswith(
        "It read 1.55 times as many samples (3,100 instead of 2,000): AdaScale's gain was between 1 and 2.2."
    )
    assert "samples" not in grow


@pytest.mark.parametrize(("other", "differs"), [(1872, False), (1871, True), (2128, False), (2129, True)])
def test_a_batch_that_is_left_over_is_no_difference_in_samples(tmp_path: Path, other: int, differs: bool) -> None:
    record_samples(tmp_path, "a", [1000, 2000])
    record_samples(tmp_path, "b", [1000, other])
    report = compare_runs(load_runs([str(tmp_path)], None, None))
    assert ("samples read" in report.table.headers) is differs
    assert ("as many samples" in " ".join(report.findings)) is differs


def test_a_difference_in_samples_that_no_table_shows_is_none(tmp_path: Path) -> None:
    record_samples(tmp_path, "a", [1_000_000])
    record_samples(tmp_path, "b", [1_009_999])
    assert "samples read" not in compare_runs(load_runs([str(tmp_path)], None, None)).table.headers


def test_the_headline_sorts_the_schedules_by_what_the_seeds_can_tell(tmp_path: Path) -> None:
    finals = {
        "decay-lr": [0.940, 0.942, 0.944],
        "near": [0.9395, 0.942, 0.9445],
        "far": [0.900, 0.901, 0.902],
        "further": [0.800, 0.801, 0.802],
        "high": [0.990, 0.991, 0.992],
        "single": [0.93],
    }
    for name, tops in finals.items():
        for seed, top1 in enumerate(tops):
            record_run(tmp_path / name, name, seed, [top1])
    report = compare_runs(load_runs([str(tmp_path / name) for name in finals], None, None))
    assert report.findings[0] == (
        "near ends within the spread of the seeds of decay-lr (a difference that is sure to be clear: 0.82 points). "
        "high ends higher than decay-lr, more than the seeds explain. far and further end lower than decay-lr, more "
        "than the seeds explain. The seeds cannot tell whether single agrees with decay-lr: that takes two finished "
        "runs or more of each, and some spread among them."
    )
    assert report.agreement is not None
    assert [row[-1] for row in report.agreement.rows] == ["within", "lower", "lower", "higher", "cannot tell"]


def test_what_is_clear_alone_but_not_as_one_of_several_is_called_neither(tmp_path: Path) -> None:
    # 0.54 points below, with a standard error of sqrt(2/3) 0.2 points: t = 3.307, 4 degrees, p = 0.0297, by Holm 0.059.
    finals = {
        "decay-lr": [0.940, 0.942, 0.944],
        "near": [0.9395, 0.942, 0.9445],
        "below": [0.9346, 0.9366, 0.9386],
    }
    for name, tops in finals.items():
        for seed, top1 in enumerate(tops):
            record_run(tmp_path / name, name, seed, [top1])
    headline, _, below = compare_runs(load_runs([str(tmp_path / name) for name in finals], None, None)).findings
    assert headline.endswith("below ends lower than decay-lr: clear if asked alone, but not as one of 2 comparisons.")
    assert (
        "0.54 points below the 94.20 ± 0.20 % of decay-lr (95 % confidence interval \N{MINUS SIGN}0.99 to "
        "\N{MINUS SIGN}0.09; Welch's t-test, n = 3 and 3, p = 0.059): clear if asked alone, but not among several."
    ) in below


def test_where_no_difference_could_have_been_clear_that_is_said(tmp_path: Path) -> None:
    for name, tops in {"good": [0.94, 0.95], "lost": [0.1, 0.9]}.items():
        for seed, top1 in enumerate(tops):
            record_run(tmp_path / name, name, seed, [top1])
    report = compare_runs(load_runs([str(tmp_path / "good"), str(tmp_path / "lost")], None, None))
    assert "With so few seeds and such a spread no difference at all would have been clear." in report.findings[1]
    assert report.agreement is not None
    assert report.agreement.rows[0][4] == "none"


def test_the_findings_say_who_missed_the_target(tmp_path: Path) -> None:
    record_run(tmp_path, "decay-lr", 0, [0.5, 0.95])
    record_run(tmp_path, "grow", 0, [0.5, 0.8], policy="batch")
    _, finding = compare_runs(load_runs([str(tmp_path)], None, None)).findings
    assert finding.endswith("It did not reach 90 %, as decay-lr did.")


def test_a_single_run_is_reported_alone(tmp_path: Path) -> None:
    record_run(tmp_path, "alone", 0, [0.5, 0.95])
    report = compare_runs(load_runs([str(tmp_path)], None, None))
    assert report.findings == ("alone ended at 95.0 %. It reached 90 % after 200 updates and 4.00 s.",)
    assert report.agreement is None
    assert "In words" not in page(report, ())


def test_finished_runs_count_and_the_others_are_named(tmp_path: Path) -> None:
    record_run(tmp_path, "a", 0, [0.5, 0.9])
    record_run(tmp_path, "a", 1, [0.1], status="FAILED", **{"schedule.epochs": "2"})
    record_run(tmp_path, "b", 0, [0.7], status="KILLED")
    report = compare_runs(load_runs([str(tmp_path)], None, None))
    assert [row[:3] for row in report.table.rows] == [("a", "1, 1 failed", "90.0 %"), ("b", "1 killed", "70.0 %")]
    assert report.findings[1:] == (
        "b broke off at 70.0 %, a ended at 90.0 %. It did not reach 90 %, as a did.",
        "1 run of a has not finished and is not in its numbers.",
    )


def test_a_run_under_way_stands_where_it_is(tmp_path: Path) -> None:
    record_run(tmp_path, "a", 0, [0.5, 0.9])
    path = record_run(tmp_path, "b", 0, [0.7], status=None)
    (run_of_a, run_of_b) = load_runs([str(tmp_path)], None, None)
    under_way = replace(run_of_b, status=RUNNING)
    assert "b stands so far at 70.0 %, a ended at 90.0 %." in compare_runs([run_of_a, under_way]).findings[1], path


def test_a_seed_that_was_done_again_has_not_gone_missing(tmp_path: Path) -> None:
    record_run(tmp_path / "first", "a", 0, [0.5], status="KILLED")
    record_run(tmp_path / "second", "a", 0, [0.7])
    report = compare_runs(load_runs([str(tmp_path / "first"), str(tmp_path / "second")], None, None))
    assert report.findings == ("a ended at 70.0 %. It did not reach 90 %.",)


def test_a_run_that_failed_in_its_first_epoch_is_a_result_too(tmp_path: Path) -> None:
    record_run(tmp_path, "a", 0, [0.9])
    record_run(tmp_path, "b", 0, [], status="FAILED")
    report = compare_runs(load_runs([str(tmp_path)], None, None))
    assert [group.label for group in report.groups] == ["a"]
    assert report.findings[-1] == "b broke off in its first epoch: loss is nan."
    with pytest.raises(TrackingError, match=r"failed in its first epoch \(loss is nan\): there is nothing to compare"):
        load_runs([str(tmp_path / "b-0-0")], None, None)
