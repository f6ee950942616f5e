"""Any text and any tree as a configuration: taken or refused in one short line, in time and memory that it is worth."""

from __future__ import annotations

import contextlib
import json
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzzing import fuzz
from trainer.config import ConfigError, TrainConfig, load_config, parse_config, to_yaml

pytestmark = pytest.mark.unit

PRESET = to_yaml(load_config("digits-hybrid"))
KEYS = st.sampled_from(
    ["name", "seed", "data", "schedule", "curve", "drops", "0", "epoch", "by", "reference", "lr", "limits", "tracking",
     "mlflow", "fleet", "model", "optimizer"]
)  # fmt: skip
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(10**30), 10**30)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["1e-3", "nan", "\x00", "\ud800", "off", "batch", "auto", "9" * 50])
)
TREES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS | st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)
PIECES = st.sampled_from(
    ["a: ", "- ", "&a ", "*a", "<<: ", "!!python/object:os.system ", "!!bool ", "!!timestamp ", "!!set ", "!!omap ",
     "!!binary ", "{", "}", "[", "]", "? ", ": ", "|\n", ">-\n", "\n", "  ", "'", '"', "#", "%YAML 9.9\n", "---\n",
     "...\n", "1:30:59", "0x", "2024-99-99", "=", "~", "\t", "\x00", "\ud800", "\u2028", "name: x\n", "seed: "]
)  # fmt: skip


def taken_or_refused(text: str, overrides: Sequence[str] = ()) -> TrainConfig | None:
    config, refusal = None, ""
    try:
        config = parse_config(text, "any.yaml", overrides)
    except ConfigError as error:
        refusal = str(error)
    assert refusal.isprintable()
    assert len(refusal) < 5000
    assert (config is None) != (refusal == "")
    assert config is None or parse_config(to_yaml(config), "printed.yaml") == config
    return config


@fuzz(80)
@given(st.lists(PIECES | st.text(max_size=6), max_size=40).map("".join))
def test_any_text_is_refused(text):
    assert taken_or_refused(text) is None


@fuzz(80)
@given(st.dictionaries(KEYS, TREES, max_size=6))
def test_any_tree_is_taken_or_refused(tree):
    taken_or_refused(json.dumps(tree))


@fuzz(60)
@given(
    at=st.integers(0, len(PRESET)),
    removed=st.integers(0, 30),
    inserted=st.lists(PIECES | st.text(max_size=6), max_size=4),
)
def test_a_damaged_configuration_is_taken_or_refused(at, removed, inserted):
    taken_or_refused(PRESET[:at] + "".join(inserted) + PRESET[at + removed :])


@fuzz(80)
@given(
    key=st.lists(KEYS | st.text(max_size=4) | st.sampled_from(["²", "9" * 5000, "-1", ""]), min_size=1, max_size=5),
    value=st.lists(PIECES | st.text(max_size=6), max_size=6).map("".join) | TREES.map(json.dumps),
)
def test_any_override_is_taken_or_refused(key, value):
    taken_or_refused(PRESET, [".".join(key) + "=" + value])


@fuzz(50)
@given(st.binary(max_size=60))
def test_any_bytes_as_a_file_are_refused(tmp_path_factory, content):
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigError):
        load_config(str(file))


def laughs(levels: int) -> str:
    """A list of nine lists of nine lists ..., in a line a level."""
    lines = [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]" for level in range(1, levels)]
    return "\n".join(["a0: &a0 [x, x, x, x, x, x, x, x, x]", *lines])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (laughs(30), "has more than 10,000 values: look at its aliases"),  # 9 ** 30 of them
        ("data: &a {path: *a}", "is nested deeper than 32 sections"),
        ("data: &a [*a, *a]", "is nested deeper than 32 sections"),
        ("a: " + "[" * 200 + "]" * 200, "is nested deeper than 32 sections"),
        ("a: !!bool x", "no YAML: 'x'"),
        ("a: !!timestamp x", "no YAML"),
        ("seed: " + "9" * 5000, "no YAML: Exceeds the limit"),
        ("seed: 0x" + "f" * 9999, "Exceeds the limit"),
        ('output: "a\\0b"', "is no text"),
        ('output: "\\ud800"', "is no text"),
        ("\n".join(f"key{number}: 1" for number in range(300)), "; and 297 more"),  # name and schedule are missing too
    ],
)
def test_what_would_fill_memory_or_the_screen_is_refused_in_little_of_both(text, said):
    tracemalloc.start()
    with pytest.raises(ConfigError) as refused:
        parse_config(text, "monster.yaml")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert said in str(refused.value)
    assert len(str(refused.value)) < 1500
    assert peak < 50_000_000


def test_brackets_without_end_are_refused():
    with pytest.raises(ConfigError, match=r"^deep\.yaml: no YAML: its brackets are nested too deeply: close them$"):
        parse_config("[" * 1_500, "deep.yaml")


@pytest.mark.parametrize("key", ["schedule.curve.drops.².epoch", "schedule.curve.drops." + "1" * 5000])
def test_what_is_no_place_in_a_list_is_refused(key):
    with pytest.raises(ConfigError, match=r"leads nowhere|cannot be set"):
        load_config("digits-hybrid", [f"{key}=1"])


def test_a_file_without_end_is_not_read_to_its_end(tmp_path):
    endless = tmp_path / "zero.yaml"
    endless.symlink_to("/dev/zero")
    with pytest.raises(ConfigError, match=r"zero\.yaml: is longer than 262,144 bytes"):
        load_config(str(endless))


@pytest.mark.parametrize(
    "override",
    [
        "tracking=http://me:hunter2@host",
        "tracking.mlflow=[http://me:hunter2@host]",
        "tracking.mlflow=[http://me:hunter2@host",
        "tracking.mlflow.deeper.still=postgresql://me:hunter2@host/db",
        "seed=http://me:hunter2@" + "host" * 100,
        "seed=http://" + "me" * 30 + ":hunter2@host",
        "http://me:hunter2@host",
        "a.http://me:hunter2@host=1",
    ],
)
def test_a_refused_setting_does_not_show_its_password(override):
    with contextlib.suppress(ConfigError):
        assert load_config("digits-hybrid", [override]) is None
    with pytest.raises(ConfigError) as refused:
        load_config("digits-hybrid", [override])
    assert "hunter" not in str(refused.value)


def test_a_refused_setting_moves_no_cursor():
    with pytest.raises(ConfigError) as refused:
        load_config("digits-hybrid", ["a\x1b[2Jb\n=1"])
    assert str(refused.value).isprintable()


def test_a_source_that_is_no_text_is_refused():
    with pytest.raises(ConfigError):
        load_config(str(Path("a\0b.yaml")))
