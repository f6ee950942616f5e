"""The file of a calibration: what is written is read, and what is none is refused in one line."""

from __future__ import annotations

import json

import pytest

from tests.simple_calibration import calibration_of
from trainer.calibration.calibration import read_calibration, write_calibration
from trainer.calibration.errors import CalibrationError
from trainer.config import load_config

pytestmark = pytest.mark.unit

SIMPLE = calibration_of(load_config("digits-hybrid"))


def test_what_is_written_is_read_and_nothing_else_is_left(tmp_path):
    file = tmp_path / "c.json"
    write_calibration(SIMPLE, file)
    assert read_calibration(file) == SIMPLE
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no calibration (the file: Invalid JSON"),
        (SIMPLE.model_dump_json().encode()[:500], "is no calibration (the file: Invalid JSON"),
        (bytes(range(256)), "is no calibration (the file: Invalid JSON"),
        (b"[]", "is no calibration (the file: Input should be an object)"),
        (b'{"format": 2}', "is no calibration (format: Input should be 1)"),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path, content, message):
    file = tmp_path / "c.json"
    file.write_bytes(content)
    with pytest.raises(CalibrationError) as refused:
        read_calibration(file)
    assert str(refused.value).startswith(f"{file}: {message}")
    assert "\n" not in str(refused.value)


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(
        CalibrationError, match=r"cannot be read \(Is a directory\): name a file that `trainer calibrate`"
    ):
        read_calibration(tmp_path)


@pytest.mark.parametrize(
    ("part", "field", "value", "message"),
    [
        ("compute", "forward_s", 0.0, "a micro-batch of 16 samples, 0 s forward and 0.012 s backward, was never"),
        ("compute", "spread", float("nan"), "is no calibration (compute.0.spread: Input should be a finite number)"),
        ("all_reduce", "seconds", 0.0, "an all-reduce of 1000000 bytes over 2 workers on 1 nodes in 0 s was never"),
        ("all_reduce", "nodes", 0, "an all-reduce of 1000000 bytes over 2 workers on 0 nodes in 0.003 s was never"),
    ],
)
def test_what_cannot_have_been_measured_is_refused(tmp_path, part, field, value, message):
    document = SIMPLE.model_dump()
    document[part] = [dict(each) for each in document[part]]
    document[part][0][field] = value
    file = tmp_path / "c.json"
    file.write_text(json.dumps(document))
    with pytest.raises(CalibrationError) as refused:
        read_calibration(file)
    said = str(refused.value)
    assert said.startswith(f"{file}: {message}")
    assert said.count("calibrate again") == 1
