"""How a worker's process ends: in order as a rule, at once where DDP has left threads behind."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from trainer.cli.main import command

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def heeded_signals():
    """Leaving ignores signals for good, and here the process lives on."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_a_signal_that_comes_while_a_worker_leaves_changes_nothing():
    program = (
        "import atexit, os, signal\n"
        "from trainer.collective.leave import leave\n"
        "atexit.register(lambda: [os.kill(os.getpid(), number) for number in (signal.SIGTERM, signal.SIGINT)])\n"
        "leave(85)\n"
    )
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (process.returncode, process.stderr) == (85, "")


def test_an_error_that_nobody_foresaw_is_shown_and_leaves_by_the_same_door(monkeypatch, capsys):
    def main():
        raise RuntimeError("unforeseen")

    monkeypatch.setattr("trainer.cli.main.main", main)
    monkeypatch.delitem(sys.modules, "trainer.collective.ddp", raising=False)  # else it would end this process
    with pytest.raises(SystemExit) as end:
        command()
    assert end.value.code == 1
    assert "RuntimeError: unforeseen" in capsys.readouterr().err


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
