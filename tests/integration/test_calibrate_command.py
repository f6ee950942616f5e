"""`trainer calibrate` as people start it: alone, under torchrun, under horovodrun."""

from __future__ import annotations

import json

import pytest
import torch

from tests.launching import DISTRIBUTED_LAUNCHERS, run_trainer
from trainer.calibration.calibration import read_calibration, write_calibration
from trainer.cli import compose
from trainer.cli.planning.view import plain_console
from trainer.collective.agreement import WorkerError
from trainer.collective.local import LocalCollective
from trainer.config import load_config
from trainer.environment import Launch

pytestmark = pytest.mark.integration

PRESET = "digits-increase-batch"
CPU = torch.device("cpu")


def calibrate(*arguments, **options):
    return run_trainer("calibrate", PRESET, "--seconds", "0.3", *arguments, **options)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A calibration of one worker: its file, and what was said."""
    file = tmp_path_factory.mktemp("alone") / "one.json"
    finished = calibrate("--output", str(file), "--micro-batches", "48,8,16")
    assert finished.returncode == 0, finished.stderr
    return file, finished.stdout


def test_a_worker_alone_measures_everything_but_the_all_reduce(alone):
    file, said = alone
    calibration = read_calibration(file)
    assert (calibration.workers, calibration.nodes, calibration.collective) == (1, 1, "local")
    assert [time.micro_batch for time in calibration.compute] == [8, 16, 48]
    for time in calibration.compute:
        assert min(time.forward_s, time.backward_s) > 0
    # nothing on a CPU grows slower than a fifth of in proportion over a factor of six
    assert sum(vars_of(calibration.compute[2])) > 1.2 * sum(vars_of(calibration.compute[0]))
    assert calibration.all_reduce == ()
    assert calibration.hidden_share == 0
    assert calibration.update_overhead_s > 0
    assert calibration.gradient_bytes == 97_384  # 24,346 parameters of float32
    assert calibration.input_images_per_s > 100
    assert calibration.evaluation_s_per_image > 0
    assert calibration.validation_size == 357
    assert calibration.max_micro_batch == 144  # the largest batch of the run, on one worker
    assert calibration.settings["model.name"] == "small-convnet"
    assert "written to" in said
    assert list(file.parent.iterdir()) == [file], "nothing is left behind"


def vars_of(time):
    return time.forward_s, time.backward_s


def test_a_plan_can_be_timed_by_it(alone):
    file, _ = alone
    finished = run_trainer("plan", PRESET, "--calibration", str(file), "--json")
    assert finished.returncode == 0, finished.stderr
    assert json.loads(finished.stdout)["predicted_seconds"] > 0


@pytest.mark.parametrize("launcher", DISTRIBUTED_LAUNCHERS)
def test_a_fleet_measures_its_all_reduce_and_speaks_once(tmp_path, launcher):
    file = tmp_path / "two.json"
    finished = calibrate("--output", str(file), "--micro-batches", "8,16,72", launcher=launcher, workers=2)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.count("written to") == 1
    calibration = read_calibration(file)
    assert (calibration.workers, calibration.nodes) == (2, 1)
    assert calibration.algorithm == "ring"
    assert {(time.workers, time.nodes) for time in calibration.all_reduce} == {(2, 1)}
    assert {1024, calibration.gradient_bytes} <= {time.nbytes for time in calibration.all_reduce}
    assert 0 <= calibration.hidden_share <= 1


def test_the_all_reduce_of_another_fleet_is_added_and_measured_anew(alone, tmp_path):
    file = tmp_path / "more.json"
    one = read_calibration(alone[0])
    write_calibration(one, file)
    for _ in range(2):  # the second time replaces the first
        finished = calibrate("--add-to", str(file), launcher="torchrun", workers=3)
        assert finished.returncode == 0, finished.stderr
        added = read_calibration(file)
        assert {(time.workers, time.nodes) for time in added.all_reduce} == {(3, 1)}
        assert len({time.nbytes for time in added.all_reduce}) == len(added.all_reduce) >= 6
        assert added.model_copy(update={"all_reduce": (), "collective": "local"}) == one
    finished = calibrate("--add-to", str(file), launcher="horovodrun", workers=2)
    assert finished.returncode != 0
    assert "its all-reduce was measured through ddp with the algorithm ring, and this fleet's goes" in finished.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--micro-batches", "0"], "--micro-batches 0: a micro-batch has at least one sample"),
        (["--micro-batches", "8"], "--micro-batches 8: how the time grows with the size needs two sizes at least"),
        (["--seconds", "0"], "--seconds 0: a measurement takes more than 0 s"),
        (["--output", "/nowhere/c.json"], "/nowhere/c.json: there is no folder /nowhere"),
        (["--add-to", "nowhere.json"], "nowhere.json: cannot be read"),
        (["model.name=nonsense"], "model.name 'nonsense' is no known network"),
    ],
)
def test_mistakes_are_answered_in_one_line(tmp_path, arguments, message):
    finished = calibrate(*arguments, cwd=tmp_path)
    assert finished.returncode == 2
    assert finished.stderr.startswith(f"trainer: {message}")
    assert finished.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_fleets_mistake_is_answered_once(tmp_path):
    finished = calibrate("--micro-batches", "0", cwd=tmp_path, launcher="torchrun", workers=2)
    assert finished.stderr.count("trainer: --micro-batches 0: a micro-batch has at least one sample") == 1


def test_a_calibration_of_other_settings_is_not_added_to(alone, tmp_path):
    before = alone[0].read_text()
    finished = calibrate("model.ghost_batch=4", "--add-to", str(alone[0]), cwd=tmp_path)
    assert finished.returncode == 2
    assert "was measured with model.ghost_batch 8" in finished.stderr
    assert alone[0].read_text() == before


def resolved(*overrides, workers=1):
    config = load_config(PRESET, ["schedule.limits.max_micro_batch=auto", *overrides])
    launch, collective = Launch("alone"), LocalCollective()
    dataset = compose.open_data(config, launch, collective, plain_console(quiet=True))
    return compose.resolve_max_micro_batch(config, dataset, launch, collective, CPU).schedule.limits.max_micro_batch


def test_auto_is_what_is_of_use_where_memory_is_plenty():
    assert resolved() == 144
    assert resolved("schedule.limits.max_global_batch=40") == 40  # although the ghost batch is 8 x 5


def test_a_search_for_auto_stands_any_lr():
    assert resolved("schedule.reference.lr=1.0e+19") == 144


def test_auto_is_read_from_a_calibration_of_this_device(alone, tmp_path):
    measured = read_calibration(alone[0])
    file = tmp_path / "small.json"
    write_calibration(measured.model_copy(update={"max_micro_batch": 37}), file)
    assert resolved(f"calibration={file}") == 32  # whole ghost batches
    elsewhere = measured.model_copy(update={"max_micro_batch": 37, "hardware": {"device": "another"}})
    write_calibration(elsewhere, file)
    assert resolved(f"calibration={file}") == 144  # found here


def test_auto_by_a_calibration_of_another_run_is_refused(alone):
    with pytest.raises(WorkerError, match=r"was measured with model\.ghost_batch 8"):
        resolved(f"calibration={alone[0]}", "model.ghost_batch=4")


def test_a_number_is_left_alone():
    config = load_config(PRESET)
    assert compose.resolve_max_micro_batch(config, None, Launch("alone"), LocalCollective(), CPU) is config
