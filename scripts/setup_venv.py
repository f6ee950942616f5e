#!/usr/bin/env python3
"""Make the virtual environment of a checkout: pinned packages, this project, and the mended Horovod.

    python3 scripts/setup_venv.py [--venv .venv] [--torch 2.13.0] [--extras dali,test,dev]

`make setup` calls this every time it is asked for something that needs the environment: once everything is there, and
nothing that it was made from has changed since, it is done in a moment. Without a C++ compiler it goes on without
Horovod; jobs then run under torchrun. Written so that older Pythons read it too, to say that they are too old.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT / "constraints.txt"
MADE_FROM = ("constraints.txt", "setup.py", "pyproject.toml", "scripts/build_horovod.py", "scripts/horovod_mends.py")
OLDEST_PYTHON = (3, 10)
LACKING = 3  # build_horovod.py's exit status where the machine lacks something to build with


class SetupError(Exception):
    """The environment cannot be made: the message says why, and what to do."""


def require_python() -> None:
    """Raise SetupError unless this Python is new enough and can make virtual environments."""
    if sys.version_info < OLDEST_PYTHON:
        raise SetupError(
            f"{sys.executable} is Python {platform.python_version()}, and 3.10 or newer is needed: "
            f"install one and name it, as in: make setup PYTHON=python3.12"
        )
    if not (importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip")):
        version = f"{sys.version_info[0]}.{sys.version_info[1]}"
        raise SetupError(
            f"{sys.executable} cannot make virtual environments (no module venv or ensurepip): "
            f"install it (Debian, Ubuntu: apt-get install python{version}-venv)"
        )


def constraints_text(torch_version: str) -> str:
    """The pinned versions; torch_version, where not empty, in place of torch's."""
    text = CONSTRAINTS.read_text(encoding="utf-8")
    return re.sub(r"^torch==.*$", f"torch=={torch_version}", text, flags=re.MULTILINE) if torch_version else text


def wanted_stamp(extras: str, torch_version: str) -> str:
    """What the environment would be made from now: Python, the project's own files, the choices."""
    digest = hashlib.sha256(b"".join((ROOT / name).read_bytes() for name in MADE_FROM)).hexdigest()
    return json.dumps(
        {"python": sys.version, "extras": extras, "torch": torch_version, "files": digest, "at": str(ROOT)}
    )


def run(*command: str | Path) -> None:
    """Run a command in the checkout; raises SetupError if it fails."""
    status = subprocess.run(command, cwd=ROOT).returncode
    if status != 0:
        raise SetupError(f"exit status {status} of: {' '.join(map(str, command))}")


def fits(venv: Path) -> bool:
    """Whether this version of Python made the environment, and made it here: its scripts name their Python in full."""
    version = re.search(r"^version\w* = (\d+\.\d+\.\d+)", (venv / "pyvenv.cfg").read_text(), re.MULTILINE)
    script = venv / "bin" / "pip"
    here = script.exists() and str(venv.resolve()) in script.read_text(encoding="utf-8")[:500]
    return here and version is not None and version[1] == platform.python_version()


def make_venv(venv: Path) -> Path:
    """Make the virtual environment, anew if the one there does not fit. Returns its Python."""
    python = Path(sys.executable).resolve()  # what runs this may be the very environment that has to go
    if venv.exists() and any(venv.iterdir()):
        if not (venv / "pyvenv.cfg").exists():
            raise SetupError(f"{venv} exists and is no virtual environment: move it away, or name another with --venv")
        if not fits(venv):
            shutil.rmtree(venv)
    run(python, "-m", "venv", venv)
    return venv / "bin" / "python"


def install(python: Path, pins: Path, *what: str | Path) -> None:
    """pip install, held to the pinned versions; quiet where nobody watches."""
    quiet = [] if sys.stdout.isatty() else ["-qq"]
    run(python, "-m", "pip", "--disable-pip-version-check", "install", *quiet, "-c", pins, *what)


def install_horovod(python: Path, pins: Path) -> bool:
    """Build or fetch from the cache, and install, the mended Horovod. False where the machine lacks a compiler."""
    built = subprocess.run([python, ROOT / "scripts" / "build_horovod.py"], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if built.returncode == LACKING:
        print("going on without Horovod: jobs will run under torchrun", flush=True)
        return False
    if built.returncode != 0:
        raise SetupError("Horovod could not be built (see above). To go on without it: make setup HOROVOD=no")
    install(python, pins, built.stdout.splitlines()[-1])
    return True


def set_up(venv: Path, extras: str, torch_version: str, horovod: bool) -> None:
    """Bring the environment to what the checkout asks for; a moment if it is there already."""
    stamp, pins = venv / "setup.stamp", venv / "constraints.txt"
    wanted = wanted_stamp(extras, torch_version)
    done = stamp.read_text(encoding="utf-8").splitlines() if stamp.exists() else []
    started = time.monotonic()
    if done[:1] != [wanted]:
        print(f"virtual environment {venv}: Python {platform.python_version()}", flush=True)
        python = make_venv(venv)
        stamp.unlink(missing_ok=True)
        pins.write_text(constraints_text(torch_version), encoding="utf-8")
        print(f"packages, with {extras}", flush=True)
        install(python, pins, "setuptools", "wheel")
        # No build isolation: the setuptools that was just pinned builds the project.
        install(python, pins, "--no-build-isolation", "--editable", f"{ROOT}[{extras}]" if extras else ROOT)
        stamp.write_text(wanted, encoding="utf-8")
        done = [wanted]
    # A compiler may have come since the last time.
    if horovod and done[1:] != ["Horovod"] and install_horovod(venv / "bin" / "python", pins):
        stamp.write_text(f"{wanted}\nHorovod", encoding="utf-8")
    seconds = time.monotonic() - started
    if seconds > 1:
        print(f"set up in {seconds:.0f} s; what there is: {venv}/bin/trainer doctor", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--venv", default=".venv", help="folder of the virtual environment [%(default)s]")
    parser.add_argument("--torch", default="", metavar="VERSION", help="a torch other than the pinned one")
    parser.add_argument("--extras", default="dali,test,dev", help="optional parts to install [%(default)s]")
    parser.add_argument("--horovod", choices=("yes", "no"), default="yes", help="build Horovod [%(default)s]")
    options = parser.parse_args()
    os.chdir(ROOT)
    try:
        require_python()
        set_up(Path(options.venv), options.extras, options.torch, options.horovod == "yes")
    except SetupError as error:
        print(f"setup: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
