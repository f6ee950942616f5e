"""What an installed copy holds: everything it needs to run, and nothing that slows its start."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.unit

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("trainer", "dali_pipelines")


@pytest.fixture
def packaging(monkeypatch) -> dict[str, Any]:
    """What setup.py tells setuptools."""
    told: dict[str, Any] = {}
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("setuptools.setup", lambda **arguments: told.update(arguments))
    runpy.run_path(str(ROOT / "setup.py"))
    return told


def folder_of(package: str) -> Path:
    return ROOT / package.replace(".", "/")


def test_every_folder_with_code_is_packaged(packaging):
    code = {file.parent for package in PACKAGES for file in folder_of(package).rglob("*.py")}
    assert code == {folder_of(package) for package in packaging["packages"]}


def test_every_file_that_is_no_code_is_packaged(packaging):
    packaged = {
        file
        for package, patterns in packaging["package_data"].items()
        for pattern in patterns
        for file in folder_of(package).glob(pattern)
    }
    files = (file for package in PACKAGES for file in folder_of(package).rglob("*") if file.is_file())
    assert packaged == {file for file in files if file.suffix != ".py" and "__pycache__" not in file.parts}


def test_the_command_trainer_is_a_function_that_exists(packaging):
    (script,) = packaging["entry_points"]["console_scripts"]
    name, target = script.split(" = ")
    module, function = target.split(":")
    assert name == "trainer"
    assert callable(getattr(import_module(module), function))


def test_the_version_is_the_one_that_the_package_states(packaging):
    assert packaging["version"] == import_module("trainer").__version__


def test_everything_that_is_asked_for_is_pinned(packaging):
    def name_of(requirement: str) -> str:
        return re.split(r"[^A-Za-z0-9_.-]", requirement)[0].lower()

    asked_for = list(packaging["install_requires"])
    asked_for += [each for extra in ("dali", "test", "dev") for each in packaging["extras_require"][extra]]
    pinned = {name_of(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    assert {name_of(each) for each in asked_for} - pinned == set()


def test_the_rule_needs_the_standard_library_alone():
    """In a fresh Python: the planner is usable as a library where nothing else is installed."""
    code = "import sys; before = set(sys.modules); import trainer.rule; print(*set(sys.modules) - before)"
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in ended.stdout.split()}
    assert loaded - sys.stdlib_module_names == {"trainer"}
