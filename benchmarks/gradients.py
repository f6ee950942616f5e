"""What it takes two workers to add up ResNet-50's gradients, each way, against one raw all-reduce of as many bytes.

    python -m benchmarks.gradients --own-network
    python -m benchmarks.gradients --launchers horovodrun --set HOROVOD_CYCLE_TIME=0.1 --set HOROVOD_CYCLE_TIME=5
    python -m benchmarks.gradients --own-network --link-gbit 8 --backwards real
    python -m benchmarks.gradients --device cuda --image-size 224 --micro-batch 64

Two backwards: one that costs next to nothing, so that all of the sum is seen, and ResNet-50's own. Ways take turns;
`--set NAME=VALUE` launches once more with that variable, in turns too. --own-network (as root) counts the bytes of the
two workers alone; --link-gbit makes it as slow as a real one.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.side_by_side import in_turns, spread, table

BIN = Path(sys.executable).parent
WARM_UP, UPDATES = 2, 3
RAW, COPY, SOCKET = "one raw all-reduce", "a copy in memory", "plain TCP, both ways at once"


def worker(args: argparse.Namespace) -> None:
    """One rank of a launch: every way in turns; rank 0 writes seconds by backward and way, and bytes by way."""
    import torch
    from torch import nn

    from benchmarks.gradient_ways import ALONE, Shapes, Way, opened, ways_of
    from benchmarks.loopback import copy_seconds, exchange_seconds, loopback_bytes, pair
    from trainer.calibration.stopwatch import seconds_of, slowest
    from trainer.cli.fleet import choose_collective, choose_device, open_collective
    from trainer.collective.leave import leave
    from trainer.environment import detect_launch
    from trainer.models import build_model

    launch = detect_launch()
    device = choose_device(args.device, launch)
    collective = open_collective(choose_collective("auto", launch), launch)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = build_model("resnet-50", 1000, None)
    wanted = [ALONE, *args.ways.split(",")]
    ways = {name: way for name, way in ways_of(collective.name).items() if any(part in name for part in wanted)}
    flat = torch.zeros(sum(p.numel() for p in network.parameters()), device=device)
    nbytes = flat.numel() * flat.element_size()
    sent: dict[str, list[float]] = {}

    def median_s(work: Callable[[], object], prepare: Callable[[], object] = lambda: None) -> float:
        """Of UPDATES, after WARM_UP that are not counted; the workers begin together."""
        seconds = []
        for _ in range(WARM_UP + UPDATES):
            prepare()
            collective.all_reduce(torch.zeros(1))
            seconds.append(seconds_of(device, work))
        return slowest(collective, statistics.median(seconds[WARM_UP:]))

    def turn(template: nn.Module, images: torch.Tensor, name: str, way: Way) -> float:
        with opened(way, template, collective) as (module, finish):

            def update() -> None:
                module(images).square().mean().backward()
                finish()

            seconds = median_s(update, module.zero_grad)
            before = loopback_bytes()
            update()
            collective.all_reduce(torch.zeros(1))
            sent.setdefault(name, []).append((loopback_bytes() - before) / collective.world_size)
        return seconds

    found: dict[str, dict[str, list[float]]] = {}
    templates = {"cheap": (Shapes(network), 1), "real": (network, args.micro_batch)}
    for backward in args.backwards.split(","):
        template, micro_batch = templates[backward]
        template.to(device)
        images = torch.randn(micro_batch, 3, args.image_size, args.image_size, device=device)

        def contestant(name: str, way: Way, template: nn.Module = template, images: torch.Tensor = images) -> object:
            return lambda: turn(template, images, name, way)

        contestants = {name: contestant(name, way) for name, way in ways.items()}
        if backward == "cheap":
            contestants[RAW] = lambda: median_s(lambda: collective.all_reduce(flat))
            if device.type == "cpu":
                contestants[COPY] = lambda: slowest(collective, copy_seconds(nbytes))
                contestants[SOCKET] = lambda: median_s(lambda: exchange_seconds(connection, nbytes))
        with pair(collective) as connection:
            found[backward] = in_turns(contestants, args.rounds)
    if collective.rank == 0:
        on_lo = device.type == "cpu"  # GPUs have ways of their own
        megabytes = {name: statistics.median(values) / 1e6 if on_lo else None for name, values in sent.items()}
        args.report.write_text(json.dumps({"seconds": found, "megabytes": megabytes, "gradients": nbytes / 1e6}))
    collective.all_reduce(torch.zeros(1))
    collective.close()
    leave(0)


def launched(launcher: str, variable: str, args: argparse.Namespace, report: Path) -> dict[str, dict]:
    """Two workers with the variable (NAME=VALUE, or nothing) set; returns what rank 0 wrote."""
    command = {
        "horovodrun": [str(BIN / "horovodrun"), "-np", "2", sys.executable],
        "torchrun": [str(BIN / "torchrun"), "--nproc-per-node", "2", "--local-addr", "127.0.0.1"],
    }[launcher]
    command += ["-m", "benchmarks.gradients", "--report", str(report)]
    for name in ("rounds", "device", "image_size", "micro_batch", "backwards", "ways"):
        command += [f"--{name.replace('_', '-')}", str(getattr(args, name))]
    setting = dict([variable.split("=", 1)]) if variable else {}
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PATH": f"{BIN}:{os.environ['PATH']}"} | setting
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1800, check=False)
    if done.returncode != 0 or not report.exists():
        raise SystemExit(f"{launcher} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    found: dict[str, dict] = json.loads(report.read_text())
    return found


def show(found: dict[str, dict]) -> None:
    """A table for each backward; what is seen of the sum is taken round by round, against no gradients at all."""
    from benchmarks.gradient_ways import ALONE

    megabytes = found["megabytes"]
    for backward, seconds in found["seconds"].items():
        print(f"\n{backward} backward; {found['gradients']:.1f} MB of gradients\n")
        raw = seconds.get(RAW)
        headings = [
            "way",
            "ms",
            "of which seen of the sum",
            "MB sent by a worker",
            *(["to a raw all-reduce"] if raw else []),
        ]
        rows = []
        for name, values in seconds.items():
            is_way = name in megabytes and name != ALONE
            seen = [a - b for a, b in zip(values, seconds[ALONE], strict=True)] if is_way else values
            cells = [name, spread(values, 0, 1000), "", ""]
            if is_way:
                cells[2:] = spread(seen, 0, 1000), "-" if megabytes[name] is None else f"{megabytes[name]:.1f}"
            if raw:
                cells.append("" if name == ALONE else spread([a / b for a, b in zip(seen, raw, strict=True)]))
            rows.append(cells)
        table(headings, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--launchers", default="horovodrun,torchrun")
    parser.add_argument("--rounds", type=int, default=5, help="turns of every way; medians, least and most are shown")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--image-size", type=int, default=64, help="of the real backward [%(default)s]")
    parser.add_argument("--micro-batch", type=int, default=4, help="of the real backward [%(default)s]")
    parser.add_argument("--backwards", default="cheap,real")
    parser.add_argument(
        "--ways", default="", help="only those whose names hold one of these texts, with commas between"
    )
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="one more launch, so set")
    parser.add_argument("--own-network", action="store_true", help="a network that nobody else uses (as root)")
    parser.add_argument("--link-gbit", type=float, help="with --own-network: its speed, all traffic together")
    parser.add_argument("--report", type=Path, help=argparse.SUPPRESS)  # set for the workers
    args = parser.parse_args()
    if args.report:
        worker(args)
        return
    if args.own_network:
        from benchmarks.loopback import enter_own_network

        enter_own_network("benchmarks.gradients", args.link_gbit)
    for launcher in args.launchers.split(","):
        for variable in ["", *args.set]:
            with tempfile.TemporaryDirectory() as folder:
                found = launched(launcher, variable, args, Path(folder) / "report.json")
            print(f"\n{launcher} {variable}: two workers, median (least to most) of {args.rounds} turns")
            show(found)


if __name__ == "__main__":
    main()
