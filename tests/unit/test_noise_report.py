"""What a comparison shows and says of the measured gradient noise scale. Batches: 16, 32, 64, 128, epoch by epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import matplotlib
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import FillBetweenPolyCollection, LineCollection
from matplotlib.lines import Line2D

from tests.recorded_runs import Measured, compare_measured, record_run
from trainer.report.figures.gallery import draw_figures
from trainer.report.figures.noise import noise_figure
from trainer.report.figures.schedule import schedule_figure
from trainer.report.figures.style import LOOK
from trainer.report.measured_noise import measured_epochs
from trainer.report.report import Report, compare_runs, write_report
from trainer.report.runs import load_runs
from trainer.tracking import FINISHED, Journal, RunStart

pytestmark = pytest.mark.unit

PLANNED = {"schedule.policy": "planned", "gradient_probe.every": "10", "gradient_probe.memory_epochs": "1.0"}


def curves(axes: Axes) -> list[Line2D]:
    """The lines of measured scales."""
    return [line for line in axes.get_lines() if line.get_marker() != "None" and len(line.get_xdata())]


def bands(axes: Axes) -> list[FillBetweenPolyCollection]:
    return [part for part in axes.collections if isinstance(part, FillBetweenPolyCollection)]


def test_the_measured_scale_stands_above_with_the_batch_and_the_planned_noise_below(tmp_path: Path) -> None:
    report = compare_measured(tmp_path, {"grow": [[(20, 2), (40, 4), (30, 3)]]})
    above, below = noise_figure(report.groups).axes
    assert (above.get_yscale(), below.get_yscale()) == ("log", "log")
    assert above.get_ylabel() == "gradient noise scale, measured,\nand global batch (samples)"
    assert below.get_ylabel() == "SGD noise scale, as set"
    assert (above.get_xlabel(), below.get_xlabel()) == ("", "epochs")
    (scale,) = curves(above)
    assert list(zip(scale.get_xdata(), scale.get_ydata(), strict=True)) == [(1, 20), (2, 40), (3, 30)]
    batch = next(line for line in above.get_lines() if line.get_drawstyle() == "steps-pre")
    assert list(batch.get_ydata()) == [16, 16, 32, 64]
    assert batch.get_color() == scale.get_color()
    assert batch.get_linewidth() < scale.get_linewidth()
    (steps,) = below.get_lines()
    assert list(steps.get_ydata()) == [25, 25, 6.25, 1.5625]
    assert list(steps.get_xdata()) == [0, 1, 2, 3]


def test_the_band_is_an_error_to_either_side_or_the_range_of_the_seeds(tmp_path: Path) -> None:
    one = compare_measured(tmp_path / "one", {"grow": [[(20, 2), (40, 4)]]})
    assert [epoch.band for epoch in measured_epochs(one.groups[0])] == [(18, 22), (36, 44)]
    three = compare_measured(
        tmp_path / "three", {"grow": [[(20, 3), (40, 4)], [(24, 4), (40, 4)], [(28, 12), (70, 4)]]}
    )
    first, second = measured_epochs(three.groups[0])
    assert (first.scale, first.band) == (24, (20, 28))
    assert first.error == pytest.approx(13 / 3)  # sqrt(3^2 + 4^2 + 12^2) of the sum of three
    (drawn,) = bands(noise_figure(three.groups).axes[0])
    assert sorted(drawn.get_paths()[0].vertices[:, 1])[0] == 20
    assert sorted(drawn.get_paths()[0].vertices[:, 1])[-1] == second.band[1] == 70


def test_an_epoch_that_was_not_measured_is_a_gap_and_a_lone_one_has_its_marker_and_bar(tmp_path: Path) -> None:
    noise = [(20, 2), (40, 4), None, (60, 5), None, (100, 5), (110, 5)]
    above, _ = noise_figure(compare_measured(tmp_path, {"grow": [noise]}).groups).axes
    assert [list(line.get_xdata()) for line in curves(above)] == [[1, 2], [4], [6, 7]]
    lone = curves(above)[1]
    assert lone.get_markevery() == 1
    bars = [part for part in above.collections if isinstance(part, LineCollection)]
    assert [bar.get_segments()[0].tolist() for bar in bars] == [[[4, 55], [4, 65]]]


def test_an_epoch_that_one_seed_could_not_measure_is_no_epoch_of_the_mean(tmp_path: Path) -> None:
    lost = compare_measured(tmp_path, {"grow": [[(20, 2), (40, 4), (50, 5)], [(20, 2), None, (0, 5)]]}).groups[0]
    assert [epoch.epoch for epoch in measured_epochs(lost)] == [1]


def test_a_scale_below_its_error_in_one_seed_is_a_gap_and_clips_no_line(tmp_path: Path) -> None:
    seeds: list[Measured] = [[(20, 2), (40, 4), (50, 5)], [(20, 2), (60_000, 200_000), (50, 5)]]
    above, _ = noise_figure(compare_measured(tmp_path, {"grow": seeds}).groups).axes
    assert [list(line.get_xdata()) for line in curves(above)] == [[1], [3]]
    assert above.get_ylim()[1] < 200


def test_no_figure_of_the_noise_is_drawn_where_nothing_was_measured_beyond_its_error(tmp_path: Path) -> None:
    report = compare_measured(tmp_path, {"grow": [[(20, 30), (0, 5)]]})
    assert "noise.png" not in [picture.file_name for picture in draw_figures(report.outcomes, None)]
    assert "noise" not in " ".join(report.table.headers)


def test_the_log_axis_shows_all_batches_and_does_not_follow_a_band_down_to_nothing(tmp_path: Path) -> None:
    noise = [(20, 19.9), (40, 4), (45, 4), (60, 59.9)]
    above, _ = noise_figure(compare_measured(tmp_path, {"grow": [noise]}).groups).axes
    low, high = above.get_ylim()
    assert 5 < low < 16
    assert 128 < high < 500
    (band,) = bands(above)
    corners = band.get_paths()[0].vertices[:, 1]
    assert min(corners) == low  # 20 - 19.9 lies far below it
    assert all(map(math.isfinite, corners))


def synthetic(folder: Path, epochs: int = 15, extra: Mapping[str, float] | None = None) -> Report:
    """Four schedules of batches up to 5,120, whose updates end a little after each epoch; the scale ends at 8,000."""
    for place, name in enumerate(("decay-lr", "hybrid", "increase-batch", "bolder")):
        journal = Journal(folder / name / "journal.jsonl")
        plan = '{"dataset_size": 50000, "phases": [{"first_epoch": 0, "last_epoch": 11, "updates": 9}]}'
        journal.start(RunStart(name, name, "noise", {"seed": "0", "of": name}, {}, {"plan.json": plan}))
        for epoch in range(1, epochs + 1):
            batch = (128, 640, 5120)[min(place, (epoch > 6) + (epoch > 11))] if place < 3 else 1500
            scale = 200 * 40 ** (epoch / epochs)
            journal.log(
                epoch,
                {
                    "val/top1": 0.9 - 1 / (epoch + 2),
                    "train/loss": 1 / epoch,
                    "updates": 100 * epoch,
                    "elapsed_s": epoch,
                    "samples_seen": -(-50_000 * epoch // batch) * batch,
                    "batch/global": batch,
                    "optim/lr": 0.1,
                    "noise/sgd": 0.1 / 5 ** ((epoch > 6) + (epoch > 11)),
                    "noise/gradient": scale,
                    "noise/gradient_error": 0.3 * scale,
                    **(extra or {}),
                },
            )
        journal.close(FINISHED, {})
    return compare_runs(load_runs([str(folder)], None, None))


def test_nothing_is_cut_off_and_no_numbers_touch_with_four_schedules(tmp_path: Path) -> None:
    with matplotlib.rc_context(LOOK):
        figure = noise_figure(synthetic(tmp_path).groups)
        figure.draw_without_rendering()
        written = figure.get_tightbbox()
        assert min(written.x0, written.y0) >= -0.01  # inches
        assert written.x1 <= figure.get_figwidth() + 0.01
        assert written.y1 <= figure.get_figheight() + 0.01
        for axes in figure.axes:
            low, high = axes.get_ylim()
            numbers = [
                label.get_window_extent()
                for value, label in zip(axes.get_yticks(), axes.get_yticklabels(), strict=True)
                if low <= value <= high
            ]
            assert len(numbers) > 1
            assert all(before.y1 < after.y0 for before, after in pairwise(numbers))
        names = [text.get_text() for text in figure.legends[0].get_texts()]
        assert sorted(names) == ["bolder", "decay-lr", "hybrid", "increase-batch", "thin: global batch"]
        assert len(names) == 5


def test_schedules_of_one_noise_stay_apart_though_their_epochs_end_at_other_samples(tmp_path: Path) -> None:
    _, below = noise_figure(synthetic(tmp_path).groups).axes
    heights = {round(line.get_transform().transform((3, 0.1))[1], 3) for line in below.get_lines()}
    assert len(heights) == 4


def test_the_figure_comes_after_the_schedule_where_any_run_measured(tmp_path: Path) -> None:
    record_run(tmp_path / "older", "older", 0, [0.5, 0.6])
    compare_measured(tmp_path, {"grow": [[(20, 2), (40, 4)]]})
    mixed = compare_runs(load_runs([str(tmp_path / "grow"), str(tmp_path / "older")], None, None))
    names = [picture.file_name for picture in draw_figures(mixed.outcomes, None)]
    assert names[:3] == ["summary.png", "schedule.png", "noise.png"]


def test_runs_that_measured_nothing_are_not_spoken_of(tmp_path: Path) -> None:
    record_run(tmp_path, "older", 0, [0.5, 0.6])
    compare_measured(tmp_path, {"none": [[None, None]]})
    report = compare_runs(load_runs([str(tmp_path / "older-0-0"), str(tmp_path / "none")], None, None))
    assert len(report.groups) == 2
    assert "gradient noise" not in " ".join(report.findings)
    assert "noise" not in " ".join(report.table.headers)


def test_a_run_that_logged_no_batch_is_drawn_and_not_spoken_of(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "run" / "journal.jsonl")
    journal.start(RunStart("u", "n", "e", {}, {}, {}))
    journal.log(1, {"val/top1": 0.5, "noise/gradient": 40.0, "noise/gradient_error": 4.0, "noise/sgd": 1.0})
    journal.close(FINISHED, {})
    report = compare_runs(load_runs([str(tmp_path)], None, None))
    assert "gradient noise" not in " ".join(report.findings)
    assert len(curves(noise_figure(report.groups).axes[0])) == 1


def test_the_table_has_the_mean_over_epochs_and_the_last_epoch(tmp_path: Path) -> None:
    runs: dict[str, list[Measured]] = {
        "a": [[(100, 5), (300, 5)], [(200, 5), (400, 5)]],
        "b": [[(100, 5), None]],
        "c": [[None, None]],
    }
    table = compare_measured(tmp_path, runs).table
    place = table.headers.index("mean gradient noise, samples (at last)")
    assert [row[place] for row in table.rows] == ["250 ± 71 (350 ± 71)", "100 (-)", "-"]
    assert table.headers[place + 1] == "gradient noise measured in"
    assert [row[place + 1] for row in table.rows] == ["2 of 2 epochs", "1 of 2 epochs", "0 of 2 epochs"]


def test_the_mean_leaves_out_an_epoch_whose_error_is_above_its_scale_and_the_note_says_so(tmp_path: Path) -> None:
    hardly = [(100, 5), (60_000, 200_000), (400, 399)]  # 400 +- 399 just counts
    table = compare_measured(tmp_path, {"a": [hardly, [(300, 5), (200, 5), (600, 5)]]}).table
    place = table.headers.index("mean gradient noise, samples (at last)")
    assert [row[place : place + 2] for row in table.rows] == [("350 ± 141 (500 ± 141)", "2 of 3 epochs")]
    assert table.note.endswith(
        "Gradient noise: over the epochs in which every run measured it with an error below the scale itself."
    )


def test_the_table_does_not_say_in_how_many_epochs_where_it_is_all_or_none(tmp_path: Path) -> None:
    table = compare_measured(tmp_path, {"a": [[(100, 5), (300, 5)]], "none": [[None, None]]}).table
    assert "mean gradient noise, samples (at last)" in table.headers
    assert not any("measured in" in header for header in table.headers)


def test_the_page_shows_figure_and_findings(tmp_path: Path) -> None:
    report = compare_measured(tmp_path, {"a": [[(4, 1), (4, 1)]], "b": [[(100, 5), (640, 5)]]})
    files = write_report(report, tmp_path / "out")
    assert "noise.png" in [file.name for file in files]
    html = files[0].read_text("utf-8")
    assert "the gradient noise scale that was measured, and the global batch" in html
    assert "With schedule.limits.max_global_batch=4" in html
    assert "The batch stayed below the gradient noise scale" in html


@pytest.mark.parametrize(
    ("first", "second", "labels"),
    [
        ({}, PLANNED, ["grow"]),
        ({}, {"schedule.growth.factor": "2.0", "schedule.growth.share": "1.0"}, ["grow"]),
        (PLANNED, {**PLANNED, "gradient_probe.every": "50"}, ["grow"]),
        (PLANNED, {**PLANNED, "gradient_probe.every": "null"}, ["grow"]),
        (PLANNED, {**PLANNED, "schedule.policy": "measured"}, ["grow (policy=planned)", "grow (policy=measured)"]),
        (
            {**PLANNED, "schedule.policy": "measured"},
            {**PLANNED, "schedule.policy": "measured", "gradient_probe.every": "5"},
            ["grow (every=unset)", "grow (every=5)"],
        ),
    ],
)
def test_the_probe_is_part_of_the_recipe_only_where_the_plan_listens(
    tmp_path: Path, first: dict[str, str], second: dict[str, str], labels: list[str]
) -> None:
    for seed, params in enumerate((first, second)):
        record_run(tmp_path / str(seed), "grow", seed, [0.5, 0.6], **params)
    groups = compare_runs(load_runs([str(tmp_path / "0"), str(tmp_path / "1")], None, None)).groups
    assert [group.label for group in groups] == labels


def test_a_run_of_more_epochs_than_its_plan_is_drawn_to_its_end(tmp_path: Path) -> None:
    report = synthetic(tmp_path, epochs=20, extra={"optim/gain": 1.5, "progress/epochs": 12.0})
    for axes in (*schedule_figure(report.groups).axes, *noise_figure(report.groups).axes):
        assert axes.get_xlim()[1] > 19
    assert all(line.get_xdata()[-1] >= 20 for line in schedule_figure(report.groups).axes[0].get_lines())
