"""How long `trainer plan` takes from the shell's point of view: fresh processes, beside a Python that does nothing.

python benchmarks/plan_startup.py [--rounds 11]     # prints a Markdown table
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

PLAN = ("-m", "trainer", "plan", "digits-hybrid", "--workers", "2")
COMMANDS = {
    "`python -c pass`": ("-c", "pass"),
    "`trainer plan digits-hybrid --workers 2`": PLAN,
    "`trainer plan digits-hybrid --workers 2 --json`": (*PLAN, "--json"),
}


def seconds(arguments: Sequence[str]) -> float:
    """Wall-clock seconds of one fresh Python."""
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=11, help="processes for each row [%(default)s]")
    rounds = parser.parse_args().rounds
    os.chdir(Path(__file__).resolve().parent.parent)
    for arguments in COMMANDS.values():
        seconds(arguments)  # files come into the cache, bytecode is written
    # Interleaved, so that a busy moment of the machine meets every row.
    measured = [[seconds(arguments) for arguments in COMMANDS.values()] for _ in range(rounds)]
    print(f"Python {platform.python_version()}, {len(os.sched_getaffinity(0))} cores, {rounds} processes a row\n")
    print("| command | median s | least s | most s |\n| --- | ---: | ---: | ---: |")
    for name, times in zip(COMMANDS, zip(*measured, strict=True), strict=True):
        print(f"| {name} | {statistics.median(times):.3f} | {min(times):.3f} | {max(times):.3f} |")


if __name__ == "__main__":
    main()
