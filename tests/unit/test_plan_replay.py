"""`trainer plan --replay`: a run's decisions follow from its journal, and whoever has it can see that."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzzing import fuzz
from trainer.cli.main import main
from trainer.cli.planning.replay import replay
from trainer.config import load_config, to_yaml
from trainer.rule import GradientNoise, Heard, decide
from trainer.tracking import Journal, RunStart, TrackingError

pytestmark = pytest.mark.unit

GROW = "digits-increase-batch"  # g / 3 at epochs 10, 15 and 20 by the batch: 16, 48, 144
Edit = Callable[[dict[str, Any]], object]


def measured_at(epoch: int) -> GradientNoise | None:
    """From the third epoch on; a scale of 20 samples an epoch."""
    return None if epoch < 2 else GradientNoise(20.0 * epoch, 1.0, 4.0, 0.01, -0.1)


def record(
    folder: Path,
    *overrides: str,
    epochs: Sequence[tuple[int, int]] = tuple((epoch, 1) for epoch in range(14)),
    edit: Edit = lambda fields: None,
    artifacts: dict[str, str] | None = None,
) -> Path:
    """The journal of a run that decided so many (epoch, workers), each on what it had heard; edit: of every event."""
    config = load_config(GROW, overrides)
    schedule = config.with_max_micro_batch(72).rule_schedule(1440)
    journal = Journal(folder / "run-1" / "journal.jsonl")
    about = {"config.yaml": to_yaml(config)} if artifacts is None else artifacts
    journal.start(RunStart("run-1", config.name, "digits", {}, {}, about))
    batch, progress = None, 0.0
    for epoch, workers in epochs:
        along = progress if config.schedule.policy == "adascale" and epoch > 0 else None
        heard = Heard(measured_at(epoch), batch, along)
        decision = decide(schedule, epoch, workers, heard)
        batch = decision.plan.global_batch
        progress += 1440 // batch * decision.advance(schedule)
        fields = {**asdict(decision), "heard": asdict(heard), "dataset_size": 1440, "max_micro_batch": 72}
        edit(fields)
        journal.event("decision", fields)
    journal.close("KILLED", {})
    return journal.path


def replayed(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["plan", "--replay", *arguments])
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.mark.parametrize(("policy", "max_micro_batch"), [("planned", "72"), ("measured", "auto"), ("adascale", "72")])
def test_a_runs_decisions_are_decided_again_to_the_bit(
    policy: str, max_micro_batch: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = record(tmp_path, f"schedule.policy={policy}", f"schedule.limits.max_micro_batch={max_micro_batch}")
    for place in (journal, journal.parent, tmp_path):
        code, out, err = replayed(capsys, str(place))
        assert (code, err) == (0, "")
        assert out.splitlines()[-1] == "14 decisions, all decided again as they were recorded"


def test_a_journal_that_ends_in_half_a_line_is_replayed_as_far_as_it_goes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = record(tmp_path, epochs=[(0, 1)])
    with journal.open("a") as file:
        file.write('{"type": "eve')
    code, out, err = replayed(capsys, str(journal))
    assert (code, err) == (0, f"{journal}: line 4 is incomplete and was skipped\n")
    assert out.endswith("1 decision, decided again as it was recorded\n")


def test_epochs_decided_alike_are_a_row_with_what_was_heard_before_its_first_and_its_last(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, _ = replayed(capsys, str(record(tmp_path, "schedule.policy=measured")))
    assert "digits-increase-batch, policy measured, as decided in run run-1" in out
    rows = [" ".join(line.split()) for line in out.splitlines()[5:-2]]
    # 20 e samples, with an error of sqrt(4 + 2 x 20 e x 0.1 + (20 e)^2 x 0.01): 20 e = 180 gives 19.1; and at least
    # B where that, of B, is 20 e - B: 162.6
    assert rows == [
        "0-9 16 16 x 1 x 1 0.2 0.9 180 - to 180 ± 19 - to 163",
        "10 32 32 x 1 x 1 0.13333 0.9 60 200 ± 21 181 growth",
        "11-13 48 48 x 1 x 1 0.2 0.9 60 220 ± 23 to 260 ± 27 199 to 235",
    ]


def test_the_gain_is_shown_with_how_far_along_the_schedule_the_run_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    epochs = [(epoch, 1) for epoch in range(12)]
    _, out, _ = replayed(capsys, str(record(tmp_path, "schedule.policy=adascale", epochs=epochs)))
    *_, ninth, tenth, eleventh = [" ".join(line.split()) for line in out.splitlines()[5:-2]]
    assert ninth.startswith("0-9 16 16 x 1 x 1 0.2 0.9 180 - to 180 ± 19 1 0.00")
    # (200/16 + 1) / (200/48 + 1) = 2.613; 30 updates of 48 samples count as so many of 16: 0.871 epochs
    assert tenth.startswith("10 48 48 x 1 x 1 0.17419 0.9 52.258 200 ± 21 2.613 10.00")
    assert eleventh.endswith("220 ± 23 2.642 10.87")


def test_a_scale_that_is_lost_in_noise_is_told_by_what_it_is_above(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def lost(fields: dict[str, Any]) -> None:
        fields["heard"]["noise"] = asdict(GradientNoise(800.0, -0.1, 4.0, 0.25, 0.0))

    journal = str(record(tmp_path, "schedule.policy=measured", epochs=[(0, 1)], edit=lost))
    _, out, _ = replayed(capsys, journal)
    (row,) = (line.split() for line in out.splitlines()[5:-2])
    assert row[-3:] == ["over", "2,000", "2,000"]  # 800 / (-0.1 + 0.5)
    (decision,) = json.loads(replayed(capsys, journal, "--json")[1])["decisions"]
    assert decision["gradient_noise_scale"] is decision["gradient_noise_scale_error"] is None
    assert decision["gradient_noise_scale_at_least"] == pytest.approx(2000, rel=0.01)


def test_a_run_that_was_resumed_on_another_fleet_is_replayed_decision_by_decision(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    epochs = [(9, 1), (10, 1), (11, 1), (11, 3), (12, 3)]
    code, out, _ = replayed(capsys, str(record(tmp_path, epochs=epochs)))
    assert code == 0
    rows = [line.split()[:7] for line in out.splitlines()[5:-2]]
    assert [(row[0], row[6]) for row in rows] == [("9", "1"), ("10-11", "1"), ("11-12", "3")]
    assert out.endswith("5 decisions, all decided again as they were recorded\n")


def test_epochs_that_a_resumed_run_repeated_are_rows_of_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, _ = replayed(capsys, str(record(tmp_path, epochs=[(3, 1), (4, 1), (3, 1), (4, 1), (5, 1)])))
    assert [line.split()[0] for line in out.splitlines()[5:-2]] == ["3-4", "3-5"]


@pytest.mark.parametrize("edit", ["epoch", "progress"])
def test_a_decision_after_the_end_of_the_schedule_cannot_be_decided_again(
    edit: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change = put(24, "epoch") if edit == "epoch" else put(24 * 1440.0, "heard", "progress")
    curve = "schedule.curve={shape: cosine}"
    code, out, _ = replayed(capsys, str(record(tmp_path, curve, epochs=[(0, 1)], edit=change)))
    assert (code, out.endswith("cannot be decided again: begins after the end of the schedule\n")) == (1, True)


def test_what_is_decided_otherwise_is_named_with_both_and_ends_in_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def edit(fields: dict[str, Any]) -> None:
        if fields["epoch"] in (3, 4):
            fields["lr"] *= 1 + 2**-52
        if fields["epoch"] == 11:
            fields["plan"]["micro_batch"], fields["limited_by"] = 24, "the \x1b[2Jweather"
        if fields["epoch"] == 13:
            fields["plan"]["world_size"] = 500

    journal = record(tmp_path, "schedule.policy=measured", edit=edit)
    code, out, _ = replayed(capsys, str(journal))
    assert code == 1
    assert out.splitlines()[-4:] == [
        "14 decisions, 4 not decided again as recorded:",
        "epochs 3-4: lr was 0.20000000000000007 and is 0.2 now",
        "epoch 11: plan.micro_batch was 24 and is 48 now, limited_by was the \\x1b[2Jweather and is schedule now",
        "epoch 13: cannot be decided again: 500 workers cannot share a global batch of 48 samples: run at most 48 "
        "workers, or raise what limits the batch",
    ]


@pytest.mark.parametrize(
    ("epochs", "said"),
    [
        ([1, 2, 3, 4, 4, 5, 6, 7], "epochs 1-4, 4 once more, 5-7: "),  # resumed within epoch 4
        ([3, 4, 3, 4, 5], "epochs 3-4, 3-4 once more, 5: "),
        ([3, 3], "epochs 3, 3 once more: "),
        ([1, 2, 3], "epochs 1-3: "),
        ([3], "epoch 3: "),
    ],
)
def test_an_epoch_that_was_decided_for_another_time_is_told_apart(
    epochs: list[int], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = record(tmp_path, epochs=[(epoch, 1) for epoch in epochs], edit=put(0.3, "lr"))
    _, out, _ = replayed(capsys, str(journal))
    assert out.splitlines()[-1] == f"{said}lr was 0.3 and is 0.2 now"


def test_epochs_that_differ_in_the_same_way_are_told_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def edit(fields: dict[str, Any]) -> None:
        if fields["epoch"] in (2, 3, 6):
            fields["lr"] = 0.3
        if fields["plan"]["world_size"] == 2:
            fields["momentum"] = 0.5

    epochs = [(2, 1), (3, 1), (4, 1), (4, 2), (5, 1), (6, 1)]
    _, out, _ = replayed(capsys, str(record(tmp_path, epochs=epochs, edit=edit)))
    assert out.splitlines()[-3:] == [
        "6 decisions, 4 not decided again as recorded:",
        "epochs 2-3, 6: lr was 0.3 and is 0.2 now",
        "epoch 4 once more: momentum was 0.5 and is 0.9 now",  # the first of its decisions is as it was
    ]


def test_programs_get_every_decision_with_its_inputs_and_what_differs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def edit(fields: dict[str, Any]) -> None:
        if fields["epoch"] == 2:
            fields["gain"] = 1.5

    code, out, _ = replayed(capsys, str(record(tmp_path, "schedule.policy=adascale", edit=edit)), "--json")
    document = json.loads(out)
    assert code == 1
    assert {key: document[key] for key in ("name", "run_uid", "policy", "is_same")} == {
        "name": GROW,
        "run_uid": "run-1",
        "policy": "adascale",
        "is_same": False,
    }
    first, _, third = document["decisions"][:3]
    assert (first["is_same"], first["gradient_noise_scale"], first["heard"]["noise"]) == (True, None, None)
    assert (third["is_same"], third["gradient_noise_scale"], third["plan"]["micro_batch"]) == (False, 40.0, 16)
    assert first["gradient_noise_scale_at_least"] is None
    assert third["gradient_noise_scale_at_least"] == measured_at(2).at_least < 40 - 4
    assert third["differences"] == [{"field": "gain", "recorded": 1.5, "decided": 1.0}]


def drop(*path: str) -> Edit:
    def edit(fields: dict[str, Any]) -> None:
        for key in path[:-1]:
            fields = fields[key]
        del fields[path[-1]]

    return edit


def put(value: object, *path: str) -> Edit:
    def edit(fields: dict[str, Any]) -> None:
        for key in path[:-1]:
            fields = fields[key]
        fields[path[-1]] = value

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (drop("heard"), "is of an older version, whose decisions do not say what they heard: replay a run of this one"),
        (drop("lr"), "decision 1 is damaged (lr: Field required): restore the file"),
        (drop("gain"), "decision 1 is damaged (these are the fields of another version): restore the file"),
        (put("0.1", "lr"), "decision 1 is damaged (lr: Input should be a valid number): restore the file"),
        (put("nan", "heard", "progress"), "decision 1 is damaged (heard.progress: Input should be a valid number)"),
        (put(0, "plan", "world_size"), "decision 1 is damaged (a count is out of bounds): restore the file"),
        (put(10**400, "max_micro_batch"), "decision 1 is damaged (a count is out of bounds): restore the file"),
        (put(-1, "epoch"), "decision 1 is damaged (a count is out of bounds): restore the file"),
        (put(-1.0, "heard", "progress"), "decision 1 is damaged (progress is below 0): restore the file"),
        (put(asdict(GradientNoise(1.0, 1.0, -1.0, 1.0, 0.0)), "heard", "noise"), "damaged (a variance is below 0)"),
        (put(asdict(GradientNoise(1e200, 1.0, 1.0, 1.0, 0.0)), "heard", "noise"), "damaged (a measurement is out of b"),
    ],
)
def test_a_decision_that_no_run_of_this_version_wrote_is_refused_in_a_line(
    edit: Edit, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = record(tmp_path, edit=edit)
    code, out, err = replayed(capsys, str(journal))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"trainer: {journal}: ")
    assert message in err


def test_a_journal_without_a_decision_or_a_configuration_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = replayed(capsys, str(record(tmp_path / "a", epochs=[])))
    assert (code, err.partition("journal.jsonl: ")[2]) == (
        2,
        "holds no decision: the run ended before its first epoch\n",
    )
    code, _, err = replayed(capsys, str(record(tmp_path / "b", artifacts={})))
    assert (code, "does not say how its run was configured" in err) == (2, True)
    code, _, err = replayed(capsys, str(record(tmp_path / "c", artifacts={"config.yaml": "name: x\n"})))
    assert (code, err.endswith("schedule: is missing: set it\n")) == (2, True)


def test_what_is_no_single_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("notes\n")
    assert "is no record of a journal" in replayed(capsys, str(text))[2]
    assert "is no journal, and no folder with a journal.jsonl in it" in replayed(capsys, str(tmp_path / "away"))[2]
    one = record(tmp_path)
    (tmp_path / "run-2").mkdir()
    (tmp_path / "run-2" / "journal.jsonl").write_bytes(one.read_bytes())
    code, _, err = replayed(capsys, str(tmp_path))
    assert (code, err) == (
        2,
        f"trainer: --replay {tmp_path}: holds 2 runs: name one, {tmp_path / 'run-1'} for example\n",
    )


@pytest.mark.parametrize(
    "beside",
    [
        ["digits-hybrid"],
        ["schedule.epochs=3"],
        ["--workers", "2"],
        ["--calibration", "fleet.json"],
        ["--per-node", "2"],
        ["--price", "0"],
        ["--compare"],
    ],
)
def test_nothing_but_the_journal_has_a_say_in_a_replay(beside: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = replayed(capsys, "runs/one", *beside)
    assert (code, err) == (
        2,
        "trainer: --replay runs/one: takes all from the run's journal, and "
        f"{beside[0]} stands beside it: leave it out\n",
    )


@fuzz(20)
@given(
    path=st.sampled_from(
        [("epoch",), ("plan", "world_size"), ("max_micro_batch",), ("dataset_size",), ("heard", "global_batch"),
         ("heard", "progress"), ("heard", "noise"), ("heard", "noise", "trace"), ("heard", "noise", "squared_norm"),
         ("heard", "noise", "squared_norm_variance"), ("heard",), ("plan",), ("limited_by",)]
    ),
    value=st.integers(-3, 10**20) | st.floats() | st.none() | st.booleans() | st.text(max_size=3) | st.just({}),
    policy=st.sampled_from(["measured", "adascale"]),
)  # fmt: skip
def test_any_value_in_a_decision_is_replayed_or_refused(
    path: tuple[str, ...], value: object, policy: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    def edit(fields: dict[str, Any]) -> None:
        fields["heard"]["noise"] = asdict(GradientNoise(20.0, 1.0, 4.0, 0.01, -0.1))
        put(value, *path)(fields)

    overrides = [f"schedule.policy={policy}", "schedule.curve={shape: cosine}"]
    journal = record(tmp_path_factory.mktemp("fuzz"), *overrides, epochs=[(0, 1)], edit=edit)
    refusal = ""
    try:
        _ = replay(journal).is_same
    except TrackingError as error:
        refusal = str(error)
    assert refusal.isprintable()
