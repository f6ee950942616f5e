"""How a worker's process ends."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any, NoReturn


def ignore_stops() -> dict[int, Any]:
    """From here on neither SIGTERM nor Ctrl-C changes anything: all is said and saved, and launchers send SIGTERM to
    every worker as soon as the first has left. Returns the handlers that there were, by signal."""
    return {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGTERM, signal.SIGINT)}


def leave(code: int) -> NoReturn:
    """Ends this process with the exit code; after DDP without taking the interpreter apart.

    DDP keeps Gloo's threads alive for good, also past destroy_process_group (torch 2.13). One that lets go of its last
    tensor while the interpreter is being taken apart asks for its lock and aborts the process.
    """
    ignore_stops()
    if "trainer.collective.ddp" in sys.modules:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    raise SystemExit(code)
