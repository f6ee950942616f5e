"""The same run whether an update's numbers are read at once or later."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from tests.digits_jobs import Curves, StopAt, job_of, timeless
from trainer.engine import readings
from trainer.engine.gradient_probe import ProbePlan
from trainer.engine.train import train

pytestmark = pytest.mark.numerics


def test_when_numbers_are_read_changes_no_bit_of_the_record_nor_of_what_a_stopped_run_keeps(tmp_path, monkeypatch):
    lag = readings.lag_on(torch.device("cuda"))

    def run(of, stopping):
        monkeypatch.setattr(readings, "lag_on", lambda device: of)
        curves, stop = Curves(), {"wants_stop": StopAt(10)} if stopping else {}
        job = job_of(tmp_path / f"{of}", curves, dtype=torch.float64, **stop)
        state, _ = train(dataclasses.replace(job, probe=ProbePlan(3)))
        part = state.part and dataclasses.replace(state.part, train_s=0.0)
        return curves.metrics, dataclasses.replace(timeless(state), part=part)

    for of in (0, lag):
        (tmp_path / f"{of}").mkdir()
    for stops in (1, 2):
        late, at_once = run(lag, stopping=True), run(0, stopping=True)
        assert late == at_once
        part = late[1].part
        assert (part.updates, part.samples) == (10 * stops, 320 * stops)
        assert part.loss_sum != torch.tensor(part.loss_sum, dtype=torch.float32).item(), "kept without rounding"
    late, at_once = run(lag, stopping=False), run(0, stopping=False)  # they go on
    assert late == at_once
    assert len(late[0]) == 5
    assert late[1].noise.weight > 0
