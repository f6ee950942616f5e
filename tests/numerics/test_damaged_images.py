"""Images that cannot be decoded: named, and nothing else is disturbed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dali_pipelines.errors import DataError
from dali_pipelines.pipeline import InputPipeline
from dali_pipelines.sample_order import Shard, sample_ids
from tests.launching import run_workers
from tests.photo_streams import SEED, stream

pytestmark = pytest.mark.numerics


@pytest.fixture
def damaged(photos, tmp_path) -> Callable[[Callable[[Path], None]], tuple[InputPipeline, Path]]:
    """A pipeline on photos of which one is spoilt after it was indexed."""

    def make(spoil: Callable[[Path], None]) -> tuple[InputPipeline, Path]:
        root = shutil.copytree(photos, tmp_path / "photos")
        pipeline = stream(root)
        victim = root / "train" / "flower" / "007.jpg"
        spoil(victim)
        return pipeline, victim

    return make


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda file: file.unlink(), "No such file or directory"),
        (lambda file: file.write_bytes(b""), "the file is empty"),
        (lambda file: file.write_text("no image any more"), "it holds no image"),
        (lambda file: file.write_bytes(file.read_bytes()[:800]), "the decoder gives up on it"),
        (lambda file: Image.new("RGB", (10, 10)).save(file), "it has 10 x 10 pixels, and had"),
    ],
    ids=["missing", "empty", "text", "cut short", "replaced by a smaller one"],
)
def test_a_file_that_cannot_be_decoded_is_named(damaged, spoil, reason):
    pipeline, victim = damaged(spoil)
    with pytest.raises(DataError, match=reason) as error:
        list(pipeline.batches(Shard(0, 1, 16, 1, 0, 80)))
    assert str(victim) in str(error.value)
    assert str(error.value).count(".jpg") == 1


def test_after_a_failure_the_pipeline_can_be_used_again(damaged, photos):
    pipeline, victim = damaged(lambda file: file.write_text("no image any more"))
    for _ in range(2):
        with pytest.raises(DataError, match=r"007\.jpg"):
            list(pipeline.batches(Shard(0, 1, 16, 1, 0, 80)))
    shutil.copy(photos / "train" / "flower" / "007.jpg", victim)
    assert len(list(pipeline.batches(Shard(0, 1, 16, 1, 0, 80)))) == 5


def test_damage_in_a_stream_that_was_dropped_does_not_stop_the_next(damaged):
    pipeline, victim = damaged(lambda file: file.write_text("no image any more"))
    ids = sample_ids(SEED, 80, np.arange(80)).tolist()
    met = ids.index(40 + 7)  # class flower follows the 40 images of class china
    assert victim.name == "007.jpg"
    pipeline.batches(Shard(0, 1, 1, 1, met, met + 1))
    assert len(list(pipeline.batches(Shard(0, 1, 1, 1, met + 1, met + 11)))) == 10


@pytest.mark.parametrize("spoil", ["file.write_text('no image any more')", "Image.new('RGB', (10, 10)).save(file)"])
def test_a_file_that_the_decoder_refuses_does_not_take_the_process_with_it(photos, tmp_path, spoil):
    # Where it does, it is a matter of moments in DALI's threads: one time in ten or less.
    code = f"""
from pathlib import Path
from PIL import Image
from dali_pipelines.errors import DataError
from dali_pipelines.pipeline import open_dataset
from dali_pipelines.sample_order import Shard
from tests.photo_streams import stream
dataset = open_dataset("folder", {str(shutil.copytree(photos, tmp_path / "photos"))!r})
file = dataset.train.path(47)
{spoil}
for epoch in range(25):
    try:
        list(stream(dataset).batches(Shard(0, 1, 64, 1, 80 * epoch, 80 * epoch + 128)))
    except DataError:
        print("stopped")
"""
    finished = run_workers("alone", 1, ["-c", code])
    assert finished.returncode == 0, finished.stderr[-2000:]
    assert finished.stdout.count("stopped") == 25
