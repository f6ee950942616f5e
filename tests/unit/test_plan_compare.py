"""`trainer plan --compare`: schedules and fleets side by side."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.simple_calibration import calibration_of, write_simple_calibration
from trainer.cli.main import main
from trainer.cli.planning.compare import Contender, Entry, entries_table, entry, print_entries
from trainer.cli.planning.timing import open_timing
from trainer.cli.planning.view import plain_console
from trainer.config import load_config
from trainer.rule import Fleet, plan_run
from trainer.rule.step_time import predict_run

pytestmark = pytest.mark.unit

DECAY, HYBRID, GROW = "digits-decay-lr", "digits-hybrid", "digits-increase-batch"


def compared(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["plan", "--compare", *arguments])
    said = capsys.readouterr()
    return code, said.out, said.err


def rows_of(entries: list[Entry], price: float | None = None) -> list[dict[str, str]]:
    table = entries_table(entries, price)
    return [dict(zip(table.headers, row, strict=True)) for row in table.rows]


def entry_on(preset: str, workers: int, file: str | None = None) -> Entry:
    config = load_config(preset)
    return entry(Contender(preset, config, open_timing(config, file)), Fleet.of(workers))


def test_without_a_calibration_updates_and_samples_stand_side_by_side(capsys: pytest.CaptureFixture[str]) -> None:
    decay, hybrid = rows_of([entry_on(DECAY, 2), entry_on(HYBRID, 2)])
    assert decay == {
        "schedule on workers": "digits-decay-lr on 2",
        "largest batch": "16",
        "updates": "2,160",
        "samples": "34,560",
    }
    assert (hybrid["largest batch"], hybrid["updates"]) == ("48", "1,320 (1.64x)")
    code, out, _ = compared(capsys, DECAY, HYBRID, "--workers", "2")
    assert code == 0
    assert "Times are not known: they take a calibration" in out


def test_with_a_calibration_time_hours_and_cost_are_held_against_the_first(tmp_path: Path) -> None:
    file = write_simple_calibration(tmp_path, DECAY)
    decay, hybrid = rows_of([entry_on(DECAY, 1, file), entry_on(HYBRID, 1, file)], price=3600.0)
    # 2,160 updates of 30 ms, 24 epochs of 150 ms; the hybrid takes 60 s
    assert (decay["time"], decay["worker-hours"], decay["cost"]) == ("68.4 s", "0.0190", "68.40")
    assert (hybrid["time"], hybrid["worker-hours"]) == ("60.0 s (1.14x)", "0.0167 (1.14x)")
    assert (hybrid["cost"], hybrid["error"]) == ("60.00", "± 0 %")


def test_each_schedule_is_planned_on_each_fleet_and_a_repeated_option_adds_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, out, _ = compared(capsys, DECAY, GROW, "--workers", "1", "--workers", "2,10:8", "--json")
    runs = json.loads(out)["runs"]
    assert [(run["name"], len(run["fleet"]), run["total_updates"]) for run in runs] == [
        (DECAY, 1, 2160),
        (DECAY, 2, 2160),
        (GROW, 1, 1140),
        (GROW, 2, 1140),
    ]


def test_without_workers_each_takes_its_own_fleet(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(
        "name: own\ndata: {train_size: 1440, image_size: 16}\nfleet: [{epoch: 0, workers: 4}]\n"
        "schedule: {epochs: 2, reference: {lr: 0.1, global_batch: 16}, limits: {max_micro_batch: 16}}\n"
    )
    own = str(tmp_path / "own.yaml")
    _, out, _ = compared(capsys, own, HYBRID, "--json")
    assert [(run["name"], run["world_size"]) for run in json.loads(out)["runs"]] == [(own, 4), (HYBRID, 1)]
    _, out, _ = compared(capsys, own, HYBRID, "--json", "--workers", "2")
    assert [run["world_size"] for run in json.loads(out)["runs"]] == [2, 2]


def test_overrides_are_for_all(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = compared(capsys, DECAY, HYBRID, "schedule.epochs=1", "--json")
    assert [run["total_updates"] for run in json.loads(out)["runs"]] == [90, 90]


def test_a_combination_that_cannot_be_planned_has_a_row_that_says_why(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = write_simple_calibration(tmp_path, HYBRID)
    words = [HYBRID, "cifar10-hybrid", "folder", "--workers", "2", "--workers", "32"]
    code, out, _ = compared(capsys, *words, "--calibration", file)
    assert code == 0
    assert out.count("no plan") == 5
    assert "digits-hybrid on 32 workers cannot be planned: epoch 0: 32 workers cannot share a global batch" in out
    assert f"cifar10-hybrid on 2 workers cannot be planned: {file}: was measured with data.format digits" in out
    _, out, _ = compared(capsys, *words, "--calibration", file, "--json")
    first, second, *_ = json.loads(out)["runs"]
    assert first["predicted_seconds"] > 0
    assert second["fleet"] == [{"epoch": 0, "workers": 32}]
    assert second["error"].startswith("epoch 0: 32 workers cannot share")


def test_the_images_must_be_counted(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = compared(capsys, HYBRID, "folder", "--workers", "2")
    assert "folder on 2 workers cannot be planned: folder: the number of training images is not known" in out


def test_where_nothing_can_be_planned_it_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = compared(capsys, DECAY, HYBRID, "--workers", "500")
    assert (code, out) == (2, "")
    assert err.startswith("trainer: digits-decay-lr on 500 workers: epoch 0: 500 workers cannot share")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no-such-preset"], "'no-such-preset' is neither a preset nor a .yaml file"),
        (["--price", "2"], "--price 2: what a run costs follows from its time: give --calibration FILE"),
        (["--figure", "a.png"], "--figure a.png: it shows times: give --calibration FILE"),
    ],
)
def test_a_mistake_is_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    code, _, err = compared(capsys, HYBRID, *arguments)
    assert code == 2
    assert err.startswith(f"trainer: {message}")
    assert err.count("\n") == 1


def test_a_note_of_all_rows_is_said_once_and_of_some_with_their_names(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = write_simple_calibration(tmp_path, HYBRID)
    options = ["--per-node", "8", "--calibration", file]
    _, out, _ = compared(capsys, DECAY, HYBRID, "--workers", "1", "--workers", "4", *options)
    notes = [line for line in out.splitlines() if line.startswith("note: ")]
    assert notes == [
        "note: micro-batch 4 lies 4 times below what was measured (16 to 64) (digits-decay-lr on 4 workers, "
        "digits-hybrid on 4 workers)",
        "note: 4 workers share a node, and 2 did where compute and input were measured: what they take from each other "
        "is not counted (digits-decay-lr on 4 workers, digits-hybrid on 4 workers)",
        "note: 4 workers are 2 times the 2 whose all-reduce was measured (digits-decay-lr on 4 workers, digits-hybrid "
        "on 4 workers)",
        "note: micro-batch 12 lies 1.33 times below what was measured (16 to 64) (digits-hybrid on 4 workers)",
    ]
    _, out, _ = compared(capsys, DECAY, HYBRID, "--workers", "8", *options)
    assert "note: 8 workers are 4 times the 2 whose all-reduce was measured\n" in out


def test_the_figure_is_written_and_what_it_leaves_out_is_said(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = write_simple_calibration(tmp_path, HYBRID)
    figure = tmp_path / "fleets.png"
    words = [HYBRID, "cifar10-hybrid", "--calibration", file, "--figure", str(figure)]
    code, out, _ = compared(capsys, *words)
    assert code == 0
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert "not in the figure: digits-hybrid on 32, 64, 128, 256, 512, 1024, 2048 and 4096 workers: epoch 0: 32" in out
    assert f"not in the figure: cifar10-hybrid: {file}: was measured with data.format digits" in out
    assert f"figure: {figure}\n" in out
    _, out, _ = compared(capsys, *words, "--json")
    assert [text.split(" ")[0] for text in json.loads(out)["figure"]["left_out"]] == [HYBRID, "cifar10-hybrid:"]


def test_a_figure_that_cannot_be_drawn_or_written_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = write_simple_calibration(tmp_path, HYBRID)
    nowhere = tmp_path / "nowhere" / "a.png"
    code, _, err = compared(capsys, HYBRID, "--calibration", file, "--figure", str(nowhere))
    assert code == 2
    assert err == f"trainer: --figure {nowhere}: cannot be written (No such file or directory): name another file\n"
    small = ["schedule.reference.global_batch=4", "--figure", str(tmp_path / "a.png")]
    code, _, err = compared(capsys, HYBRID, "--calibration", file, *small)
    assert code == 2
    assert "has nothing to show: digits-hybrid on 8, 16," in err


def test_a_plan_without_a_time_stands_beside_one_that_has_it(capsys: pytest.CaptureFixture[str]) -> None:
    config = load_config(HYBRID)
    plan = plan_run(config.rule_schedule(1440), 1)
    time = predict_run(plan, calibration_of(config).step_times())
    entries = [Entry("a", config, plan.fleet, plan), Entry("b", config, plan.fleet, plan, time)]
    assert [row["time"] for row in rows_of(entries)] == ["-", "60.0 s"]
    print_entries(entries, None, plain_console())
    assert "Times are not known" not in capsys.readouterr().out
