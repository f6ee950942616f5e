"""The edits that make Horovod's last release build against today's torch and survive a long job.

The release does not compile against torch >= 2.1, and what compiles has defects that a long job feels: a stalled worker
hangs the job for ever, the network interface asked for is not the one used, and a worker that saves its state when the
job is stopped is killed after five seconds. Each mend must match the released source exactly, or nothing is built.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

VERSION = "0.28.1"
SDIST_SHA256 = "92a43f5a94c43907a56805bad15f19700c62ffc83b7ca483f9e104e229f67ef0"


class MendError(Exception):
    """A mend does not match the source: the message names the mend and the file."""


@dataclass(frozen=True, slots=True)
class Mend:
    """One edit of the released source: `old` stands exactly once in the file at `path` and becomes `new`."""

    name: str
    path: str
    old: str
    new: str


MENDS = (
    Mend(
        # The headers of torch >= 2.1 need C++17, those of newer ones C++20.
        "C++20",
        "CMakeLists.txt",
        "set(CMAKE_CXX_STANDARD 14)\n",
        "set(CMAKE_CXX_STANDARD 20)\n",
    ),
    Mend(
        "C++20 for the torch extension",
        "horovod/torch/CMakeLists.txt",
        "    set(CMAKE_CXX_STANDARD 14)\n",
        "    set(CMAKE_CXX_STANDARD 20)\n",
    ),
    Mend(
        # Python 3.12 has no distutils.
        "Python headers without distutils",
        "horovod/torch/CMakeLists.txt",
        "from distutils.sysconfig import get_python_inc; print(get_python_inc())",
        "import sysconfig; print(sysconfig.get_path('include'))",
    ),
    Mend(
        "horovodrun without distutils",
        "horovod/runner/js_run.py",
        "from distutils.spawn import find_executable\n",
        "from shutil import which as find_executable\n",
    ),
    Mend(
        # The vector stayed empty, so the stall check saw a job of no ranks and never fired.
        "stall check with Gloo",
        "horovod/common/gloo/gloo_controller.cc",
        "  global_ranks_.reserve(size_);\n",
        "  global_ranks_.resize(size_);\n",
    ),
    Mend(
        # The context that carries the tensors never heard of --network-interfaces and used the host name's address.
        "network interface of the data sockets",
        "horovod/common/gloo/gloo_context.cc",
        "  attr device_attr;\n"
        "  device_attr.iface = gloo_iface_;\n"
        "  device_attr.ai_family = AF_UNSPEC;\n"
        "  auto dev = CreateDevice(device_attr);\n"
        "\n"
        "  global_ctx = global_context.ctx;\n",
        "  gloo_iface_ = global_context.gloo_iface_;\n"
        "  attr device_attr;\n"
        "  device_attr.iface = gloo_iface_;\n"
        "  device_attr.ai_family = AF_UNSPEC;\n"
        "  auto dev = CreateDevice(device_attr);\n"
        "\n"
        "  global_ctx = global_context.ctx;\n",
    ),
    Mend(
        # Between SIGTERM and SIGKILL a worker must be able to write a checkpoint.
        "a minute to save before SIGKILL",
        "horovod/runner/common/util/safe_shell_exec.py",
        "GRACEFUL_TERMINATION_TIME_S = 5\n",
        "GRACEFUL_TERMINATION_TIME_S = 60\n",
    ),
    Mend(
        # A worker that dies while an elastic fleet forms made all others abort, and with them the job.
        "a fleet that does not come together is an error",
        "horovod/common/operations.cc",
        "  {\n"
        "    global_gloo_context.Initialize(ParseGlooIface());\n"
        "  }\n"
        "  if (state.control_operation == LibType::GLOO) {\n"
        "    // Initializes global controller\n"
        "    state.process_set_table.Initialize(global_gloo_context);\n"
        "  }\n",
        "  try {\n"
        "    global_gloo_context.Initialize(ParseGlooIface());\n"
        "  } catch (const std::exception& ex) {\n"
        '    LOG(ERROR) << "Horovod could not be initialized: " << ex.what();\n'
        "    global_gloo_context.Finalize();\n"
        "    state.initialization_failed = true;\n"
        "    return;\n"
        "  }\n"
        "  if (state.control_operation == LibType::GLOO) {\n"
        "    // Initializes global controller\n"
        "    try {\n"
        "      state.process_set_table.Initialize(global_gloo_context);\n"
        "    } catch (const std::exception& ex) {\n"
        '      LOG(ERROR) << "Horovod could not be initialized: " << ex.what();\n'
        "      global_gloo_context.Finalize();\n"
        "      state.initialization_failed = true;\n"
        "      return;\n"
        "    }\n"
        "  }\n",
    ),
    Mend(
        "a fleet may come together at the next attempt",
        "horovod/common/operations.cc",
        "    // Reset initialization flag\n    horovod_global.initialization_done = false;\n",
        "    // Reset initialization flag\n"
        "    horovod_global.initialization_done = false;\n"
        "    horovod_global.initialization_failed = false;\n",
    ),
    Mend(
        # It asked once, and must not ask again: the launcher would take it for another worker. Nothing failed here.
        "a worker that has no place any more leaves quietly",
        "horovod/common/gloo/gloo_context.cc",
        '      out << hostname_ << "[" << local_rank << "] has been removed from elastic job";\n'
        "      throw std::runtime_error(out.str());\n",
        '      out << hostname_ << "[" << local_rank << "] has been removed from elastic job";\n'
        "      LOG(WARNING) << out.str();\n"
        "      std::_Exit(0);\n",
    ),
)


def mended(text: str, mend: Mend) -> str:
    """The text of `mend.path` with the mend applied; raises MendError unless the old text is there exactly once."""
    found = text.count(mend.old)
    if found != 1:
        raise MendError(
            f"mend {mend.name!r} of Horovod {VERSION}: its text stands {found} times in {mend.path}, not once: "
            f"this is not the source that the mend was written for"
        )
    return text.replace(mend.old, mend.new)


def mend_source(source: Path, mends: Sequence[Mend] = MENDS) -> None:
    """Apply all mends to an unpacked source archive."""
    for mend in mends:
        file = source / mend.path
        if not file.is_file():
            raise MendError(f"mend {mend.name!r} of Horovod {VERSION}: there is no file {mend.path}")
        file.write_text(mended(file.read_text(encoding="utf-8"), mend), encoding="utf-8")


def mends_digest(mends: Sequence[Mend] = MENDS) -> str:
    """Eight hex digits that change whenever the source archive or a mend does; part of the version of the build."""
    content = json.dumps([SDIST_SHA256, [astuple(mend) for mend in mends]])
    return hashlib.sha256(content.encode()).hexdigest()[:8]


def local_version(mends: Sequence[Mend] = MENDS) -> str:
    """What follows the `+` in the version of a mended build: by it `trainer doctor` knows one."""
    return f"mended.g{mends_digest(mends)}"  # the letter keeps an all-digit digest from being read as a number
