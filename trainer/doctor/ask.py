"""Puts one question to a library in a fresh Python, so that a library that crashes or hangs is one more finding."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Answer:
    """What a probe found, or, in `failure`, why there is no answer."""

    facts: Mapping[str, Any] = field(default_factory=dict)
    failure: str = ""


def ask(probe: str, timeout_s: float = 120.0) -> Answer:
    """The answer of a probe of probes.py."""
    command = [sys.executable, "-m", "trainer.doctor.probes", probe]
    return answer_of(command, timeout_s)


def answer_of(command: list[str], timeout_s: float) -> Answer:
    """Run a command that prints facts as JSON on its last line; failing, crashing and hanging are answers too."""
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        return Answer(failure=f"no answer within {timeout_s:g} s")
    if ended.returncode < 0:
        return Answer(failure=f"ended by {signal.Signals(-ended.returncode).name}")
    if ended.returncode > 0:
        lines = ended.stderr.strip().splitlines()
        return Answer(failure=lines[-1] if lines else f"exit status {ended.returncode}")
    return Answer(facts=json.loads(ended.stdout.splitlines()[-1]))
