"""What `make setup` decides before it calls pip."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import pytest

import setup_venv
from setup_venv import SetupError, constraints_text, fits, make_venv, require_python, wanted_stamp

pytestmark = pytest.mark.unit


def torch_lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("torch==")]


def test_another_torch_takes_the_place_of_the_pinned_one():
    assert torch_lines(constraints_text("2.9.1")) == ["torch==2.9.1"]
    assert constraints_text("2.9.1").count("\n") == constraints_text("").count("\n")


def test_one_torch_is_pinned_where_no_other_is_asked_for():
    assert len(torch_lines(constraints_text(""))) == 1


def test_a_python_that_is_too_old_is_told_what_to_do(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 9, 2))
    with pytest.raises(SetupError, match=r"3\.10 or newer.*make setup PYTHON="):
        require_python()


def test_a_python_without_venv_is_told_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SetupError, match=r"apt-get install python3\.\d+-venv"):
        require_python()


def test_a_folder_of_something_else_is_never_taken_for_the_environment(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(SetupError, match="is no virtual environment"):
        make_venv(tmp_path)
    assert (tmp_path / "thesis.tex").exists()


def environment(folder: Path, made_at: Path, version: str) -> Path:
    """As much of a virtual environment as tells where, and by which Python, it was made."""
    (folder / "bin").mkdir(parents=True)
    (folder / "pyvenv.cfg").write_text(f"home = /usr/bin\nversion = {version}\n")
    (folder / "bin" / "pip").write_text(f"#!{made_at}/bin/python3\nimport pip\n")
    return folder


def test_an_environment_fits_where_it_was_made_and_with_the_python_that_made_it(tmp_path):
    venv, version = tmp_path / "venv", platform.python_version()
    assert fits(environment(venv, made_at=venv, version=version))
    assert not fits(environment(tmp_path / "moved", made_at=venv, version=version))
    assert not fits(environment(tmp_path / "older", made_at=tmp_path / "older", version="3.9.2"))


def test_the_environment_is_made_again_when_what_it_was_made_from_changes(monkeypatch, tmp_path):
    for name in setup_venv.MADE_FROM:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("as it was")
    monkeypatch.setattr(setup_venv, "ROOT", tmp_path)
    before = wanted_stamp("test", "")
    assert wanted_stamp("test", "") == before
    assert wanted_stamp("test,dev", "") != before
    assert wanted_stamp("test", "2.9.1") != before
    (tmp_path / "constraints.txt").write_text("changed")
    assert wanted_stamp("test", "") != before


def test_all_files_that_the_environment_is_made_from_exist():
    assert [name for name in setup_venv.MADE_FROM if not (Path(setup_venv.ROOT) / name).is_file()] == []
