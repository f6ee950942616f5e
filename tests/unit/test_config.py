"""Configurations: what is taken, what is refused, and in which words."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.config import ConfigError, flatten, load_config, preset_names, to_yaml
from trainer.config.schema import CheckpointConfig
from trainer.engine.saving import SavingPlan
from trainer.rule import PlanError, plan_run

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("preset", preset_names())
def test_a_printed_configuration_is_taken_back_unchanged(preset, tmp_path):
    config = load_config(preset)
    file = tmp_path / "printed.yaml"
    file.write_text(to_yaml(config))
    assert load_config(str(file)) == config


@pytest.mark.parametrize(("preset", "updates"), [("decay-lr", 2160), ("hybrid", 1320), ("increase-batch", 1140)])
def test_the_digits_presets_take_as_many_updates_as_their_headers_say(preset, updates):
    config = load_config(f"digits-{preset}")
    assert plan_run(config.rule_schedule(1440), 2).total_updates == updates


# top-level numbers of arXiv:1711.00489: first epochs, global batches, lr of the phases, and the updates of the run
@pytest.mark.parametrize(
    ("preset", "overrides", "momentum", "batches", "lrs", "updates"),
    [
        ("cifar10-decay-lr", [], 0.9, [128] * 4, [0.1, 0.02, 0.004, 0.0008], 80_000),
        ("cifar10-hybrid", [], 0.9, [128, 640, 640, 640], [0.1, 0.1, 0.02, 0.004], 34_750),
        ("cifar10-increase-batch", [], 0.9, [128, 640, 3200, 16000], [0.1] * 4, 28_890),
        ("cifar10-original", [], 0.9, [128] * 4, [0.1, 0.02, 0.004, 0.0008], 80_000),
        ("cifar10-increase-batch-capped", [], 0.9, [128, 640, 3200, 5120], [0.1, 0.1, 0.1, 0.032], 29_188),
        ("cifar10-increased-initial-lr", [], 0.9, [640, 3200, 5120, 5120], [0.5, 0.5, 0.16, 0.032], 6_453),
        ("cifar10-increased-momentum", [], 0.98, [3200, 5120, 5120, 5120], [0.5, 0.16, 0.032, 0.0064], 2_352),
        *(
            ("cifar10-increase-batch", overrides, momentum, [128, 640, 3200, 16000], [lr] * 4, 28_890)
            for overrides, momentum, lr in (
                (["optimizer.name=nesterov"], 0.9, 0.1),
                (["optimizer.name=sgd", "schedule.reference.momentum=0"], 0, 0.1),
                (["optimizer.name=adam", "schedule.reference.lr=0.001"], 0.9, 0.001),
            )
        ),
    ],
)
def test_the_cifar_presets_are_the_papers_tables(preset, overrides, momentum, batches, lrs, updates):
    plan = plan_run(load_config(preset, overrides).rule_schedule(50_000), 1)
    assert [phase.first_epoch for phase in plan.phases] == [0, 60, 120, 160]
    assert [phase.global_batch for phase in plan.phases] == batches
    assert [phase.lr for phase in plan.phases] == lrs
    assert {phase.momentum for phase in plan.phases} == {momentum}
    assert plan.total_updates == pytest.approx(updates, abs=3)


@pytest.mark.parametrize(
    ("preset", "batches", "lrs"),
    [  # updates: 1,281,167 x (30, 30, 20, 10) epochs, each share divided by its batch
        ("imagenet-irv2-decay-lr", [8192] * 4, [3.0, 0.3, 0.03, 0.003]),
        ("imagenet-irv2-increase-batch", [8192, 81920, 81920, 81920], [3.0, 3.0, 0.3, 0.03]),
        ("imagenet-irv2-momentum-0.9", [8192, 65536, 65536, 65536], [3.0, 2.4, 0.24, 0.024]),
        ("imagenet-irv2-momentum-0.95", [16384, 65536, 65536, 65536], [3.0, 1.2, 0.12, 0.012]),
        ("imagenet-irv2-momentum-0.975", [32768, 65536, 65536, 65536], [3.0, 0.6, 0.06, 0.006]),
        ("imagenet-rn50-8192", [8192] * 4, [3.2, 0.32, 0.032, 0.0032]),
        ("imagenet-rn50-8192-16384", [8192, 16384, 16384, 16384], [3.2, 0.64, 0.064, 0.0064]),
        ("imagenet-rn50-16384", [16384] * 4, [6.4, 0.64, 0.064, 0.0064]),
    ],
)
def test_the_imagenet_presets_are_the_papers_tables(preset, batches, lrs):
    config = load_config(preset)
    plan = plan_run(config.rule_schedule(1_281_167), 256)
    assert [phase.first_epoch for phase in plan.phases] == [0, 30, 60, 80]
    assert [phase.global_batch for phase in plan.phases] == batches
    assert [phase.lr for phase in plan.phases] == lrs
    shares = zip((30, 30, 20, 10), batches, strict=True)
    assert plan.total_updates == pytest.approx(sum(1_281_167 * epochs / batch for epochs, batch in shares), abs=3)
    momentum = float(preset.rpartition("-")[2]) if "momentum" in preset else 0.9
    assert {phase.momentum for phase in plan.phases} == {momentum}


def test_the_source_is_the_argument_else_the_variable_else_the_file_else_the_embedded_preset(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_config(None).name == "digits-increase-batch"
    (tmp_path / "trainer.yaml").write_text(to_yaml(load_config("digits-hybrid", ["name=mine"])))
    assert load_config(None).name == "mine"
    assert load_config(None, default="digits-decay-lr").name == "digits-decay-lr"
    assert load_config("digits-hybrid", default="digits-decay-lr").name == "digits-hybrid"


def test_overrides_reach_into_sections_and_lists():
    config = load_config(
        "digits-hybrid",
        ["schedule.curve.drops.0.divide_by=5", "model.ghost_batch=null", "data.mean=[0.1, 0.2, 0.3]", "seed=7"],
    )
    assert config.schedule.curve.drops[0].divide_by == 5
    assert config.model.ghost_batch is None
    assert config.data.mean == (0.1, 0.2, 0.3)
    assert config.seed == 7


def test_yamls_off_means_off():
    assert load_config("digits-hybrid", ["tracking.mlflow=off"]).tracking.mlflow == "off"


def test_parameters_are_flattened_to_dotted_keys():
    parameters = flatten(load_config("digits-hybrid"))
    assert parameters["schedule.reference.global_batch"] == "16"
    assert parameters["data.format"] == "digits"
    assert parameters["data.path"] == "null"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("schedule.epoch=3", r"schedule\.epoch: unknown key \(did you mean 'epochs'\?\)"),
        ("schedule.reference.momentm=0.9", r"unknown key \(did you mean 'momentum'\?\)"),
        ("schedule.curve.drops.0.epoc=3", r"schedule\.curve\.drops\.0\.epoc: unknown key \(did you mean 'epoch'\?\)"),
        ("schedule.reference.zzz=1", r"unknown key \(known: lr, global_batch, momentum\)"),
        ("data.augmentation.flips=true", r"unknown key \(did you mean 'flip'\?\)"),
        ("schedule.reference.lr=1e-3", r"'1e-3' is text in YAML, not a number: write 1\.0e-3"),
        ("schedule.reference.lr=1e3", r"write 1\.0e\+3"),
        ("schedule.reference.lr=-1", "lr -1 of the reference must be above 0"),
        ("target_top1=76", "target_top1: 76: should be less than or equal to 1"),
        ("target_top1=0", "target_top1: 0: should be greater than 0"),
        ("seed=x", 'seed: "x": should be a valid integer'),
        ("seed=1.5", "seed: 1.5: should be a valid integer"),
        ("schedule.epochs=.inf", "should be a finite number"),
        ("data.format=folder", "path is missing: format folder needs the folder of the images"),
        ("data.image_size=0", "data.image_size: 0: should be greater than or equal to 8"),
        ("memory_format=nhwc", "should be 'auto', 'contiguous' or 'channels_last'"),
        ("schedule.policy=listen", "schedule.policy: \"listen\": should be 'planned', 'measured' or 'adascale'"),
        ("schedule.growth.factor=3", "growth belongs to the policy measured, and the policy is planned: leave it out"),
        ("schedule.growth.factor=1", "factor 1 of the growth must be above 1"),
        ("schedule.growth.share=0", "share 0 of the growth must be above 0"),
        ("gradient_probe.every=0", "gradient_probe.every: 0: should be greater than or equal to 1"),
        ("gradient_probe.memory_epochs=0", "gradient_probe.memory_epochs: 0: should be greater than 0"),
        ("collective=mpi", "should be 'auto', 'local', 'ddp' or 'horovod'"),
        ("schedule.curve.shape=cosine", "set shape to steps"),
        ("name=../x", "name"),
        ("seed", "an override is key=value"),
        ("seed.deeper=1", 'seed: {"deeper": 1}: should be a valid integer'),
        ("schedule.curve.drops.9.epoch=1", "leads nowhere"),
        ("data=[1", "no YAML"),
        ("seed=2024-01-01", "use numbers, texts, lists and sections only"),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_place_and_what_would(override, message):
    with pytest.raises(ConfigError, match=message):
        load_config("digits-hybrid", [override])


def test_a_policy_that_listens_needs_the_probe_and_adascale_an_optimizer_of_sgds_kind():
    with pytest.raises(ConfigError, match=r"policy measured listens to the gradient probe, which is off: set gradient"):
        load_config("digits-hybrid", ["schedule.policy=measured", "gradient_probe.every=null"])
    with pytest.raises(
        ConfigError, match="policy adascale is a rule of SGD, and the optimizer is adamw: set optimizer"
    ):
        load_config("digits-hybrid", ["schedule.policy=adascale", "optimizer.name=adamw"])
    config = load_config("digits-hybrid", ["schedule.policy=measured", "optimizer.name=adam"])
    assert config.rule_schedule(1440).policy == "measured"


def test_no_epochs_at_all_are_refused():
    with pytest.raises(PlanError, match="0 epochs cannot be planned: give more than 0"):
        load_config("digits-hybrid", ["schedule.epochs=0"]).rule_schedule(1440)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["optimizer.name=nesterov", "schedule.reference.momentum=0"], "nesterov needs a momentum above 0"),
        (["optimizer.name=nesterov", "schedule.start.momentum=0"], "nesterov needs a momentum above 0"),
        (["optimizer.name=sgd"], r"sgd has no momentum: set schedule\.reference\.momentum=0"),
        (["optimizer.name=sgd", "schedule.reference.momentum=0", "schedule.start.momentum=0.5"], "sgd has no momentum"),
        (
            ["optimizer.name=sgd", "schedule.reference.momentum=0", "schedule.curve.drops.0.by=momentum"],
            "sgd has no momentum",
        ),
        (["schedule.form=square_root"], "square_root is the rule of adam, and the optimizer is momentum"),
        (
            ["schedule.form=square_root", "optimizer.name=adamw"],
            "square_root is the rule of adam, and the optimizer is adamw",
        ),
        (["optimizer.name=adam", "schedule.start.momentum=0.98"], r"adam \(beta1\) averages gradients"),
        (["optimizer.name=adamw", "schedule.curve.drops.0.by=momentum"], r"adamw \(beta1\) averages gradients"),
        (["optimizer.beta2=0.99"], "beta2 belongs to adam or adamw, and the optimizer is momentum: leave it out"),
        (["optimizer.name=lars", "optimizer.eps=1.0e-6"], "eps belongs to adam or adamw"),
        (["optimizer.name=adam", "optimizer.trust_coefficient=0.01"], "trust_coefficient belongs to lars"),
        (["optimizer.name=lars", "optimizer.fused=true"], "lars has no fused form: leave it out"),
        (["optimizer.name=adm"], "optimizer.name"),
    ],
)
def test_an_optimizer_that_does_not_fit_the_schedule_is_refused(overrides, message):
    with pytest.raises(ConfigError, match=message):
        load_config("digits-hybrid", overrides)


@pytest.mark.parametrize("name", ["momentum", "nesterov", "adam", "adamw", "lars"])
def test_every_optimizer_is_named_by_one_override(name):
    assert load_config("digits-hybrid", [f"optimizer.name={name}"]).optimizer.name == name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1\nseed: 2\n", "line 2: no YAML: key 'seed' stands twice"),
        ("- a\n- b\n", "list of `key: value` lines"),
        ("a: [", "no YAML"),
        ("1: 2\n", "key 1 is no word"),
        ("", "list of `key: value` lines"),
        ("a: !!python/object:os.system {}\n", "no YAML"),
        ("\x00", "no YAML"),
    ],
)
def test_files_that_are_no_configuration_are_refused(tmp_path, text, message):
    file = tmp_path / "broken.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config(str(file))


def test_an_unknown_preset_is_answered_with_the_nearest_and_the_list():
    with pytest.raises(ConfigError, match=r"did you mean 'digits-hybrid'\?\); presets: cifar10-adascale"):
        load_config("digit-hybrid")


def test_a_missing_file_is_named():
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: cannot be read \(No such file or directory\)"):
        load_config("nowhere.yaml")


@given(st.text(max_size=200))
def test_no_text_makes_the_loader_fall_over(tmp_path_factory, text):
    file = tmp_path_factory.mktemp("fuzz") / "any.yaml"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(ConfigError):
        load_config(str(file))


@given(st.text(max_size=60), st.text(max_size=60))
def test_no_override_makes_the_loader_fall_over(key, value):
    with contextlib.suppress(ConfigError):
        load_config("digits-hybrid", [f"{key}={value}"])


def test_a_plan_of_checkpoints_that_nobody_wrote_is_what_a_configuration_has():
    assert SavingPlan() == SavingPlan(**CheckpointConfig().model_dump())
