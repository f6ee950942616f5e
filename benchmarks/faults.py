"""Kills runs at random moments, lets them go on, and holds them against one that nobody touched.

python -m benchmarks.faults [--rounds 50] [--seed 0]     # prints Markdown; exit code 1 where a run ended otherwise
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import subprocess
import tempfile
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import torch

from tests.kills import Fleet, Round, difference, finish, kill_and_go_on

ALONE = Fleet("alone", 1)
FLEETS = [ALONE, Fleet("torchrun", 2), Fleet("torchrun", 4)]
if find_spec("horovod") is not None:
    FLEETS.append(Fleet("horovodrun", 2))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=50, help="runs, killed up to three times [%(default)s]")
    parser.add_argument("--seed", type=int, default=0, help="of the moments, fleets and victims [%(default)s]")
    args = parser.parse_args()
    rng = random.Random(args.seed)
    rounds: list[Round] = []
    differences: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        reference, weights, _ = finish(Path(folder) / "untouched", ALONE)
        print("| run | killed | went on | seconds to go on | largest difference |\n|---|---|---|---|---|")
        for number in range(args.rounds):
            # Every other round on one worker throughout: that has to end with the same bits.
            fleets = [ALONE if number % 2 else rng.choice(FLEETS) for _ in range(rng.randint(2, 4))]
            try:
                done = kill_and_go_on(Path(folder) / str(number), fleets, within_s=9.0, random=rng)
            except (AssertionError, subprocess.TimeoutExpired) as failure:
                print(f"run {number} on {', '.join(map(str, fleets))} did not go on: {failure}", flush=True)
                differences.append(math.inf)
                continue
            difference_here = difference(done.log, reference)
            if number % 2 and any(not torch.equal(done.weights[name], weights[name]) for name in weights):
                difference_here = math.inf
            rounds.append(done)
            differences.append(difference_here)
            print(f"| {number} | {row(done, fleets[-1])} | {difference_here:.1e} |", flush=True)
    return conclude(rounds, differences)


def row(done: Round, last: Fleet) -> str:
    killed = "; ".join(f"{kill.fleet}, {who(kill.victim)} at {kill.after_s:.1f} s" for kill in done.kills)
    return f"{killed or 'too late'} | {last} | {', '.join(f'{each:.1f}' for each in done.recovery_s)}"


def who(victim: int | None) -> str:
    return "all" if victim is None else f"rank {victim}"


def conclude(rounds: list[Round], differences: list[float]) -> int:
    kills = [kill for each in rounds for kill in each.kills]
    survived = sum(each < 1e-3 for each in differences)
    recovery = [seconds for each in rounds for seconds in each.recovery_s]
    by_fleet = ", ".join(f"{count} on {fleet}" for fleet, count in Counter(str(kill.fleet) for kill in kills).items())
    before = sum(not kill.had_begun for kill in kills)
    print(
        f"\n{len(kills)} kills ({by_fleet}; {before} before there was a record) of {len(differences)} runs; {survived} "
        f"of them ended like the one that nobody touched; from the next launch to the next decision "
        f"{statistics.median(recovery):.1f} s ({min(recovery):.1f} to {max(recovery):.1f})"
    )
    return 0 if survived == len(differences) else 1


if __name__ == "__main__":
    raise SystemExit(main())
