"""What `--vary`, `--seeds`, `--name` and `--launcher` mean."""

from __future__ import annotations

import pytest

from trainer.sweep.errors import SweepError
from trainer.sweep.grid import Axis, Grid, parse_axes, parse_seeds, points_of, sweep_name
from trainer.sweep.launcher import parse_launcher, workers_of

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("text", "key", "values"),
    [
        ("a.b=1", "a.b", ["1"]),
        ("a.b=0.1,1.0e-3,null", "a.b", ["0.1", "1.0e-3", "null"]),
        ("a=[1,2],[3,4]", "a", ["[1,2]", "[3,4]"]),
        ("a={x: 1, y: [2, 3]},{x: 4, y: []}", "a", ["{x: 1, y: [2, 3]}", "{x: 4, y: []}"]),
        ("a='b,c',\"d,[e\"", "a", ["'b,c'", '"d,[e"']),
        ("a=p=1,q=2", "a", ["p=1", "q=2"]),
    ],
)
def test_commas_part_values_outside_brackets_and_quotes(text, key, values):
    assert parse_axes([text], [], seeds=False) == (Axis(key, tuple(values)),)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["a"], "--vary 'a': an axis is key=v1,v2"),
        (["=1,2"], "an axis is key=v1,v2"),
        (["a=1,,2"], "a value between the commas is missing"),
        (["a=1,"], "a value between the commas is missing"),
        (["a="], "a value between the commas is missing"),
        (["a=[1,2"], "a bracket or a quote is open"),
        (["a='1,2"], "a bracket or a quote is open"),
        (["a=1,2", "a=3,4"], "a is given twice"),
        (["given=1,2"], "given is given twice"),
        (["seed=1,2"], "seed is given twice"),
        (["output=a,b"], "the sweep sets output itself"),
        (["tracking.parent=a,b"], "the sweep sets tracking.parent itself"),
    ],
)
def test_an_axis_that_is_none_is_refused(texts, message):
    with pytest.raises(SweepError, match=message):
        parse_axes(texts, ["given=0"], seeds=True)


def test_seeds_are_a_number_or_a_list():
    assert parse_seeds("3", first=5) == (5, 6, 7)
    assert parse_seeds("0,1,7", first=5) == (0, 1, 7)
    for wrong in ("0", "-1", "two", "1,x", "1,", ""):
        with pytest.raises(SweepError, match="neither how many"):
            parse_seeds(wrong, first=0)


def test_the_points_are_the_product_and_all_of_the_first_seed_come_first():
    axes = (Axis("lr", ("0.1", "0.2")), Axis("m", ("0", "0.9")))
    points = points_of(Grid(("a",), ("epochs=2",), axes, seeds=(4, 5)))
    assert [point.label for point in points] == [
        f"lr={lr} m={m} seed={seed}" for seed in (4, 5) for lr in ("0.1", "0.2") for m in ("0", "0.9")
    ]
    assert points[5].source == "a"
    assert points[5].overrides == ("epochs=2", "lr=0.1", "m=0.9", "seed=5")


def test_several_presets_are_told_apart_by_name_and_a_single_point_by_what_it_runs():
    assert [p.label for p in points_of(Grid(("a", "b.yaml"), seeds=(0,)))] == ["a seed=0", "b.yaml seed=0"]
    assert [p.label for p in points_of(Grid(("a",)))] == ["a"]
    assert [(p.label, p.source, p.overrides) for p in points_of(Grid((None,)))] == [("the default run", None, ())]


def test_the_same_command_names_the_same_sweep_and_so_does_one_with_more_seeds():
    grid = Grid(("a", "b", "c"), ("x=1",), (Axis("lr", ("1", "2")),), seeds=(0, 1))
    name = sweep_name(None, "first", grid, ())
    assert name.startswith("first-and-2-more-")
    assert sweep_name(None, "first", Grid(grid.sources, grid.overrides, grid.axes, seeds=None), ()) == name
    others = [
        sweep_name(None, "first", Grid(("a", "b", "d"), grid.overrides, grid.axes, (0, 1)), ()),
        sweep_name(None, "first", Grid(grid.sources, ("x=2",), grid.axes, (0, 1)), ()),
        sweep_name(None, "first", Grid(grid.sources, grid.overrides, (Axis("lr", ("1,2",)),), (0, 1)), ()),
        sweep_name(None, "first", grid, ("horovodrun", "-np", "2")),
    ]
    assert len({name, *others}) == 5
    assert sweep_name("mine", "first", grid, ()) == "mine"
    for wrong in ("", "../x", "a b", ".hidden", "x" * 101):
        with pytest.raises(SweepError, match="a name is letters"):
            sweep_name(wrong, "first", grid, ())


@pytest.mark.parametrize(
    ("text", "workers"),
    [
        ("", 1),
        ("horovodrun -np 2", 2),
        ("horovodrun --num-proc=16 -H a:8,b:8", 16),
        ("taskset -c 2,3 nice -n 5 horovodrun -np 2", 2),
        ("nice -n 5 mpirun -n 4 --bind-to none", 4),
        ("srun --ntasks 8", 8),
        ("srun", None),
        ("torchrun --standalone --nproc-per-node 2", 2),
        ("torchrun --nnodes=2 --nproc_per_node=8", 16),
        ("torchrun --nnodes 1:4 --nproc-per-node 8", None),
        ("python -m torch.distributed.run --nproc-per-node gpu", None),
        ("taskset -c 0", None),
        ("torchrun --nproc-per-node=²", None),
    ],
)
def test_the_launchers_words_tell_how_many_workers_it_starts(text, workers):
    assert workers_of(parse_launcher(text)) == workers


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("horovodrun -np 0", "starts no worker: give at least 1"),
        ("torchrun --nnodes 0", "starts no worker: give at least 1"),
        ("horovodrun -np", "-np has no number: give one"),
    ],
)
def test_a_launcher_that_starts_nobody_is_refused(text, message):
    with pytest.raises(SweepError, match=message):
        workers_of(parse_launcher(text))


def test_torchrun_is_told_that_it_starts_a_command():
    assert parse_launcher("torchrun --nproc-per-node 2") == ("torchrun", "--nproc-per-node", "2", "--no-python")
    assert parse_launcher("/x/torchrun --no-python")[-2:] == ("/x/torchrun", "--no-python")
    assert parse_launcher("horovodrun -np 2 -H 'a b'") == ("horovodrun", "-np", "2", "-H", "a b")
    with pytest.raises(SweepError, match="check its quotes"):
        parse_launcher("horovodrun 'x")
