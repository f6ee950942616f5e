#!/usr/bin/env python3
"""Build Horovod for the torch of this Python, mended, and print the path of the wheel.

horovod_mends.py says what is mended and why.

    python scripts/build_horovod.py [--cache DIR]      # then: pip install "$(python scripts/build_horovod.py)"

The wheel depends on the torch, Python and C library that it was built with, so it is kept under a key made of these
(in ~/.cache/large-batch-trainer/horovod unless --cache or $XDG_CACHE_HOME say otherwise) and built only once. Horovod's
own environment variables (HOROVOD_WITH_MPI=1, HOROVOD_NCCL_HOME, HOROVOD_BUILD_CUDA_CC_LIST, ...) are respected; after
changing one, `make clean setup` installs what it makes.

Exit status: 0 with the wheel's path on the last line of stdout; 3 if this machine lacks what a build needs (the message
says what to install); 1 if the build went wrong (the message ends with the path of its log).
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
import sysconfig
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from horovod_mends import SDIST_SHA256, VERSION, MendError, local_version, mend_source, mends_digest

# Horovod's CMake files ask for a policy that CMake 4 has dropped; CMAKE_POLICY_VERSION_MINIMUM below lets it pass.
BUILD_TOOLS = ("cmake", "setuptools", "wheel", "cffi", "cloudpickle", "packaging", "psutil", "pyyaml")
CONSTRAINTS = Path(__file__).resolve().parent.parent / "constraints.txt"
LACKING = 3
# Which of Horovod's environment variables are its build's; the others, for running jobs, change nothing in a wheel.
OF_THE_BUILD = ("WITH", "CPU_", "GPU", "CUDA_", "NCCL_", "BUILD_", "ALLOW_", "DEBUG")


class BuildError(Exception):
    """The build went wrong: the message says where."""


class LackingError(Exception):
    """This machine lacks something that a build needs: the message says what to install."""


def cache_key(torch_version: str, python_tag: str, platform_tag: str, settings: Mapping[str, str]) -> str:
    """Name of the cache folder of a wheel: another one for everything that the wheel depends on."""
    operations = settings.get("HOROVOD_GPU_OPERATIONS", "gloo").lower()
    digest = hashlib.sha256(json.dumps([mends_digest(), sorted(settings.items())]).encode()).hexdigest()[:8]
    return f"torch-{torch_version}-{python_tag}-{platform_tag}-{operations}-{digest}"


def find_cuda_home(environment: Mapping[str, str]) -> Path | None:
    """Folder of the CUDA toolkit, looked for where torch looks, or None."""
    named = environment.get("HOROVOD_CUDA_HOME") or environment.get("CUDA_HOME") or environment.get("CUDA_PATH")
    if named:
        return Path(named)
    nvcc = shutil.which("nvcc", path=environment.get("PATH"))
    candidates = [Path(nvcc).resolve().parent.parent] if nvcc else []
    # An nvcc on the path may be a script that calls the real one.
    whole = [home for home in (*candidates, Path("/usr/local/cuda")) if (home / "include" / "cuda_runtime.h").exists()]
    return whole[0] if whole else None


def cuda_version(cuda_home: Path) -> str:
    """Version of a CUDA toolkit by its header, as "13.0"; "unknown" if there is none."""
    header = cuda_home / "include" / "cuda.h"
    found = re.search(r"#define CUDA_VERSION (\d+)", header.read_text(errors="replace")) if header.exists() else None
    return f"{int(found[1]) // 1000}.{int(found[1]) % 1000 // 10}" if found else "unknown"


def find_torch_nccl() -> Path | None:
    """Folder of the NCCL that torch brought along. It comes before a system's: two NCCLs in a process do not agree."""
    spec = importlib.util.find_spec("nvidia.nccl") if importlib.util.find_spec("nvidia") else None
    for folder in (Path(place) for place in (spec and spec.submodule_search_locations) or ()):
        if (folder / "lib" / "libnccl.so.2").exists() and (folder / "include" / "nccl.h").exists():
            return folder
    return None


def nccl_settings(nccl: Path, links: Path) -> dict[str, str]:
    """Point Horovod's build at torch's NCCL, through a link by the name that linkers look for (its wheel has none)."""
    links.mkdir()
    (links / "libnccl.so").symlink_to(nccl / "lib" / "libnccl.so.2")
    include = str(nccl / "include")
    return {"HOROVOD_NCCL_INCLUDE": include, "HOROVOD_NCCL_LIB": str(links), "HOROVOD_NCCL_LINK": "SHARED"}


def build_settings(torch_cuda: str | None, environment: Mapping[str, str]) -> dict[str, str]:
    """Environment variables of the build that change what comes out of it; the user's own go first.

    torch_cuda is the CUDA version that torch was built for, None for a CPU build. With it, a CUDA toolkit and NCCL,
    gradients are averaged by NCCL; else by Gloo, on the CPU. Raises LackingError if toolkit and torch do not match.
    """
    settings = {
        "CMAKE_POLICY_VERSION_MINIMUM": "3.5",
        "HOROVOD_WITH_PYTORCH": "1",
        "HOROVOD_WITHOUT_TENSORFLOW": "1",
        "HOROVOD_WITHOUT_MXNET": "1",
        "HOROVOD_WITH_GLOO": "1",
    }
    # An MPI that happens to be installed would take over from Gloo, stall check and all: only if asked for.
    if environment.get("HOROVOD_WITH_MPI") != "1":
        settings["HOROVOD_WITHOUT_MPI"] = "1"
    if torch_cuda:
        settings |= cuda_settings(torch_cuda, environment)
    of_the_build = tuple(f"HOROVOD_{start}" for start in OF_THE_BUILD)
    return settings | {name: value for name, value in environment.items() if name.startswith(of_the_build)}


def cuda_settings(torch_cuda: str, environment: Mapping[str, str]) -> dict[str, str]:
    """The part of build_settings for a torch built for CUDA."""
    cuda_home = find_cuda_home(environment)
    if cuda_home is None:
        say(
            f"torch is built for CUDA {torch_cuda}, but there is no CUDA toolkit (nvcc): this Horovod will average on "
            f"the CPU only. On GPUs start jobs with torchrun, or install the toolkit and set up again"
        )
        return {}
    toolkit = cuda_version(cuda_home)
    if toolkit.split(".")[0] != torch_cuda.split(".")[0]:
        raise LackingError(
            f"torch is built for CUDA {torch_cuda}, but the CUDA toolkit in {cuda_home} is {toolkit}: install the "
            f"toolkit {torch_cuda} and point CUDA_HOME at it"
        )
    settings = {"HOROVOD_CUDA_HOME": str(cuda_home), "CUDA_HOME": str(cuda_home), "CUDAToolkit_ROOT": str(cuda_home)}
    own_nccl = environment.get("HOROVOD_NCCL_HOME") or environment.get("HOROVOD_NCCL_INCLUDE")
    if own_nccl or find_torch_nccl() or Path("/usr/include/nccl.h").exists():
        return settings | {"HOROVOD_GPU_OPERATIONS": "NCCL"}
    say("NCCL was not found: this Horovod will average on the CPU only. Set HOROVOD_NCCL_HOME and set up again")
    return settings


def require_compiler(environment: Mapping[str, str]) -> None:
    """Raise LackingError unless there are a C++ compiler and make."""
    compilers = [environment["CXX"].split()[0]] if environment.get("CXX") else ["c++", "g++", "clang++"]
    if not any(shutil.which(compiler, path=environment.get("PATH")) for compiler in compilers):
        raise LackingError(
            f"no C++ compiler ({', '.join(compilers)}) was found, and Horovod is built from source: "
            f"install one (Debian, Ubuntu: apt-get install g++ make) and set up again"
        )
    if not shutil.which("make", path=environment.get("PATH")):
        raise LackingError("make was not found: install it (Debian, Ubuntu: apt-get install make) and set up again")
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        raise LackingError(
            f"the headers of Python {platform.python_version()} (Python.h) were not found: "
            f"install them (Debian, Ubuntu: apt-get install python3-dev) and set up again"
        )


def parallel_jobs() -> int:
    """Compilers at a time: one a core, as long as each has the 2 GiB that a file with torch's headers takes."""
    cores = len(os.sched_getaffinity(0))
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return max(1, min(cores, int(memory_gib // 2)))


def run(command: Sequence[str | Path], environment: Mapping[str, str], log: Path) -> None:
    """Run a command with its output in the log; raises BuildError with the log's tail if it fails."""
    with log.open("a", encoding="utf-8") as output:
        output.write(f"$ {' '.join(map(str, command))}\n")
        output.flush()
        status = subprocess.run(command, env=environment, stdout=output, stderr=subprocess.STDOUT).returncode
    if status != 0:
        tail = "".join(log.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)[-30:])
        raise BuildError(f"{tail}\nexit status {status} of: {' '.join(map(str, command))}\nwhole log: {log}")


def build(settings: Mapping[str, str], destination: Path, log: Path) -> Path:
    """Download, mend, compile; the wheel appears in `destination` whole or not at all. Returns its path."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    pinned = ["-c", str(CONSTRAINTS)] if CONSTRAINTS.exists() else []
    with tempfile.TemporaryDirectory(prefix="build-horovod-") as folder:
        work = Path(folder)
        tools, source, wheels = work / "tools", work / f"horovod-{VERSION}", work / "wheels"
        environment = {**os.environ, **settings}
        # Tools of the build live beside it, not in the environment that it is for; that one only lends its torch.
        run([*pip, "install", *pinned, "--target", tools, *BUILD_TOOLS], environment, log)
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(tools), environment.get("PYTHONPATH")]))
        environment["PATH"] = os.pathsep.join([str(tools / "bin"), environment.get("PATH", os.defpath)])
        environment["HOROVOD_CMAKE"] = str(tools / "bin" / "cmake")
        # Set whatever it was: run by make, it would name the job slots of that make.
        environment["MAKEFLAGS"] = f"-j{parallel_jobs()}"
        if settings.get("HOROVOD_GPU_OPERATIONS") == "NCCL" and (nccl := find_torch_nccl()):
            environment = nccl_settings(nccl, work / "nccl") | environment
        # pip checks the hash before anything of the archive is run.
        hashed = work / "horovod.txt"
        hashed.write_text(f"horovod=={VERSION} --hash=sha256:{SDIST_SHA256}\n", encoding="utf-8")
        sdist_only = ["--no-deps", "--no-binary", "horovod", "--no-build-isolation"]
        run([*pip, "download", *sdist_only, "--require-hashes", "-d", work, "-r", hashed], environment, log)
        shutil.unpack_archive(work / f"horovod-{VERSION}.tar.gz", work)
        mend_source(source)
        environment["HOROVOD_LOCAL_VERSION"] = local_version()
        run([*pip, "wheel", "-v", "--no-deps", "--no-build-isolation", "-w", wheels, source], environment, log)
        (built,) = wheels.glob("horovod-*.whl")
        # A wheel that cannot be loaded must not get into the cache.
        run([*pip, "install", "--no-deps", "--target", tools, built], environment, log)
        run([sys.executable, "-c", "import horovod.torch"], environment, log)
        destination.mkdir(parents=True, exist_ok=True)
        arriving = destination / f"{built.name}.{os.getpid()}"
        shutil.copyfile(built, arriving)
        return arriving.replace(destination / built.name)


def default_cache(environment: Mapping[str, str]) -> Path:
    """Folder of the wheels where nobody names another."""
    caches = environment.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(caches) / "large-batch-trainer" / "horovod"


def horovod_wheel(cache: Path) -> Path:
    """Path of the mended Horovod for the torch of this Python, from the cache or newly built."""
    try:
        import torch
    except ImportError as error:
        raise LackingError(f"torch cannot be imported ({error}): install it first, Horovod is built for it") from None
    settings = build_settings(torch.version.cuda, os.environ)
    # A wheel built where the C library is newer does not load where it is older.
    platform_tag = f"{sysconfig.get_platform()}-{''.join(platform.libc_ver())}"
    folder = cache / cache_key(torch.__version__, sys.implementation.cache_tag, platform_tag, settings)
    if wheels := sorted(folder.glob("*.whl")):
        require_own(folder)
        require_own(wheels[-1])
        say(f"Horovod {VERSION} for torch {torch.__version__}: built before")
        return wheels[-1]
    require_compiler(os.environ)
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "build.log"
    log.unlink(missing_ok=True)
    operations = settings.get("HOROVOD_GPU_OPERATIONS", "Gloo")
    say(f"Horovod {VERSION} for torch {torch.__version__}: building with {operations}, 2 to 4 minutes on 2 cores, once")
    return build(settings, folder, log)


def require_own(path: Path) -> None:
    """Raise BuildError where somebody else could have written what is going to be installed from here."""
    about = path.stat()
    if about.st_uid not in (0, os.getuid()) or about.st_mode & 0o002:
        raise BuildError(
            f"{path}: belongs to another user, or anybody may write to it, and wheels from there are installed: remove "
            f"it, or name another folder with --cache"
        )


def say(message: str) -> None:
    """A line for people; stdout is for the path alone."""
    print(message, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--cache", type=Path, default=default_cache(os.environ), help="folder of built wheels [%(default)s]"
    )
    options = parser.parse_args(arguments)
    try:
        print(horovod_wheel(options.cache))
    except LackingError as error:
        say(f"build_horovod: {error}")
        return LACKING
    except (BuildError, MendError, OSError) as error:  # OSError: a cache that cannot be written to, a full disk
        say(f"build_horovod: {error}")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
