"""Which run `--resume` goes on with, and what it takes from the command line."""

from __future__ import annotations

import io
from argparse import Namespace

import pytest
import torch
from rich.console import Console

from tests.fleet_in_threads import run_fleet
from trainer.cli.resume import find, identity_of
from trainer.cli.resume_arguments import collective_setting
from trainer.collective.agreement import WorkerError
from trainer.collective.local import LocalCollective
from trainer.config import load_config
from trainer.engine.checkpoint import FOLDER_NAME
from trainer.engine.run_state import RunState, Standing
from trainer.engine.saving import CheckpointWriter, SavingPlan
from trainer.tracking import FILE_NAME, FINISHED, PAUSED, Journal, RunStart

pytestmark = pytest.mark.unit


def identity(*overrides, digest="digest"):
    return identity_of(load_config("digits-hybrid", overrides), digest)


def keep(output, name, status=None, of=None):
    """A run with a checkpoint in the output folder; without a status its process died."""
    journal = Journal(output / name / FILE_NAME)
    journal.start(RunStart(f"uid-of-{name}", "digits", "digits", {}, {}, {}))
    model = torch.nn.Linear(1, 1)
    run = output / name
    writer = CheckpointWriter(run / FOLDER_NAME, run / "weights.pt", identity() if of is None else of, SavingPlan())
    for samples_seen in (960, 1440):
        standing = Standing(RunState(samples_seen=samples_seen))
        writer.save(standing, model, torch.optim.SGD(model.parameters(), lr=0.1), {})
    writer.finish()
    if status is not None:
        journal.close(status, {})


def look(output, wanted="auto", collective=None):
    """The run that is found, and what was said."""
    said = io.StringIO()
    config = load_config("digits-hybrid", [f"output={output}"])
    found = find(wanted, config, identity(), collective or LocalCollective(), Console(file=said, width=1000))
    return found, said.getvalue()


def test_auto_finds_the_newest_run_of_the_configuration_that_is_not_finished(tmp_path):
    keep(tmp_path, "c", PAUSED)
    keep(tmp_path, "b")  # the newest that will do: names say nothing
    keep(tmp_path, "a", FINISHED)
    keep(tmp_path, "d", PAUSED, of=identity("seed=1"))
    keep(tmp_path, "e", PAUSED, of=identity(digest="other images"))
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / FILE_NAME).write_text("")  # ended before its first checkpoint
    keep(tmp_path, "g")
    damaged = [tmp_path / "g" / FOLDER_NAME / name / "state.json" for name in ("1440", "960")]
    for path in damaged:
        path.write_text("{}")
    found, said = look(tmp_path)
    assert (found.folder, found.run_uid, found.is_finished) == (tmp_path / "b", "uid-of-b", False)
    assert found.standing.state.samples_seen == 1440
    assert said.startswith(f"warning: --resume auto passes over {tmp_path / 'g'} ({damaged[0]}: is damaged")
    assert said.count("\n") == 1


@pytest.mark.parametrize("wanted", ["auto", "DIR"])
def test_a_run_whose_newest_checkpoint_is_damaged_goes_on_from_the_one_before_it(tmp_path, wanted):
    keep(tmp_path, "a")
    damaged = tmp_path / "a" / FOLDER_NAME / "1440" / "model.pt"
    damaged.write_bytes(b"")
    found, said = look(tmp_path, wanted if wanted == "auto" else str(tmp_path / "a"))
    assert found.standing.state.samples_seen == 960
    assert said == (
        f"warning: {damaged}: is damaged (its SHA-256 is not the one in SHA256SUMS): going on from 960 samples\n"
    )


def test_auto_takes_the_run_before_where_the_newest_has_no_whole_checkpoint(tmp_path):
    keep(tmp_path, "older", PAUSED)
    keep(tmp_path, "newer", PAUSED)
    for name in ("960", "1440"):
        (tmp_path / "newer" / FOLDER_NAME / name / "model.pt").write_bytes(b"")
    found, said = look(tmp_path)
    assert found.folder == tmp_path / "older"
    assert said.startswith(f"warning: --resume auto passes over {tmp_path / 'newer'} (")
    assert said.count("\n") == 1


def test_auto_begins_anew_where_all_runs_are_finished_or_there_is_none(tmp_path):
    keep(tmp_path, "a", FINISHED)
    for output in (tmp_path, tmp_path / "nowhere"):
        found, said = look(output)
        assert found is None
        assert said == f"--resume auto: {output} holds no unfinished run of this configuration: a new one starts\n"


def test_workers_without_the_folder_hear_from_rank_0_where_the_run_stands(tmp_path):
    keep(tmp_path, "a", FINISHED)

    def take_part(collective):
        place = tmp_path / "a" if collective.rank == 0 else tmp_path / "elsewhere"
        return look(tmp_path, str(place), collective)[0]

    first, second = run_fleet(2, take_part)
    assert (first.is_finished, second.is_finished) == (True, True)
    assert first.standing == second.standing
    assert (second.folder, second.checkpoint) == (None, None)


def test_workers_hear_why_a_run_cannot_go_on(tmp_path):
    keep(tmp_path, "a", of=identity("seed=1"))

    def take_part(collective):
        with pytest.raises(WorkerError, match=r"a: cannot go on as another run: seed was 1 and is 0 now:"):
            look(tmp_path, str(tmp_path / "a"), collective)
        return True

    assert all(run_fleet(2, take_part))


@pytest.mark.parametrize(
    "free",
    [
        "output=x", "tracking.mlflow=off", "collective=ddp", "device=cpu", "fleet=[{epoch: 0, workers: 8}]",
        "schedule.limits.max_micro_batch=8", "data.threads=2", "checkpoints.keep=9", "memory_format=contiguous",
        "compile=true", "data.hw_decoder_load=0.5",
    ],
)  # fmt: skip
def test_where_and_on_what_a_run_goes_on_is_free(free):
    assert identity(free) == identity()


@pytest.mark.parametrize(
    "fixed",
    [
        "seed=1", "schedule.epochs=3", "schedule.reference.lr=0.3", "target_top1=0.5", "precision=bfloat16",
        "gradients.wire=float16", "optimizer.fused=false", "name=other",
    ],
)  # fmt: skip
def test_what_decides_the_result_is_fixed(fixed):
    assert identity(fixed) != identity()


def test_a_resumed_runs_worker_does_not_ask_the_file_that_happens_to_lie_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "trainer.yaml").write_text("collective: local\n")
    assert collective_setting(Namespace(resume="runs/a", words=["seed=1"])) == "auto"
    assert collective_setting(Namespace(resume="runs/a", words=["collective=ddp"])) == "ddp"
