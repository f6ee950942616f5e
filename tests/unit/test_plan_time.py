"""`trainer plan` with a calibration: the predicted time, what bounds it, and what it costs."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from tests.simple_calibration import write_simple_calibration
from trainer.calibration.errors import CalibrationError
from trainer.cli.main import main
from trainer.cli.planning.fleet_argument import fleet_text, parse_fleet
from trainer.cli.planning.timing import open_timing
from trainer.cli.planning.view import plan_document, plan_notes, print_plan
from trainer.config import load_config
from trainer.rule import Fleet, FleetStep, PlanError, plan_run
from trainer.rule.step_time import ComputeTime

pytestmark = pytest.mark.unit

HYBRID = "digits-hybrid"


def run_plan(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["plan", *arguments])
    said = capsys.readouterr()
    return code, said.out, said.err


def document(capsys: pytest.CaptureFixture[str], *arguments: str):
    code, out, err = run_plan(capsys, *arguments, "--json")
    assert (code, err) == (0, "")
    return json.loads(out)


@pytest.mark.parametrize("text", ["1", "256", "128,30:256", "4,2:8,5:6"])
def test_a_fleet_is_written_as_it_is_read(text: str) -> None:
    assert fleet_text(parse_fleet(text)) == text


def test_a_fleet_that_grows_has_its_first_workers_from_epoch_0_on() -> None:
    assert parse_fleet("128, 30:256") == Fleet((FleetStep(0, 128), FleetStep(30, 256)))
    assert parse_fleet("0:128,30:256") == parse_fleet("128,30:256")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' is no number of workers: write 256, or 128,30:256"),
        ("1.5", "'1.5' is no number of workers"),
        ("-3", "'-3' is no number of workers"),
        ("12,256", "'256' is no EPOCH:WORKERS"),
        ("12,a:3", "'a:3' is no EPOCH:WORKERS"),
        ("9" * 5000, "is no number of workers"),  # Python refuses to read more than 4,300 digits
        ("0", "a fleet has at least one worker"),
        ("12,3:0", "0 workers from epoch 3 on: a fleet has at least one worker"),
        ("12,30:24,20:48", "must ascend"),
        ("5:12", "a fleet begins at epoch 0"),
    ],
)
def test_a_fleet_that_is_none_is_refused_with_the_option(text: str, message: str) -> None:
    with pytest.raises(PlanError, match=f"^--workers {text}: .*{message}"):
        parse_fleet(text)


def test_without_a_calibration_nothing_is_predicted(capsys: pytest.CaptureFixture[str]) -> None:
    said = document(capsys, HYBRID)
    assert said["predicted_seconds"] is None
    assert not {"predicted_error", "worker_hours", "cost"} & set(said)
    assert all("predicted" not in phase for phase in said["phases"])
    assert "predicted" not in run_plan(capsys, HYBRID)[1]


def test_a_plan_says_its_seconds_by_phase_and_part(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = write_simple_calibration(tmp_path, HYBRID)
    said = document(capsys, HYBRID, "--calibration", file, "--price", "3")
    # 900 updates of 20 + 10 ms, then 150, 150 and 120 of 60 + 10 ms; 24 epochs of 100 + 50 ms
    assert said["predicted_seconds"] == pytest.approx(27 + 10.5 + 10.5 + 8.4 + 3.6)
    assert said["worker_hours"] == pytest.approx(60 / 3600)
    assert said["cost"] == pytest.approx(0.05)
    assert said["predicted_error"] == pytest.approx(0, abs=1e-12)  # the times lie on one line
    assert said["notes"] == []
    assert said["fleet"] == [{"epoch": 0, "workers": 1}]
    first = said["phases"][0]["predicted"]
    assert first["seconds"] == pytest.approx(27 + 10 * 0.15)
    assert first["update_s"] == pytest.approx(0.03)
    assert (first["compute_s"], first["overhead_s"]) == (pytest.approx(0.02), pytest.approx(0.01))
    assert (first["all_reduce_s"], first["input_s"], first["bound"]) == (0, 0, "compute")
    assert (first["evaluation_s"], first["epochs_s"]) == (pytest.approx(1.0), pytest.approx(0.5))
    assert first["images_per_s"] == pytest.approx(16 / 0.03)


def test_a_fleet_that_grows_is_predicted_with_the_workers_of_each_phase(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = write_simple_calibration(tmp_path, HYBRID)
    said = document(capsys, HYBRID, "--calibration", file, "--workers", "1,10:2")
    assert said["fleet"] == [{"epoch": 0, "workers": 1}, {"epoch": 10, "workers": 2}]
    # from epoch 10 on 24 samples a worker: 30 ms, 3 ms for the gradients, 10 ms; each worker evaluates 50 images
    first, *others = (phase["predicted"] for phase in said["phases"])
    assert [phase["all_reduce_s"] for phase in others] == [pytest.approx(0.003)] * 3
    assert others[0]["seconds"] == pytest.approx(150 * 0.043 + 5 * (0.05 + 0.05))
    assert said["worker_hours"] == pytest.approx(
        (first["seconds"] + 2 * sum(phase["seconds"] for phase in others)) / 3600
    )


@pytest.mark.parametrize(("policy", "least"), [("planned", ""), ("measured", "at least "), ("adascale", "at least ")])
def test_the_time_of_a_run_that_may_take_more_is_the_least_that_it_may_be(
    policy: str, least: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = [HYBRID, f"schedule.policy={policy}", "--calibration", write_simple_calibration(tmp_path, HYBRID)]
    assert f"\npredicted: {least}60.0 s ± 0 %, 0.0167 worker-hours\n" in run_plan(capsys, *words)[1]
    cells = [line.split("  ")[-1].strip() for line in run_plan(capsys, "--compare", *words)[1].splitlines()]
    assert {f"{least}1,320", f"{least}60.0 s"} <= set(cells)


def test_what_lies_outside_of_the_measurement_is_noted(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = write_simple_calibration(tmp_path, HYBRID)
    _, out, _ = run_plan(capsys, HYBRID, "--calibration", file, "--workers", "4")
    assert "note: micro-batch 4 lies 4 times below what was measured (16 to 64)" in out
    assert "note: 4 workers are 2 times the 2 whose all-reduce was measured" in out
    notes = document(capsys, HYBRID, "--calibration", file, "--workers", "4")["notes"]
    assert [f"note: {note}" for note in notes] == [line for line in out.splitlines() if line.startswith("note: ")]


def printed(tmp_path: Path, width: int, **changes: object) -> list[str]:
    file = write_simple_calibration(tmp_path, HYBRID, **changes)
    config = load_config(HYBRID)
    plan = plan_run(config.rule_schedule(1440), 1)
    timing = open_timing(config, file)
    assert timing is not None
    out = io.StringIO()
    console = Console(file=out, width=width, highlight=False, markup=False, soft_wrap=True)
    print_plan(config, plan, console, timing.predict(plan), price=3.0)
    return out.getvalue().splitlines()


def test_the_table_shows_time_shares_and_bound_of_each_phase_and_of_all(tmp_path: Path) -> None:
    lines = printed(tmp_path, 120)
    first, *_, whole = (line.split() for line in lines[lines.index("time") :] if " compute" in line)
    # 18 of 28.5 s compute, 9 overhead, 1.5 between epochs
    assert " ".join(first) == "0-9 28.5 s ± 0 % 0.00792 533 30.0 63 % 0 % 32 % 0 % 5 % compute"
    # 43.2 of 60 s: 34,560 samples of 1.25 ms; 1,320 updates of 10 ms; 3.6 s between epochs
    assert " ".join(whole) == "0-23 60.0 s ± 0 % 0.0167 613 42.7 72 % 0 % 22 % 0 % 6 % compute"
    assert "predicted: 60.0 s ± 0 %, 0.0167 worker-hours, 0.05 at 3 a worker-hour" in lines


def test_an_input_that_is_too_slow_is_what_bounds(tmp_path: Path) -> None:
    lines = printed(tmp_path, 120, input_images_per_s=100.0)
    (first, *_) = (line.split() for line in lines if line.strip().startswith("0-9") and line.endswith("input    "))
    # 160 ms of which 130 are not beside the work: 117 of 145.5 s
    assert first[8:] == ["160", "12", "%", "0", "%", "6", "%", "80", "%", "1", "%", "input"]


def test_an_error_that_is_not_known_is_said_in_words(tmp_path: Path) -> None:
    two = (ComputeTime(16, 0.005, 0.015), ComputeTime(64, 0.02, 0.06))
    lines = printed(tmp_path, 120, compute=two)
    assert any("60.0 s (too few micro-batches were measured to say how exactly)" in line for line in lines)


@pytest.mark.parametrize("width", [80, 100, 140])
def test_no_cell_is_broken_at_the_width_of_a_terminal(tmp_path: Path, width: int) -> None:
    lines = printed(tmp_path, width, input_images_per_s=100.0)
    rows = [line for line in lines if line.strip().split("-")[0].isdigit()]
    assert len(rows) == 4 + 5
    assert all(len(line.rstrip()) <= width for line in rows)
    assert all(row.rstrip().endswith("input") for row in rows[4:])


def test_a_micro_batch_limit_of_auto_is_the_measured_one(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = write_simple_calibration(tmp_path, HYBRID, max_micro_batch=24)
    auto = "schedule.limits.max_micro_batch=auto"
    said = document(capsys, HYBRID, auto, "--calibration", file)
    assert [(p["micro_batch"], p["accumulation_steps"]) for p in said["phases"]] == [(16, 1), (24, 2), (24, 2), (24, 2)]
    code, _, err = run_plan(capsys, HYBRID, auto, "--workers", "2")
    assert code == 2
    assert err.startswith("trainer: schedule.limits.max_micro_batch is auto")
    assert "presets" not in err  # no other number of workers would help


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--price", "2.5"], "--price 2.5: what a run costs follows from its time: give --calibration FILE"),
        (["--per-node", "8"], "--per-node 8: how workers share nodes matters"),
        (["--price", "-1"], "--price -1: is no price of a worker-hour"),
        (["--price", "nan"], "--price nan: is no price of a worker-hour"),
        (["--per-node", "0"], "--per-node 0: a node has at least one worker"),
        (["--figure", "a.png"], "--figure a.png: shows schedules beside each other: add --compare"),
        (["--figure", "a.jpg"], "--figure a.jpg: is drawn as a PNG"),
        (["--workers", "2", "--workers", "3"], "--workers 2 --workers 3: a plan has one fleet"),
        (["--calibration", "nowhere.json"], "nowhere.json: cannot be read (No such file or directory)"),
        (["calibration=nowhere.json"], "nowhere.json: cannot be read (No such file or directory)"),
    ],
)
def test_options_that_make_no_sense_are_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    code, out, err = run_plan(capsys, HYBRID, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"trainer: {message}")
    assert err.count("\n") == 1


def test_the_command_lines_fleet_and_calibration_win_over_the_configurations(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    own = write_simple_calibration(tmp_path, HYBRID, "own.json", update_overhead_s=0.02)
    given = write_simple_calibration(tmp_path, HYBRID)
    overrides = [f"calibration={own}", "fleet=[{epoch: 0, workers: 4}]"]
    said = document(capsys, HYBRID, *overrides)
    assert (said["world_size"], said["phases"][0]["predicted"]["overhead_s"]) == (4, 0.02)
    said = document(capsys, HYBRID, *overrides, "--workers", "2", "--calibration", given)
    assert (said["world_size"], said["phases"][0]["predicted"]["overhead_s"]) == (2, 0.01)


def test_a_step_of_a_fleet_that_never_comes_is_noted() -> None:
    config = load_config(HYBRID)
    plan = plan_run(config.rule_schedule(1440), parse_fleet("1,24:2"))
    assert plan_notes(config, plan) == ["the run ends before epoch 24: it never has the 2 workers of then"]


def test_a_run_records_the_time_by_its_own_calibration(tmp_path: Path) -> None:
    file = write_simple_calibration(tmp_path, HYBRID)
    config = load_config(HYBRID, [f"calibration={file}"])
    plan = plan_run(config.rule_schedule(1440), 1)
    timing = open_timing(config)
    assert timing is not None
    assert timing.fit(config) == config
    assert plan_document(config.name, config, plan, timing.predict(plan))["predicted_seconds"] == pytest.approx(60)
    assert open_timing(load_config(HYBRID)) is None
    with pytest.raises(CalibrationError, match=r"was measured with model\.name small-convnet, and digits-hybrid has"):
        timing.fit(load_config(HYBRID, [f"calibration={file}", "model.name=resnet-50"]))
