"""Images built and containers run on one machine that has no container engine: a base made by debootstrap, buildah in a
chroot, podman's bridge and name server."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.launching import REPOSITORY
from trainer import __version__

TRAINER = f"localhost/large-batch-trainer:{__version__}-cpu"
MLFLOW = f"localhost/large-batch-trainer-mlflow:{__version__}"
_BASE = "localhost/large-batch-trainer-base:debian"
_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
# runc: crun 1.8 refuses cgroups of versions 1 and 2 side by side. The limits: podman asks for higher ones than root may
# have where it is confined itself.
_PODMAN = ["podman", "--runtime", "runc", "--cgroup-manager", "cgroupfs", "--log-level", "fatal"]
_LIMITS = ["--ulimit", "nofile=4096:4096", "--ulimit", "nproc=32768:32768"]


def what_is_missing() -> str | None:
    """Why this machine cannot build and run images, if it cannot."""
    if os.getuid() != 0:
        return "images are built by root here"
    programs = ("apt-get", "buildah", "debootstrap", "iptables", "podman", "runc")
    if missing := [program for program in programs if shutil.which(program) is None]:
        return f"not installed on this machine: {', '.join(missing)}"
    if not Path("/usr/lib/podman/netavark").exists() or not Path("/usr/lib/podman/aardvark-dns").exists():
        return "netavark and aardvark-dns are not installed on this machine"
    if _mirror() is None:
        return "apt-get knows no mirror of this machine's release"
    return None


def wheels() -> Path | None:
    """The folder of wheels that pip is configured to look into: where a CPU build of torch may be."""
    asked = subprocess.run(["python3", "-m", "pip", "config", "list"], capture_output=True, text=True, check=False)
    values = [line.split("=", 1)[1].strip("'\"") for line in asked.stdout.splitlines() if "find-links=" in line]
    return next((Path(value) for value in values if Path(value).is_dir()), None)


def base_image() -> str:
    """Debian of this machine's own release, so that wheels for its Python fit. Made once, then kept by podman."""
    if podman("image", "exists", _BASE, check=False).returncode != 0:
        release, mirror = _release(), _mirror()
        assert mirror is not None, "what_is_missing() was not asked"
        with tempfile.TemporaryDirectory(prefix="debootstrap-", dir="/var/tmp") as folder:
            _run("debootstrap", "--variant=minbase", release, f"{folder}/root", mirror)
            unwanted = ("--exclude=./var/cache/apt/archives/*.deb", "--exclude=./var/lib/apt/lists/*_*")
            _run("tar", "-C", f"{folder}/root", *unwanted, "-cf", f"{folder}/root.tar", ".")
            podman("import", f"{folder}/root.tar", _BASE)
    return _BASE


def build(target: str, tag: str, wheels: Path) -> float:
    """Builds a target of docker/Dockerfile for CPUs; returns the seconds it took, little where nothing has changed.

    Secrets and wheels are handed over as the Dockerfile says. An image that had the tag before is removed.
    """
    before = _id(tag)
    with tempfile.TemporaryDirectory() as folder:
        configuration = Path(folder, "pip.conf")
        lines = ["[global]", "find-links = /wheels"]
        secrets = ["--secret", f"id=pip.conf,src={configuration}"]
        if _CERTIFICATES.exists():
            lines.append("cert = /run/secrets/ca.crt")
            secrets += ["--secret", f"id=ca.crt,src={_CERTIFICATES}"]
        configuration.write_text("\n".join(lines) + "\n")
        started = time.monotonic()
        # Docker's format: the other one has no health check.
        _run(
            "buildah", "build", "--isolation", "chroot", "--format", "docker", "--layers", *secrets,
            "--build-arg", f"BASE={base_image()}", "--build-context", f"wheels={wheels}",
            "--target", target, "--tag", tag, "--file", "docker/Dockerfile", ".",
        )  # fmt: skip
        seconds = time.monotonic() - started
    if before not in ("", _id(tag)):
        podman("image", "rm", before, check=False)
    return seconds


def size_mib(tag: str) -> float:
    """Of an image with all its layers."""
    return int(podman("image", "inspect", "--format", "{{.Size}}", tag).stdout) / 2**20


def podman(*arguments: str, check: bool = True, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
    """Runs a podman command; with check raises AssertionError with its output if it fails."""
    ended = subprocess.run([*_PODMAN, *arguments], capture_output=True, text=True, timeout=timeout_s, check=False)
    assert not check or ended.returncode == 0, (
        f"podman {' '.join(arguments)}\n{ended.stdout[-3000:]}{ended.stderr[-3000:]}"
    )
    return ended


def run_once(tag: str, *command: str, options: Sequence[str] = (), timeout_s: float = 120) -> str:
    """A container without a network, for one command; returns what it said."""
    ended = podman("run", "--rm", "--network", "none", *_LIMITS, *options, tag, *command, timeout_s=timeout_s)
    return ended.stdout + ended.stderr


def start(name: str, tag: str, *command: str, options: Sequence[str] = ()) -> None:
    """A container in the background, known by its name to others of its network."""
    podman("run", "--detach", "--name", name, "--hostname", name, *_LIMITS, *options, tag, *command)


def stop(name: str, within_s: int = 60) -> tuple[float, int]:
    """SIGTERM to a container's first process, SIGKILL if that has not ended in time; returns the seconds it took and
    the exit code."""
    started = time.monotonic()
    podman("stop", "--time", str(within_s), name, timeout_s=within_s + 60)
    return time.monotonic() - started, exit_code(name)


def wait(name: str, timeout_s: float = 240) -> int:
    """The exit code of a container's first process, once it has ended."""
    podman("wait", name, timeout_s=timeout_s)
    return exit_code(name)


def is_running(name: str) -> bool:
    return podman("inspect", "--format", "{{.State.Running}}", name, check=False).stdout.strip() == "true"


def exit_code(name: str) -> int:
    return int(podman("inspect", "--format", "{{.State.ExitCode}}", name).stdout)


def said(name: str) -> str:
    ended = podman("logs", name)
    return ended.stdout + ended.stderr


def remove(*names: str) -> None:
    """Containers, whatever they are doing; one that is not there is no error."""
    podman("rm", "--force", "--ignore", "--time", "0", "--volumes", *names)


@contextmanager
def network(name: str) -> Iterator[str]:
    """A bridge of its own, where containers know each other by name; gone afterwards with all that is in it."""
    podman("network", "create", name)
    try:
        yield name
    finally:
        podman("network", "rm", "--force", name)


def make_keys(folder: Path) -> None:
    """The key that the MPI operator makes, and its files as it mounts them: of root, to be read by anybody."""
    key = folder / "id_rsa"
    subprocess.run(["ssh-keygen", "-q", "-t", "ecdsa", "-b", "521", "-m", "PEM", "-N", "", "-f", key], check=True)
    shutil.copy(f"{key}.pub", folder / "authorized_keys")
    for file in folder.iterdir():
        file.chmod(0o644)


def _run(*command: str | Path) -> None:
    ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=1800, check=False)
    assert ended.returncode == 0, f"{' '.join(map(str, command))}\n{ended.stdout[-5000:]}{ended.stderr[-5000:]}"


def _id(tag: str) -> str:
    """Of an image; empty where there is none."""
    return podman("image", "inspect", "--format", "{{.Id}}", tag, check=False).stdout.strip()


def _release() -> str:
    lines = Path("/etc/os-release").read_text().splitlines()
    return next((line.split("=")[1] for line in lines if line.startswith("VERSION_CODENAME=")), "")


def _mirror() -> str | None:
    """Where apt-get finds this machine's release."""
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", f"Codename: {_release()}"]
    found = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
    return found[0] if found else None
