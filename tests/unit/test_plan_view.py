"""What a plan says beside its table."""

from __future__ import annotations

import json

import pytest

from trainer.cli.main import main
from trainer.cli.planning.fleet_argument import parse_fleet
from trainer.cli.planning.listening import may_take_more
from trainer.cli.planning.view import plan_notes
from trainer.config import load_config
from trainer.rule import Heard, decide, plan_run

pytestmark = pytest.mark.unit


def notes(preset, *overrides, workers=1):
    config = load_config(preset, overrides)
    fleet = parse_fleet(str(workers))
    return plan_notes(config, plan_run(config.rule_schedule(config.data.train_size), fleet))


def test_nothing_is_noted_where_the_numbers_say_it_all():
    assert notes("digits-decay-lr") == []


def test_a_momentum_that_lags_is_noted_with_its_time_scale_and_its_epochs():
    # B / (N (1-m)) = 144 / (1440 x 0.1)
    assert notes("digits-increase-batch", workers=2) == [
        "momentum 0.9 at batch 144 follows a change over 1 epoch, which may cost accuracy (slow in epochs 15-19, "
        "20-23): a lower momentum or batch is faster"
    ]


def test_a_momentum_may_lag_longer_in_a_longer_phase_but_never_more_than_an_epoch():
    def constant(momentum):
        # 0.1 / (1-m) epochs, in a run of 24
        overrides = [
            "schedule.curve={shape: constant}",
            "schedule.reference.global_batch=144",
            f"schedule.reference.momentum={momentum}",
        ]
        return notes("digits-decay-lr", *overrides)

    assert constant(0.9) == []
    assert "over 1.11 epochs" in constant(0.91)[0]


def test_micro_batches_that_cut_the_ghost_batch_are_noted():
    (note,) = notes("digits-decay-lr", "model.ghost_batch=10")
    assert note.endswith("normalised in equal parts: 16 as 2 of about 8")


def test_the_constants_of_adam_are_noted_under_the_square_root_rule():
    overrides = ["optimizer.name=adam", "schedule.form=square_root", "schedule.reference.lr=0.001"]
    # divided by 3: batch x 9, beta2 = 1 - 9 x 0.001, eps / 3
    assert notes("digits-hybrid", *overrides)[-1].endswith(
        "beta2 and eps at batch 16: 0.999, 1e-08; 144: 0.991, 3.33e-09"
    )


def test_a_warm_up_is_noted():
    assert notes("digits-decay-lr", "schedule.warmup.epochs=2")[-1] == (
        "lr grows from 0.1 of itself over the first 2 epochs"
    )


def test_what_may_differ_under_the_policy_measured_is_noted():
    growth = "schedule.growth={factor: 1.5, share: 0.5}"
    bold = "schedule.start.lr=0.6"  # as a batch of 48
    assert notes("digits-hybrid", "schedule.policy=measured") == [
        "policy measured: no batch is larger than this; it begins at 16, grows at most 2 times an epoch and up to the "
        "measured gradient noise scale; where it is smaller so is lr, and g is the same"
    ]
    said = notes("digits-hybrid", "schedule.policy=measured", growth, bold, workers=3)[-1]
    assert "it begins at 15, grows at most 1.5 times an epoch and up to 0.5 times the measured" in said
    said = notes("digits-hybrid", "schedule.policy=measured", bold, workers=20)[-1]
    assert "it begins at 20, grows" in said


def test_how_much_more_a_run_of_adascale_may_read_is_noted():
    # 14 of 24 epochs by 48, of which an update may count as one of 16: 10 + 3 x 14
    assert notes("digits-hybrid", "schedule.policy=adascale") == [
        "policy adascale: lr is at most this, and an update may count for less than its samples: the run reads between "
        "24 and about 52 epochs"
    ]
    # 12 epochs by 16, 6 by 8, which count as their samples, and 6 by 48
    falls = "schedule.curve={shape: steps, drops: [{epoch: 12, divide_by: 0.5}, {epoch: 18, divide_by: 6}]}"
    assert (
        "between 24 and about 36 epochs"
        in notes("digits-hybrid", "schedule.policy=adascale", "model.ghost_batch=4", falls)[-1]
    )
    assert notes("digits-decay-lr", "schedule.policy=adascale") == [
        "policy adascale: no batch is larger than the reference's, so nothing differs from policy planned"
    ]


NOTHING_DIFFERS = "policy measured: the schedule never raises the batch, so nothing differs from policy planned"


@pytest.mark.parametrize(
    ("overrides", "workers", "differs"),
    [
        ([], 1, False),
        ([], 3, False),  # 15 of 16 samples
        ([], "1,5:3", False),  # 16, then 15
        ([], "3,5:2", True),  # 15 cannot become 16 by itself
        (["schedule.start.lr=0.4"], 1, True),  # 32, and it begins at 16
        (["schedule.start.lr=0.4"], 32, False),  # a sample for every worker
        (["schedule.start.lr=0.4"], "1,5:32", True),
        (["schedule.start.lr=0.1"], 1, False),  # half the reference's
        (["schedule.start.lr=0.2", "schedule.curve.drops.0.by=batch"], 1, True),
        (["schedule.start.lr=0.1", "schedule.curve.drops.0.by=batch"], 1, True),  # 8, then 24
        (["schedule.curve={shape: steps, drops: [{epoch: 12, divide_by: 0.5, by: batch}]}"], 1, False),  # 16, then 8
    ],
)
def test_where_policy_measured_never_waits_it_is_noted_that_nothing_differs(overrides, workers, differs):
    overrides = ["model.ghost_batch=4", "schedule.policy=measured", *overrides]
    config, fleet = load_config("digits-decay-lr", overrides), parse_fleet(str(workers))
    schedule = config.rule_schedule(1440)
    plan = plan_run(schedule, fleet)
    # What a run decides that hears nothing.
    batch, deaf = None, []
    for epoch in range(24):
        batch = decide(schedule, epoch, fleet.workers_at(epoch), Heard(None, batch)).plan.global_batch
        deaf.append(batch)
    planned = [phase.global_batch for phase in plan.phases for _ in range(phase.first_epoch, phase.last_epoch + 1)]
    assert (deaf != planned, may_take_more(config, plan)) == (differs, differs)
    assert (NOTHING_DIFFERS in plan_notes(config, plan)) is not differs


@pytest.mark.parametrize(
    ("policy", "preset", "more"),
    [
        ("planned", "digits-hybrid", False),
        ("measured", "digits-hybrid", True),
        ("adascale", "digits-hybrid", True),
        ("measured", "digits-decay-lr", False),
        ("adascale", "digits-decay-lr", False),
    ],
)
def test_updates_are_the_least_where_a_run_may_take_more(policy, preset, more, capsys):
    words = ["plan", preset, f"schedule.policy={policy}"]
    main(words)
    totals = next(line for line in capsys.readouterr().out.splitlines() if " updates, " in line)
    assert totals.startswith("at least ") is more
    main([*words, "--json"])
    assert json.loads(capsys.readouterr().out)["may_take_more"] is more


def test_programs_are_told_the_notes_as_people_are(capsys):
    words = ["plan", "digits-increase-batch", "schedule.policy=measured", "model.ghost_batch=16"]
    main(words)
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
    main([*words, "--json"])
    found = json.loads(capsys.readouterr().out)["notes"]
    assert [f"note: {note}" for note in found] == printed
    assert len(found) == 3  # momentum lags, what measured does, and that it hears nothing
    main(["plan", "--compare", *words[1:], "--json"])
    assert json.loads(capsys.readouterr().out)["runs"][0]["notes"] == found


@pytest.mark.parametrize(
    ("ghost", "workers", "expected"),
    [
        (8, 1, []),  # 16 samples are two ghost batches
        (10, 1, []),  # and of 10: round(1.6)
        (16, 1, ["in epochs 0-9: an update is a single ghost batch there: model.ghost_batch=8 would let it"]),
        (16, 2, []),  # two workers are two parts
        (16, "1,5:2", ["in epochs 0-4: an update is a single ghost batch there: model.ghost_batch=8 would let it"]),
        (64, 1, [": an update is a single ghost batch: model.ghost_batch=8 would let it"]),
        ("null", 2, []),
    ],
)
def test_where_the_gradient_noise_cannot_be_measured_is_noted(ghost, workers, expected):
    said = notes("digits-hybrid", f"model.ghost_batch={ghost}", workers=workers)
    found = [note for note in said if note.startswith("the gradient noise")]
    assert [note.removeprefix("the gradient noise is not measured").strip() for note in found] == expected
    off = notes("digits-hybrid", f"model.ghost_batch={ghost}", "gradient_probe.every=null", workers=workers)
    assert off == [note for note in said if note not in found]


def test_without_a_ghost_batch_it_is_noted_what_batch_norm_would_keep_from_being_measured():
    condition, null = "the gradient noise is not measured{} if the network has batch norm", "model.ghost_batch=null"
    assert notes("digits-hybrid", null) == [
        condition.format("") + ": an update is one micro-batch of one worker: model.ghost_batch=8 would let it"
    ]
    there = ": an update is one micro-batch of one worker there: model.ghost_batch=8 would let it"
    # from epoch 10 on two micro-batches of 24
    two = "schedule.limits.max_micro_batch=24"
    assert notes("digits-hybrid", null, two) == [condition.format(" in epochs 0-9") + there]
    assert notes("digits-hybrid", null, workers="1,5:2") == [condition.format(" in epochs 0-4") + there]
    assert notes("digits-hybrid", null, "schedule.limits.max_micro_batch=8") == []
    assert notes("digits-hybrid", null, "gradient_probe.every=null") == []
    assert notes("digits-hybrid", null, two, "schedule.policy=measured")[-1] == (
        "the gradient noise is never measured if the network has batch norm: an update of the reference's 16 samples "
        "is one micro-batch of one worker, and policy measured hears nothing: its batch does not grow: "
        "model.ghost_batch=8 would let it"
    )
    assert notes("digits-hybrid", null, two, "schedule.policy=adascale")[-1] == (
        condition.format(" in epochs 0-9") + ": an update is one micro-batch of one worker there, and policy adascale "
        "hears nothing at first: it keeps the reference's lr until then: model.ghost_batch=8 would let it"
    )


@pytest.mark.parametrize("policy", ["measured", "adascale"])
def test_a_policy_that_changes_nothing_needs_to_hear_nothing(policy):
    assert notes("digits-decay-lr", f"schedule.policy={policy}", "model.ghost_batch=16")[-1] == (
        "the gradient noise is not measured: an update is a single ghost batch: model.ghost_batch=8 would let it"
    )


def test_no_ghost_batch_is_proposed_where_an_update_has_too_few_samples_for_two():
    what = "the gradient noise is not measured: an update is a single ghost batch"
    two, three = (f"schedule.reference.global_batch={samples}" for samples in (2, 3))
    assert notes("digits-decay-lr", two, "model.ghost_batch=2")[-1] == what
    assert notes("digits-decay-lr", three, "model.ghost_batch=3")[-1] == f"{what}: model.ghost_batch=2 would let it"


@pytest.mark.parametrize(
    ("overrides", "workers", "expected"),
    [
        (["model.ghost_batch=16"], 1, "is never measured: an update of the reference's 16 samples is a single ghost "),
        (["model.ghost_batch=16"], "1,4:2", "is not measured before epoch 4: an update of the reference's 16 samples "),
        # begun with 48 by plan, and with the reference's 16 by measurement
        (["model.ghost_batch=16", "schedule.start.lr=0.6"], 1, "is never measured: an update of the reference's 16 "),
        (["model.ghost_batch=16"], 2, None),
        (["model.ghost_batch=16", "schedule.limits.max_micro_batch=8"], 1, None),
        (["model.ghost_batch=8"], 1, None),
    ],
)
def test_a_policy_measured_that_can_never_hear_anything_is_noted(overrides, workers, expected):
    said = notes("digits-hybrid", "schedule.policy=measured", *overrides, workers=workers)
    found = [note for note in said if note.startswith("the gradient noise ")]
    if expected is None:
        assert found == []
    else:
        (note,) = found
        assert note.removeprefix("the gradient noise ").startswith(expected)
        assert note.endswith("policy measured hears nothing: its batch does not grow: model.ghost_batch=8 would let it")


def test_a_policy_measured_that_hears_nothing_any_more_is_noted():
    said = notes("digits-hybrid", "schedule.policy=measured", "model.ghost_batch=64", workers="2,12:1")
    assert said[-1] == (
        "the gradient noise is not measured in epochs 12-23: an update is a single ghost batch there: "
        "model.ghost_batch=24 would let it"
    )


@pytest.mark.parametrize(
    ("ghost", "expected"),
    [
        (16, " in epochs 0-9: an update is a single ghost batch there, and policy adascale hears nothing at first: it "
             "keeps the reference's lr until then: model.ghost_batch=8 would let it"),
        (48, ": an update is a single ghost batch, and policy adascale never hears anything: it keeps the reference's "
             "lr: model.ghost_batch=8 would let it"),
    ],
)  # fmt: skip
def test_a_policy_adascale_that_hears_nothing_is_noted(ghost, expected):
    said = notes("digits-hybrid", "schedule.policy=adascale", f"model.ghost_batch={ghost}")
    assert said[-1] == f"the gradient noise is not measured{expected}"


@pytest.mark.parametrize("policy", ["planned", "measured", "adascale"])
def test_programs_are_told_the_policy(policy, capsys):
    assert main(["plan", "digits-hybrid", f"schedule.policy={policy}", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["policy"] == policy


def test_plans_side_by_side_say_which_of_them_may_turn_out_otherwise(capsys, tmp_path):
    listens = tmp_path / "listens.yaml"
    main(["plan", "--compare", "digits-hybrid", "digits-decay-lr", "schedule.policy=measured"])
    out = capsys.readouterr().out
    note = "note: policy measured: with the largest batches that it may take; a run may need more updates, time and "
    assert f"{note}worker-hours (digits-hybrid on 1 worker)\n" in out
    assert "at least 1,320 " in out
    assert "at least 2,160 " not in out  # digits-decay-lr does not wait for anything
    listens.write_text(
        "name: listens\ndata: {train_size: 1440}\nschedule: {epochs: 2, reference: {lr: 0.1, global_batch: 16}, "
        "limits: {max_micro_batch: 16}, start: {lr: 0.2}, policy: adascale}\n"
    )
    main(["plan", "--compare", "digits-hybrid", str(listens)])
    assert (
        "note: policy adascale: as if every update went as far as its samples; a run may need more samples, "
        f"time and worker-hours ({listens} on 1 worker)\n"
    ) in capsys.readouterr().out
