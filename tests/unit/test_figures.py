"""What the figures of a comparison show: axes, units and data, read back from Matplotlib."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import matplotlib
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from tests.paper_scale import write_schedules
from trainer.report.figures.gallery import draw_figures
from trainer.report.figures.progress import accuracy_figure, loss_figure, time_figure
from trainer.report.figures.schedule import schedule_figure
from trainer.report.figures.style import LOOK, plain, styles_of
from trainer.report.figures.summary import summary_figure
from trainer.report.groups import Group, group_runs
from trainer.report.outcome import outcome_of
from trainer.report.runs import load_runs
from trainer.tracking import FINISHED, Journal, RunStart

pytestmark = pytest.mark.unit


def groups_of(folder: Path, epoch_s: float = 2.0) -> tuple[Group, ...]:
    """decay-lr with two seeds, grow with one; batch 8, 8, 32 for grow, lr 0.1, 0.1, 0.01 for decay-lr."""
    for name, seed, batches, lrs, updates in (
        ("decay-lr", 0, (8, 8, 8), (0.1, 0.1, 0.01), 100),
        ("decay-lr", 1, (8, 8, 8), (0.1, 0.1, 0.01), 100),
        ("grow", 0, (8, 8, 32), (0.1, 0.1, 0.1), 50),
    ):
        journal = Journal(folder / f"{name}{seed}" / "journal.jsonl")
        journal.start(RunStart(f"{name}{seed}", name, "e", {"seed": str(seed)}, {}, {}))
        for epoch in (1, 2, 3):
            journal.log(
                epoch,
                {
                    "val/top1": 0.25 * epoch + 0.02 * seed,
                    "val/loss": 3.0 / epoch,
                    "train/loss": 2.0 / epoch,
                    "batch/global": batches[epoch - 1],
                    "optim/lr": lrs[epoch - 1],
                    "updates": updates * epoch,
                    "elapsed_s": epoch_s * epoch,
                },
            )
        journal.close(FINISHED, {})
    return group_runs(load_runs([str(folder)], None, None))


@pytest.fixture(scope="module")
def paper_groups(tmp_path_factory: pytest.TempPathFactory) -> tuple[Group, ...]:
    """The seven schedules of the paper on CIFAR-10 at their length, two seeds each."""
    folder = tmp_path_factory.mktemp("paper")
    write_schedules(folder, seeds=2)
    return group_runs(load_runs([str(folder)], None, None))


def test_accuracy_is_in_percent_against_epochs_and_updates_side_by_side(tmp_path: Path) -> None:
    figure = accuracy_figure(groups_of(tmp_path), target_top1=0.7)
    assert [axes.get_xlabel() for axes in figure.axes] == ["epochs", "updates"]
    assert figure.axes[0].get_ylabel() == "validation top-1 (%)"
    for axes, x in zip(figure.axes, ([1, 2, 3], [100, 200, 300]), strict=True):
        line = next(line for line in axes.get_lines() if line.get_label() == "decay-lr")
        assert list(line.get_xdata()) == x
        assert list(line.get_ydata()) == pytest.approx([26, 51, 76])  # means of 25 and 27, 50 and 52, 75 and 77
        assert [line for line in axes.get_lines() if set(line.get_ydata()) == {70.0}]  # the target
        (band,) = axes.collections  # for the schedule with two seeds, none for the other
        assert band.get_paths()[0].get_extents().get_points().tolist() == [[x[0], pytest.approx(25)], [x[2], 77]]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["decay-lr", "grow"]


@pytest.mark.parametrize(("epoch_s", "label", "last"), [(2, "s", 6.0), (240, "min", 12.0), (7200, "h", 6.0)])
def test_the_wall_clock_is_in_seconds_minutes_or_hours(tmp_path: Path, epoch_s: float, label: str, last: float) -> None:
    accuracy, loss = time_figure(groups_of(tmp_path, epoch_s), 0.7).axes
    assert (accuracy.get_ylabel(), loss.get_ylabel()) == ("validation top-1 (%)", "training loss (nats)")
    for axes in (accuracy, loss):
        assert axes.get_xlabel() == f"time since start-up ({label})"
        assert axes.get_lines()[0].get_xdata()[-1] == last


def test_runs_of_very_different_length_share_a_logarithmic_axis_of_updates(paper_groups: tuple[Group, ...]) -> None:
    epochs, updates = accuracy_figure(paper_groups, 0.93).axes
    assert (epochs.get_xscale(), updates.get_xscale()) == ("linear", "log")  # 80,000 updates against 2,352
    assert updates.get_xlabel() == "updates, log scale"
    ends = {line.get_label(): line.get_xdata()[-1] for line in updates.get_lines()}
    for name, total in (("cifar10-original", 80_000), ("cifar10-increased-momentum", 2352)):
        assert ends[name] == pytest.approx(total, rel=2e-3)  # the journals hold whole epochs, 205 of them
    lowest, _ = updates.get_ylim()
    left, right = updates.get_xlim()
    assert 0.5 * min(x for line in updates.get_lines() for x, y in line.get_xydata() if y > lowest and x > 1) < left
    assert right > 80_000
    three = [group for group in paper_groups if group.label.endswith(("decay-lr", "hybrid", "increase-batch"))]
    assert accuracy_figure(three, None).axes[1].get_xscale() == "linear"  # 80,000 against 28,890
    assert loss_figure(paper_groups).axes[3].get_xscale() == "log"


def test_all_of_the_papers_schedules_stay_apart_in_the_schedule_figure(paper_groups: tuple[Group, ...]) -> None:
    lr, batch, momentum = schedule_figure(paper_groups).axes
    assert (lr.get_yscale(), batch.get_yscale(), momentum.get_yscale()) == ("log", "log", "linear")
    assert list(batch.get_yticks()) == [128, 640, 3200, 5120, 16_000]
    assert list(lr.get_yticks()) == [0.0008, 0.004, 0.0064, 0.02, 0.032, 0.1, 0.16, 0.5]
    assert list(momentum.get_yticks()) == [0.9, 0.98]
    same = [line for line in batch.get_lines() if line.get_label() in ("cifar10-decay-lr", "cifar10-original")]
    assert list(same[0].get_ydata()) == list(same[1].get_ydata())
    zero = [line.get_transform().transform((100, 128))[1] for line in same]
    assert abs(zero[0] - zero[1]) > 1  # pixels


def test_a_schedule_that_ends_far_below_is_named_and_does_not_press_the_others_flat(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "lost" / "journal.jsonl")
    journal.start(RunStart("lost", "lost", "e", {"seed": "0"}, {}, {}))
    for epoch in range(1, 9):
        journal.log(epoch, {"val/top1": 0.1, "updates": epoch, "elapsed_s": epoch})
    journal.close(FINISHED, {})
    axes = accuracy_figure(groups_of(tmp_path), None).axes[0]
    assert axes.get_ylim()[0] > 10
    assert "ended below: lost (10.0 %)" in [text.get_text() for text in axes.texts]


def test_batch_and_lr_are_steps_on_log_scales_with_their_own_values_as_ticks(tmp_path: Path) -> None:
    lr, batch = schedule_figure(groups_of(tmp_path)).axes  # no momentum, since it never moved
    assert (batch.get_xlabel(), batch.get_ylabel()) == ("epoch", "global batch (samples)")
    assert (lr.get_xlabel(), lr.get_ylabel()) == ("epoch", "learning rate")
    assert (batch.get_yscale(), lr.get_yscale()) == ("log", "log")
    assert list(batch.get_yticks()) == [8, 32]
    assert list(lr.get_yticks()) == [0.01, 0.1]
    grow = batch.get_lines()[1]
    # Epoch number 3, from 2 to 3 on the axis, was the one with a batch of 32.
    assert list(zip(grow.get_xdata(), grow.get_ydata(), strict=True)) == [(0, 8), (1, 8), (2, 8), (3, 32)]
    assert grow.get_drawstyle() == "steps-pre"


def test_losses_are_drawn_against_the_same_two(tmp_path: Path) -> None:
    axes = loss_figure(groups_of(tmp_path)).axes
    assert [panel.get_ylabel() for panel in axes] == ["training loss (nats)", "", "validation loss (nats)", ""]
    assert [panel.get_xlabel() for panel in axes] == ["", "", "epochs", "updates"]
    assert all(panel.get_yscale() == "log" for panel in axes)
    assert list(axes[2].get_lines()[0].get_ydata()) == [3.0, 1.5, 1.0]


def test_the_summary_has_bars_as_long_as_the_costs_and_says_what_was_saved(tmp_path: Path) -> None:
    outcomes = [outcome_of(group, 0.5) for group in groups_of(tmp_path)]
    top1, updates, time = summary_figure(outcomes, 0.5).axes
    assert [label.get_text() for label in top1.get_yticklabels()] == ["decay-lr", "grow"]
    assert [bar.get_width() for bar in updates.patches] == [300, 200, 150, 100]  # the run, up to the target
    assert [bar.get_width() for bar in time.patches] == [6, 4, 6, 4]
    assert [text.get_text() for text in updates.texts] == ["300", "150  (\N{MINUS SIGN}50 %)"]
    assert [text.get_text() for text in top1.texts] == ["76.0 ± 1.4 %", "75.0 %"]
    assert updates.get_title() == "updates (dark: up to 50 %)"


def test_the_numbers_beside_the_bars_stay_in_their_panel(paper_groups: tuple[Group, ...]) -> None:
    with matplotlib.rc_context(LOOK):
        figure = summary_figure([outcome_of(group, 0.93) for group in paper_groups], 0.93)
        figure.draw_without_rendering()
        for axes in figure.axes[1:]:
            assert all(text.get_window_extent().x1 <= axes.get_window_extent().x1 for text in axes.texts)


def numbers_along(axes: Axes, axis: str) -> list[Bbox]:
    """Where the numbers of an axis stand, in pixels, in order; an axis that shares another's has none."""
    at, labels = getattr(axes, f"get_{axis}ticks")(), getattr(axes, f"get_{axis}ticklabels")()
    low, high = sorted(getattr(axes, f"get_{axis}lim")())
    return [
        label.get_window_extent()
        for value, label in sorted(zip(at, labels, strict=False), key=lambda pair: pair[0])
        if low <= value <= high and label.get_text() and label.get_visible()
    ]


@pytest.mark.parametrize("draw", [summary_figure, accuracy_figure, loss_figure, schedule_figure, time_figure])
def test_nothing_is_cut_off_and_no_numbers_touch_with_seven_schedules(
    paper_groups: tuple[Group, ...], draw: Callable[..., Figure]
) -> None:
    with matplotlib.rc_context(LOOK):
        if draw is summary_figure:
            figure = draw([outcome_of(group, 0.93) for group in paper_groups], 0.93)
        else:
            figure = draw(paper_groups, *([0.93] if draw in (accuracy_figure, time_figure) else []))
        figure.draw_without_rendering()
        written = figure.get_tightbbox()
        width, height = figure.get_size_inches()
        assert min(written.x0, written.y0) >= -0.01  # inches
        assert written.x1 <= width + 0.01
        assert written.y1 <= height + 0.01
        for axes in figure.axes:
            across = numbers_along(axes, "x")
            assert all(before.x1 < after.x0 for before, after in pairwise(across)), axes.get_xlabel()
            up = [] if draw is summary_figure else numbers_along(axes, "y")  # there they are names
            assert all(before.y1 < after.y0 for before, after in pairwise(up)), axes.get_ylabel()


def test_the_pictures_tell_the_story_in_order(tmp_path: Path) -> None:
    pictures = draw_figures([outcome_of(group, 0.5) for group in groups_of(tmp_path)], 0.5)
    assert [picture.file_name for picture in pictures if picture.says_the_most] == ["summary.png"]
    assert all("bands go from the lowest seed to the highest" in picture.caption for picture in pictures[2:])


def test_recipes_differ_in_colour_line_and_marker(paper_groups: tuple[Group, ...]) -> None:
    eight = styles_of([*paper_groups, paper_groups[0]])
    for part in ("colour", "line", "marker"):
        assert len({str(getattr(style, part)) for style in eight}) == 8
    many = styles_of(paper_groups * 3)
    assert len({str(style) for style in many}) == 21  # colours come again, with another line and marker


@pytest.mark.parametrize(
    ("value", "text"), [(0.05, "0.05"), (0.0166667, "0.0167"), (0, "0"), (16, "16"), (1620, "1,620"), (2.5, "2.5")]
)
def test_ticks_are_plain_numbers(value: float, text: str) -> None:
    assert plain(value) == text
