"""A sweep before its first run starts: what is to be done, what is done already, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.launching import REPOSITORY
from trainer.cli.main import main
from trainer.config import ConfigError, flatten, load_config
from trainer.report.runs import load_runs
from trainer.sweep.attempts import read_attempts, recipe_of, result_text, settled_by
from trainer.tracking import (
    FAILED,
    FINISHED,
    KILLED,
    LOST_WORKER,
    STOOD_STILL,
    Journal,
    RunStart,
    TrackingError,
    journals_in,
    records_in,
)
from trainer.tracking.tracking_uri import sqlite_uri

pytestmark = pytest.mark.unit

PRESET = "digits-increase-batch"


@pytest.fixture(autouse=True)
def _an_empty_folder_and_no_settings_of_the_users(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("TRAINER_CONFIG", raising=False)


def record(folder, params, status, error=None, epochs=1, summary=None):
    """A run's journal; status None leaves it open, and returns it."""
    uid = f"run-{len(list(folder.glob('*/journal.jsonl')))}"
    journal = Journal(folder / uid / "journal.jsonl")
    journal.start(RunStart(uid, "run", "experiment", params, {}, {}))
    for epoch in range(1, epochs + 1):
        journal.log(epoch, {"val/top1": 0.5, "updates": 90.0 * epoch})
    if status is None:
        return journal
    journal.close(status, summary or {}, error)
    return None


def attempts(folder, *runs):
    for status, error in runs:
        record(folder, {"seed": "1"}, status, error)
    return read_attempts(folder)[recipe_of({"seed": "1"})]


@pytest.mark.parametrize(
    ("runs", "settled"),
    [
        ([], None),
        ([(KILLED, "interrupted")], None),
        ([(FAILED, "another worker has ended (Connection closed by peer)")], None),
        ([(FAILED, "nothing moved for 300 s (hang_timeout_s): rank 1 does not answer")], None),
        ([(FAILED, "the loss is not finite")], "run-0"),
        ([(KILLED, "interrupted"), (FINISHED, None)], "run-1"),
        ([(FINISHED, None), (KILLED, "interrupted")], "run-0"),
        ([(FAILED, "out of memory"), (FINISHED, None), (FAILED, "out of memory")], "run-1"),
    ],
)
def test_a_point_is_settled_by_a_run_that_finished_or_failed_of_itself(tmp_path, runs, settled):
    log = settled_by(attempts(tmp_path, *runs) if runs else [])
    assert (None if log is None else log.run.run_uid) == settled


def test_the_words_by_which_a_lost_worker_and_a_hang_are_known_are_those_of_train():
    assert LOST_WORKER == "another worker has ended"
    assert 'message = f"{LOST_WORKER} (' in (REPOSITORY / "trainer/cli/join.py").read_text()
    assert f'f"{STOOD_STILL} for ' in (REPOSITORY / "trainer/collective/roll_call.py").read_text()


def test_a_run_belongs_to_a_point_whatever_folder_and_store_its_record_went_to():
    params = flatten(load_config(PRESET))
    moved = flatten(load_config(PRESET, ["output=x", "tracking.parent=y", "tracking.mlflow=off"]))
    assert recipe_of(moved) == recipe_of(params)
    for other in ("seed=1", "schedule.epochs=2", "name=z"):
        assert recipe_of(flatten(load_config(PRESET, [other]))) != recipe_of(params)


def test_a_run_ends_in_one_line(tmp_path):
    record(tmp_path, {"seed": "1"}, FINISHED, summary={"final_top1": 0.779, "updates": 1444.0, "total_s": 81.6})
    record(tmp_path, {"seed": "1"}, FAILED, "the loss is not finite in epoch 3")
    lines = [result_text(log) for log in read_attempts(tmp_path)[recipe_of({"seed": "1"})]]
    assert lines == ["top-1 77.9 %, 1,444 updates, 82 s", "failed: the loss is not finite in epoch 3"]


def sweep(*words):
    return main(["sweep", PRESET, "tracking.mlflow=off", *words])


def test_a_dry_run_shows_every_point_with_its_updates_and_makes_nothing(tmp_path, capsys):
    words = ["--vary", "schedule.reference.global_batch=16,32", "--seeds", "2", "schedule.epochs=1", "--dry-run"]
    assert sweep(*words) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.startswith(f"sweep {PRESET}-")
    assert lines == [  # 1,440 images
        "1/4 schedule.reference.global_batch=16 seed=0: 90 updates",
        "2/4 schedule.reference.global_batch=32 seed=0: 45 updates",
        "3/4 schedule.reference.global_batch=16 seed=1: 90 updates",
        "4/4 schedule.reference.global_batch=32 seed=1: 45 updates",
    ]
    assert list(tmp_path.iterdir()) == []


def test_the_seeds_go_on_from_the_configurations_own(capsys):
    assert sweep("seed=7", "--seeds", "2", "--dry-run") == 0
    assert [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()[1:]] == ["1/2 seed=7", "2/2 seed=8"]


def test_a_setting_that_must_be_given_may_be_one_that_varies(capsys):
    assert main(["sweep", "folder", "--vary", "data.path=a,b", "--seeds", "1", "--dry-run"]) == 0
    assert "1/2 data.path=a seed=0: updates not known yet" in capsys.readouterr().out


def test_a_micro_batch_that_is_yet_to_be_measured_is_no_obstacle(capsys):
    assert sweep("--seeds", "1", "schedule.limits.max_micro_batch=auto", "--dry-run") == 0
    assert "1/1 seed=0: updates not known yet" in capsys.readouterr().out


def test_the_updates_of_a_point_that_listens_are_the_least_that_it_may_take(capsys):
    policies = ["--vary", "schedule.policy=planned,measured,adascale", "--dry-run"]
    assert main(["sweep", "digits-decay-lr", "digits-hybrid", *policies]) == 0
    said = [line.rpartition(": ")[2] for line in capsys.readouterr().out.splitlines()[1:]]
    least = "at least 1,320 updates"
    assert said == ["2,160 updates"] * 3 + ["1,320 updates", least, least]


def test_presets_are_compared_over_seeds(capsys):
    assert main(["sweep", "digits-decay-lr", "digits-hybrid", "--seeds", "0,5", "--dry-run"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.startswith("sweep digits-decay-lr-and-1-more-")
    assert [line.rpartition(":")[0] for line in lines] == [
        "1/4 digits-decay-lr seed=0",
        "2/4 digits-hybrid seed=0",
        "3/4 digits-decay-lr seed=5",
        "4/4 digits-hybrid seed=5",
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--vary", "schedule.epochs=1,x"], "schedule.epochs=x: digits-increase-batch: schedule.epochs: "),
        (["--vary", "schedule.epoch=1,2"], "schedule.epoch=1: digits-increase-batch: schedule.epoch: unknown key"),
        (["no-preset", "--seeds", "1"], "no-preset seed=0: 'no-preset' is neither a preset nor a .yaml file"),
        (
            ["--vary", "schedule.reference.global_batch=2,1", "--launcher", f"{sys.executable} horovodrun -np 2"],
            "schedule.reference.global_batch=1: epoch 0: 2 workers cannot share a global batch of 1 samples",
        ),
        (
            ["--seeds", "1", "fleet=[{epoch: 0, workers: 1}, {epoch: 3, workers: 2}]"],
            "seed=0: its fleet changes (1 worker, 2 from epoch 3), and a sweep starts each run once: set fleet=null",
        ),
        (
            ["--seeds", "1", "fleet=[{epoch: 0, workers: 2}]"],
            "seed=0: its fleet has 2 workers, and --launcher starts 1: make them agree, or set fleet=null",
        ),
        (["--vary", f"x={'[' * 3000}{']' * 3000}"], f"x={'[' * 495}...: x="),
        (["--vary", "seed=1,1"], "seed=1: is the same run as seed=1: leave one of them out"),
        (["--seeds", "0,0"], "seed=0: is the same run as seed=0"),
        (["--seeds", "many"], "--seeds many: is neither"),
        (["--name", "a/b"], "--name 'a/b': a name is letters"),
        (["tracking.mlflow=ftp://x"], "is none that MLflow can use"),
        (["--launcher", "no-such-launcher -np 2"], "--launcher no-such-launcher: there is no such command"),
    ],
)
def test_one_bad_value_is_named_and_nothing_is_started(tmp_path, capsys, words, message):
    assert sweep(*words) == 2
    said = capsys.readouterr()
    assert said.err.startswith("trainer: ")
    assert message in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_that_a_launcher_started_several_times_is_refused(monkeypatch, capsys):
    monkeypatch.setenv("HOROVOD_RANK", "0")
    monkeypatch.setenv("HOROVOD_SIZE", "2")
    assert sweep("--seeds", "2") == 2
    assert "horovodrun started 2 sweeps: use trainer sweep --launcher" in capsys.readouterr().err


def start_of_sweep(**about):
    params = {"presets": PRESET, "overrides": "tracking.mlflow=off", "launcher": ""} | about
    return RunStart("sweep-uid", "mine", "digits", params, {"kind": "sweep"}, {})


def test_two_sweeps_at_once_in_one_folder_are_refused(tmp_path, capsys):
    journal = Journal(tmp_path / "runs" / "mine" / "sweep.jsonl")
    journal.start(start_of_sweep())
    assert sweep("--seeds", "1", "--name", "mine") == 2
    assert "another process is writing this journal" in capsys.readouterr().err
    journal.close(KILLED, {})


def test_another_grid_under_the_same_name_is_refused(tmp_path, capsys):
    journal = Journal(tmp_path / "runs" / "mine" / "sweep.jsonl")
    journal.start(start_of_sweep(launcher="horovodrun -np 2"))
    journal.close(KILLED, {})
    assert sweep("--seeds", "1", "--name", "mine") == 2
    said = capsys.readouterr().err
    assert "runs/mine: holds another sweep, with launcher 'horovodrun -np 2' and not ''" in said
    assert "choose another --name" in said


def test_a_run_that_outlived_its_sweep_is_not_started_again(tmp_path, capsys):
    params = flatten(load_config(PRESET, ["tracking.mlflow=off", "seed=0", "output=runs/mine", "tracking.parent=u"]))
    orphan = record(tmp_path / "runs" / "mine", params, None)
    assert sweep("--seeds", "1", "--name", "mine") == 2
    assert "run-0/journal.jsonl: this run of the sweep still goes on" in capsys.readouterr().err
    orphan.close(KILLED, {})


def test_a_sweep_whose_points_are_all_settled_starts_nothing_and_keeps_its_uid(tmp_path, capsys):
    folder = tmp_path / "runs" / "mine"
    for seed, status in ((0, FINISHED), (1, FAILED)):
        params = flatten(load_config(PRESET, ["tracking.mlflow=off", f"seed={seed}"]))
        error = None if status == FINISHED else "the loss is not finite"
        record(folder, params, status, error, summary={"final_top1": 0.5, "updates": 9.0, "total_s": 1.0})
    (folder / "killed-as-it-began").mkdir()
    (folder / "killed-as-it-began" / "journal.jsonl").touch()
    for _ in range(2):
        assert sweep("--seeds", "2", "--name", "mine") == 1
        out = capsys.readouterr().out
        assert "2 points, 2 of them done before" in out
        assert "2/2 seed=1: failed: the loss is not finite; to repeat it, remove runs/mine/run-1\n" in out
        assert "1 of 2 points finished, 1 failed; compare them: trainer compare runs/mine" in out
    text = (folder / "sweep.jsonl").read_text()
    assert text.count('"type": "start"') == text.count('"type": "close"') == 2
    assert len({line.split('"run_uid": "')[1].split('"')[0] for line in text.splitlines() if "run_uid" in line}) == 1


def test_a_sweeps_folder_means_its_runs_and_to_sync_the_sweep_too(tmp_path):
    record(tmp_path, {"seed": "0"}, FINISHED)
    record(tmp_path, {"seed": "1"}, KILLED, "interrupted", epochs=0)
    runs = [tmp_path / f"run-{i}" / "journal.jsonl" for i in (0, 1)]
    own = tmp_path / "sweep.jsonl"
    assert records_in(tmp_path) == journals_in(tmp_path) == runs
    journal = Journal(own)
    journal.start(start_of_sweep())
    journal.log(1, {"sweep/finished": 1.0})
    journal.close(FINISHED, {})
    assert journals_in(tmp_path) == journals_in(own) == runs
    assert records_in(tmp_path) == records_in(own) == [own, *runs]
    # the run that has no epoch to compare does not keep the others from being compared, unless it is named
    assert [run.run_uid for run in load_runs([str(tmp_path)], None, None)] == ["run-0"]
    with pytest.raises(TrackingError, match="has no finished epoch yet"):
        load_runs([str(runs[1])], None, None)


def test_the_runs_of_a_sweep_go_to_the_store_of_the_folder_that_the_sweep_is_in(tmp_path):
    folder = tmp_path / "runs" / "mine"
    assert sqlite_uri(folder) == f"sqlite:///{folder}/mlflow.db"
    Journal(folder / "sweep.jsonl")
    assert sqlite_uri(folder) == f"sqlite:///{tmp_path}/runs/mlflow.db"


def test_the_parent_in_a_configuration_is_a_uid_or_nothing():
    assert load_config(PRESET).tracking.parent is None
    uid = "20261122-171500-mine.2-3f2a"
    assert load_config(PRESET, [f"tracking.parent={uid}"]).tracking.parent == uid
    for wrong in ("'a b'", "a/b", "''", "3"):
        with pytest.raises(ConfigError, match=r"tracking\.parent"):
            load_config(PRESET, [f"tracking.parent={wrong}"])


def test_a_sweep_of_two_files_keeps_apart_what_their_names_share(tmp_path, capsys):
    for folder in ("one", "two"):
        Path(folder).mkdir()
        Path(folder, "run.yaml").write_text(
            f"name: {folder}\ndata: {{train_size: 1000}}\nschedule: {{epochs: 1, reference: {{lr: 0.1, "
            "global_batch: 100}, limits: {max_micro_batch: 100}}\n"
        )
    assert main(["sweep", "one/run.yaml", "two/run.yaml", "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:] == ["1/2 one/run.yaml: 10 updates", "2/2 two/run.yaml: 10 updates"]
