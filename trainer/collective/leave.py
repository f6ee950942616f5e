"""How a worker's process ends."""

from __future__ import annotations

import os
import sys
from typing import NoReturn


def leave(code: int) -> NoReturn:
    """Ends this process with the exit code; after DDP without taking the interpreter apart.

    DDP keeps Gloo's threads alive for good, also past destroy_process_group (torch 2.13). One that lets go of its last
    tensor while the interpreter is being taken apart asks for its lock and aborts the process.
    """
    if "trainer.collective.ddp" in sys.modules:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    raise SystemExit(code)
