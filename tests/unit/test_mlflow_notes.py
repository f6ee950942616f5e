"""What a run's page in MLflow says in words."""

from __future__ import annotations

import pytest

from trainer.tracking import FINISHED, RunLog, RunStart
from trainer.tracking.mlflow_notes import run_note
from trainer.tracking.run_log import Close

pytestmark = pytest.mark.unit

END = {"best_top1": 0.9972, "final_top1": 0.9916, "total_s": 24.096, "updates": 2160, "samples_seen": 34560}
TARGET = {"time_to_98.5_s": 12.767, "train_time_to_98.5_s": 12.06, "updates_to_98.5": 1080, "epochs_to_98.5": 12.0}


def note_of(summary, target_top1: str = "0.985") -> str | None:
    run = RunStart("uid", "digits", "digits", {"target_top1": target_top1}, {}, {})
    return run_note(RunLog("", 0.0, run, (), (), Close(30.0, FINISHED, summary, None), is_being_written=False))


@pytest.mark.parametrize(
    ("summary", "target_top1", "said"),
    [
        (END | TARGET, "0.985", "**98.5 % after 12.8 s**, 1,080 updates, 12 epochs. "),
        (END, "0.985", "Did not reach 98.5 %. "),
        (END, "null", ""),
    ],
)
def test_the_result_of_a_run_is_said_with_its_target_first(summary, target_top1, said):
    assert note_of(summary, target_top1) == f"{said}Top-1 99.16% (best 99.72%) after 2,160 updates and 24.1 s."


def test_what_has_no_accuracy_has_no_result():
    assert note_of({"sweep/finished": 3.0}) is None
