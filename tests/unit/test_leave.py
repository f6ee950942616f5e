"""How a worker's process ends: in order as a rule, at once where DDP has left threads behind."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("first", "said"), [("", "before\ntaken apart\n"), ("import trainer.collective.ddp", "before\n")]
)
def test_a_worker_that_has_used_ddp_leaves_without_taking_the_interpreter_apart(first, said):
    program = (
        f"import atexit\n{first}\n"
        "from trainer.collective.leave import leave\n"
        "atexit.register(print, 'taken apart')\n"
        "print('before')\n"
        "leave(3)\n"
    )
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (process.returncode, process.stdout, process.stderr) == (3, said, "")
