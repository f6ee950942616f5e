"""What the figures of a comparison show: axes, units and data, read back from Matplotlib."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer.report.figures import accuracy_figure, loss_figure, schedule_figure, summary_figure
from trainer.report.groups import Group, group_runs
from trainer.report.outcome import outcome_of
from trainer.report.runs import load_runs
from trainer.report.style import plain, style_of
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


def test_accuracy_is_in_percent_against_epochs_updates_and_time(tmp_path: Path) -> None:
    figure = accuracy_figure(groups_of(tmp_path), target_top1=0.7)
    assert [axes.get_xlabel() for axes in figure.axes] == ["epochs", "updates", "time since start-up (s)"]
    assert figure.axes[0].get_ylabel() == "validation top-1 (%)"
    expected_x = ([1, 2, 3], [100, 200, 300], [2, 4, 6])
    for axes, x in zip(figure.axes, expected_x, strict=True):
        line = next(line for line in axes.get_lines() if line.get_label() == "decay-lr")
        assert list(line.get_xdata()) == x
        assert list(line.get_ydata()) == pytest.approx([26, 51, 76])  # means of 25 and 27, 50 and 52, 75 and 77
        assert [line for line in axes.get_lines() if set(line.get_ydata()) == {70.0}]  # the target
        assert len(axes.collections) == 1  # a band for the schedule with two seeds, none for the other
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["decay-lr", "grow"]


@pytest.mark.parametrize(("epoch_s", "label", "last"), [(240, "min", 12.0), (7200, "h", 6.0)])
def test_long_runs_have_minutes_and_hours_on_their_axis(
    tmp_path: Path, epoch_s: float, label: str, last: float
) -> None:
    axes = accuracy_figure(groups_of(tmp_path, epoch_s), None).axes[2]
    assert axes.get_xlabel() == f"time since start-up ({label})"
    assert axes.get_lines()[0].get_xdata()[-1] == last


def test_batch_and_lr_are_steps_on_log_scales_with_their_own_values_as_ticks(tmp_path: Path) -> None:
    batch, lr = schedule_figure(groups_of(tmp_path)).axes
    assert (batch.get_xlabel(), batch.get_ylabel()) == ("epoch", "global batch (samples)")
    assert (lr.get_xlabel(), lr.get_ylabel()) == ("epoch", "learning rate")
    assert (batch.get_yscale(), lr.get_yscale()) == ("log", "log")
    assert list(batch.get_yticks()) == [8, 32]
    assert list(lr.get_yticks()) == [0.01, 0.1]
    grow = batch.get_lines()[1]
    # Epoch number 3, from 2 to 3 on the axis, was the one with a batch of 32.
    assert list(zip(grow.get_xdata(), grow.get_ydata(), strict=True)) == [(0, 8), (1, 8), (2, 8), (3, 32)]
    assert grow.get_drawstyle() == "steps-pre"


def test_losses_are_drawn_against_the_same_three(tmp_path: Path) -> None:
    axes = loss_figure(groups_of(tmp_path)).axes
    assert (axes[0].get_ylabel(), axes[3].get_ylabel()) == ("training loss", "validation loss")
    assert [panel.get_xlabel() for panel in axes[3:]] == ["epochs", "updates", "time since start-up (s)"]
    assert all(panel.get_yscale() == "log" for panel in axes)
    assert list(axes[3].get_lines()[0].get_ydata()) == [3.0, 1.5, 1.0]


def test_the_summary_has_bars_as_long_as_the_costs_and_says_what_was_saved(tmp_path: Path) -> None:
    outcomes = [outcome_of(group, 0.5) for group in groups_of(tmp_path)]
    top1, updates, time = summary_figure(outcomes, 0.5).axes
    assert [label.get_text() for label in top1.get_yticklabels()] == ["decay-lr", "grow"]
    assert [bar.get_width() for bar in updates.patches] == [300, 200, 150, 100]  # the run, up to the target
    assert [bar.get_width() for bar in time.patches] == [6, 4, 6, 4]
    assert [text.get_text() for text in updates.texts] == ["300", "150  (\N{MINUS SIGN}50 %)"]
    assert [text.get_text() for text in top1.texts] == ["76.0 ± 1.4 %", "75.0 %"]
    assert updates.get_title() == "updates of the run (dark: up to 50 %)"


def test_recipes_differ_in_colour_line_and_marker(tmp_path: Path) -> None:
    styles = [style_of(number) for number in range(7)]
    for part in ("colour", "line", "marker"):
        assert len({str(getattr(style, part)) for style in styles}) == 7


@pytest.mark.parametrize(
    ("value", "text"), [(0.05, "0.05"), (0.0166667, "0.0167"), (0, "0"), (16, "16"), (1620, "1,620"), (2.5, "2.5")]
)
def test_ticks_are_plain_numbers(value: float, text: str) -> None:
    assert plain(value) == text
