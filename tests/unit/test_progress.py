"""What a person sees while a run goes on."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from trainer.rule import Limits, Reference, Schedule, decide
from trainer.tracking import progress
from trainer.tracking.progress import BarProgress, LineProgress, open_progress

pytestmark = pytest.mark.unit

METRICS = {
    "batch/global": 64, "optim/lr": 0.05, "train/loss": 0.1234, "val/loss": 0.2345, "val/top1": 0.9712,
    "speed/images_per_s": 4572.0, "updates": 130, "elapsed_s": 12.34,
}  # fmt: skip


def console(terminal):
    return Console(file=io.StringIO(), force_terminal=terminal, width=160, highlight=False)


def test_a_terminal_gets_a_bar_and_a_file_gets_lines():
    assert isinstance(open_progress(console(False), 3, 100), LineProgress)
    bar = open_progress(console(True), 3, 100)
    bar.close()
    assert isinstance(bar, BarProgress)


def test_a_file_gets_one_line_an_epoch():
    out = console(False)
    lines = LineProgress(out, 3)
    lines.update_done(64, 0.5, 0.05)
    lines.epoch_done(2, METRICS)
    (line,) = out.file.getvalue().splitlines()
    for part in ("epoch   2/3", "batch     64", "lr 0.05", "loss 0.1234", "top-1  97.12%", "4,572 images/s", "12.3 s"):
        assert part in line


def test_a_line_has_the_gradient_noise_where_it_was_measured_and_the_schedules_epochs_where_they_are_others():
    out = console(False)
    lines = LineProgress(out, 3)
    lines.epoch_done(2, {**METRICS, "noise/gradient": 1234.4, "noise/gradient_error": 56.2})
    lines.epoch_done(9, {**METRICS, "progress/epochs": 2.345})
    first, second = out.file.getvalue().splitlines()
    assert first.endswith("12.3 s  gradient noise 1,234 ± 56")
    assert second.startswith("epoch   9 (2.35/3)  batch")
    assert "noise" not in second


def test_under_adascale_the_bar_is_full_when_the_schedule_is():
    bar = BarProgress(console(True), 3, 3000)
    schedule = Schedule(Reference(0.1, 64), Limits(64), 1000, 3, policy="adascale")
    bar.epoch_started(decide(schedule, 2, 1), 2900.0, 25.0, 4)
    for _ in range(4):
        bar.update_done(64, 0.5, 0.1)
    (task,) = bar._bar.tasks
    bar.close()
    assert task.finished
    assert task.completed == 3000


def test_the_bar_shows_an_epoch_that_was_too_short_to_look_into():
    out = console(True)
    bar = BarProgress(out, 3, 1000)
    bar.epoch_started(decide(Schedule(Reference(0.1, 64), Limits(64), 1000, 1), 0, 2), 0, 64, 15)
    bar.update_done(64, 0.5, 0.05)
    bar.epoch_done(1, METRICS)
    bar.close()
    shown = out.file.getvalue()
    for part in ("epoch 1/3", "loss 0.1234", "4,572 images/s", "batch 64", "lr 0.05"):
        assert part in shown


def test_the_bar_shows_loss_and_speed_of_the_fleet_once_a_second(monkeypatch):
    now = 100.0
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now))
    out = console(True)
    bar = BarProgress(out, 3, 1000)
    bar.epoch_started(decide(Schedule(Reference(0.1, 64), Limits(64), 1000, 1), 0, 2), 0, 64, 15)
    for loss in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6):
        now += 0.25
        bar.update_done(64, loss, 0.05)
    bar.close()
    shown = out.file.getvalue()
    assert "loss 0.8000  256 images/s" in shown, "two workers, each with a share of 0.4"
    assert "loss 1" not in shown, "not yet time to look again"


def test_the_bar_keeps_the_loss_it_shows_until_the_next_is_known(monkeypatch):
    now = 100.0
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now))
    out = console(True)
    bar = BarProgress(out, 3, 1000)
    for loss in (float("nan"), 0.5, float("nan")):
        now += 2
        bar.update_done(64, loss, 0.05)
        bar._bar.refresh()
    bar.close()
    shown = out.file.getvalue()
    assert "loss -  32 images/s" in shown
    assert "loss 0.5000  32 images/s" in shown
    assert "nan" not in shown
