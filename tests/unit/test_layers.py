"""Which way the doors open: who may import whom, read off the source."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simple_calibration import write_simple_calibration

pytestmark = pytest.mark.unit

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted([*(ROOT / "trainer").rglob("*.py"), *(ROOT / "dali_pipelines").rglob("*.py")])


def imports(path):
    """Every module that the file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


def importers(library):
    """The files that import the library, relative to the root."""
    return {
        str(path.relative_to(ROOT))
        for path in SOURCES
        if any(name == library or name.startswith(f"{library}.") for name in imports(path))
    }


@pytest.mark.parametrize(
    ("library", "allowed"),
    [
        ("horovod", {"trainer/collective/hvd.py"}),
        ("yaml", {"trainer/yaml_text.py"}),
        ("torch.distributed", {"trainer/collective/ddp.py"}),
    ],
)
def test_each_library_has_one_door(library, allowed):
    assert importers(library) <= allowed


@pytest.mark.parametrize(
    ("layer", "forbidden"),
    [
        ("trainer/rule", ("torch", "numpy", "trainer.config", "trainer.engine", "trainer.cli", "dali_pipelines")),
        ("dali_pipelines", ("trainer",)),
        ("trainer/engine", ("trainer.cli", "trainer.config", "trainer.tracking", "trainer.report", "nvidia", "mlflow",
                            "trainer.collective.ddp", "trainer.collective.hvd", "trainer.collective.local")),
        ("trainer/collective", ("trainer.engine", "trainer.cli", "trainer.config", "trainer.models")),
        ("trainer/models", ("trainer.engine", "trainer.cli", "trainer.config", "trainer.collective")),
        ("trainer/tracking", ("trainer.engine", "trainer.cli", "trainer.config", "trainer.report", "torch")),
        ("trainer/report", ("trainer.engine", "trainer.cli", "trainer.config", "torch")),
        ("trainer/calibration", ("trainer.cli", "trainer.tracking", "trainer.report", "trainer.sweep", "mlflow")),
        ("trainer/manifest", ("trainer.engine", "trainer.cli", "trainer.collective", "trainer.tracking", "torch")),
        ("trainer/sweep", ("trainer.engine", "trainer.cli", "trainer.report", "trainer.collective", "trainer.models",
                           "dali_pipelines", "torch")),
    ],
)  # fmt: skip
def test_a_layer_knows_nothing_above_or_beside_it(layer, forbidden):
    for path in (ROOT / layer).rglob("*.py"):
        for name in imports(path):
            assert not any(name == f or name.startswith(f"{f}.") for f in forbidden), f"{path} imports {name}"


def test_only_one_file_reads_the_environment():
    readers = {
        str(path.relative_to(ROOT))
        for path in SOURCES
        if any(text in path.read_text() for text in ("os.environ", "os.getenv", "getenv("))
    }
    # MLflow's telemetry has no other switch than a variable, set while it is imported
    assert readers == {"trainer/environment.py", "trainer/tracking/mlflow_store.py"}


@pytest.mark.parametrize(
    "command",
    [
        ["--help"],
        ["plan", "digits-hybrid", "--workers", "2"],
        ["plan", "digits-hybrid", "--workers", "1,5:2", "--calibration", "{calibration}"],
        ["sweep", "digits-hybrid", "--seeds", "2", "--dry-run"],
        ["manifest", "digits-hybrid", "--workers", "2", "--per-node", "2"],
    ],
)
def test_planning_needs_no_torch_and_no_mlflow(command, tmp_path):
    calibration = write_simple_calibration(tmp_path, "digits-hybrid")
    command = [word.format(calibration=calibration) for word in command]
    code = (
        "import sys; from trainer.cli.main import main\n"
        f"try: main({command!r})\nexcept SystemExit: pass\n"
        "print(sorted({'torch', 'mlflow', 'nvidia', 'horovod', 'matplotlib'} & set(sys.modules)), file=sys.stderr)"
    )
    finished = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert finished.stderr.strip() == "[]"
