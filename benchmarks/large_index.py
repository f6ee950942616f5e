"""What a data set of ImageNet's size costs before a pixel is read: start-up from the saved index, memory, index work.

    python -m benchmarks.large_index --images 1281167 --rounds 7 --ranks 1,2,8

Saves the index of so many photos with ImageNet's names, whose class folders are there and empty. Every figure is of a
fresh process that has imported torch and DALI before; the file lies in the page cache.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

import numpy as np

from benchmarks.side_by_side import spread, table
from dali_pipelines import index_file
from dali_pipelines.augmentation import Augmentation, crop_windows, draws_at, flips
from dali_pipelines.dataset_index import DatasetIndex, make_index
from dali_pipelines.folder_scan import scan_folder

BATCHES = (64, 256)
SEED = 0
ORDINARY = 200  # requests, of which the median counts


def write_index(root: Path, images: int, classes: int) -> None:
    """Makes the class folders, and the index file that they would have if they were full."""
    draw = np.random.default_rng(SEED)
    names = [f"n{number:08d}" for number in sorted(draw.choice(np.arange(1440764, 15075141), classes, replace=False))]
    for name in names:
        (root / name).mkdir(parents=True)
    counts = np.bincount(draw.integers(classes, size=images - classes), minlength=classes) + 1
    paths: list[bytes] = []
    for name, count in zip(names, counts.tolist(), strict=True):
        paths += sorted(f"{name}/{name}_{number}.JPEG\0".encode() for number in range(count))
    labels = np.repeat(np.arange(classes), counts)
    sizes = np.rint(np.exp(draw.normal(6, 0.3, (images, 2)))).clip(20, 9000).astype(np.int32)  # 400 pixels or so
    index = make_index(root, tuple(names), b"".join(paths), labels, sizes, scan_folder(root).stamps)
    with patch.object(index_file, "build_index", return_value=index):  # in place of a look into a million photos
        index_file.open_index(root)


def start(root: Path) -> dict[str, float]:
    """Milliseconds that opening the saved index takes, and its parts."""
    profile = cProfile.Profile()
    begin = time.perf_counter()
    profile.runcall(index_file.open_index, root)
    seconds = time.perf_counter() - begin
    called = pstats.Stats(profile).get_stats_profile().func_profiles
    assert "build_index" not in called, "the saved index was not believed"
    of = {name: 1000 * called[name].cumtime for name in ("_read_array", "_offsets", "make_index", "_is_believable")}
    return {
        "opening the index": 1000 * seconds,
        "- reading": of["_read_array"],
        "- where each path starts": of["_offsets"],
        "- digest": of["make_index"] - of["_offsets"],
        "- checks": of["_is_believable"],
        "- times of the folders": 1000 * called["unchanged"].cumtime,
    }


def requests(root: Path) -> dict[str, float]:
    """Milliseconds of what is worked out for a micro-batch before DALI is fed."""
    index = index_file.open_index(root)
    border = len(index)
    return {
        "the first of a run, 64": _request(index, 0, 64),
        "across the border to the next epoch, 64": _request(index, border - 32, 64),
        "the first after a restart just before a border, 64": _request(index, 4 * border - 32, 64),
        **{
            f"any other, {batch}": statistics.median(_request(index, 100 * batch * i, batch) for i in range(ORDINARY))
            for batch in BATCHES
        },
    }


def _request(index: DatasetIndex, first: int, batch: int) -> float:
    """Milliseconds of a request at these positions of the stream, made as ImageFilePipeline makes it."""
    begin = time.perf_counter()
    draws = draws_at(SEED, len(index), np.arange(first, first + batch))
    crop_windows(draws, index.sizes[draws.ids], Augmentation())
    flips(draws)
    [np.frombuffer(path, dtype=np.uint8) for path in index.paths_bytes(draws.ids)]
    return 1000 * (time.perf_counter() - begin)


def hold(root: Path) -> None:
    """One rank among others: takes its next step whenever a line comes in, and says so."""
    Path("/proc/self/clear_refs").write_text("5")  # forgets how large the process was at most
    print(flush=True)
    sys.stdin.readline()
    index = index_file.open_index(root)
    print(flush=True)
    sys.stdin.readline()
    for first in (0, len(index) - 32):  # the second needs another permutation
        _request(index, first, 64)
    print(flush=True)
    sys.stdin.readline()


def memory(root: Path, ranks: int) -> list[object]:
    """A row: MiB of a rank among so many, median."""
    with ExitStack() as stack:
        started = [stack.enter_context(_child("hold", root)) for _ in range(ranks)]
        share, resident = [], []
        for _ in range(3):
            for rank in started:
                assert rank.stdout is not None
                assert rank.stdout.readline() == "\n", "a rank has ended"
            share.append(statistics.median(_mib(rank, "smaps_rollup", "Pss:") for rank in started))
            resident.append([_mib(rank, "status", "VmRSS:") for rank in started])
            peaks = [_mib(rank, "status", "VmHWM:") for rank in started]
            for rank in started:
                assert rank.stdin is not None
                print(file=rank.stdin, flush=True)
    above = max(peak - before for peak, before in zip(peaks, resident[0], strict=True))
    framework, index, stream = share
    return [ranks, *(f"{mib:.0f}" for mib in (framework, index - framework, stream - framework, above))]


def _mib(process: subprocess.Popen[str], file: str, field: str) -> float:
    lines = Path(f"/proc/{process.pid}/{file}").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) / 1024


def _child(report: str, root: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benchmarks.large_index", "--report", report, "--root", str(root)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _reported(report: str, root: Path) -> dict[str, float]:
    said, _ = (child := _child(report, root)).communicate()
    assert child.returncode == 0, f"{report} ended with {child.returncode}"
    figures: dict[str, float] = json.loads(said)
    return figures


def _child_main(report: str, root: Path) -> None:
    import nvidia.dali.fn  # noqa: F401
    import torch  # noqa: F401

    if report == "hold":
        hold(root)
    else:
        print(json.dumps({"start": start, "requests": requests}[report](root)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1_281_167, help="[%(default)s]")
    parser.add_argument("--classes", type=int, default=1000, help="[%(default)s]")
    parser.add_argument("--rounds", type=int, default=7, help="processes for each time [%(default)s]")
    parser.add_argument("--ranks", default="1,2,8", help="at once on this host, for memory [%(default)s]")
    parser.add_argument("--report", help=argparse.SUPPRESS)  # set for the processes that are measured
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.report:
        _child_main(args.report, args.root)
        return
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "train"
        write_index(root, args.images, args.classes)
        (file,) = (entry for entry in root.iterdir() if entry.is_file())
        print(f"{args.images:,} images, {args.classes:,} folders, a file of {file.stat().st_size / 2**20:.0f} MiB")
        for report, title in (("start", "start-up"), ("requests", "index work of a micro-batch")):
            found = [_reported(report, root) for _ in range(args.rounds)]
            print(f"\nms, median (least to most) of {args.rounds} processes\n")
            table((title, "ms"), ([part, spread([one[part] for one in found], 1)] for part in found[0]))
        print("\nMiB of a rank, shared pages in equal parts; the peak is the largest rank's, above torch and DALI\n")
        headings = ("ranks", "torch and DALI", "index", "index and two permutations", "peak of both")
        table(headings, (memory(root, int(ranks)) for ranks in args.ranks.split(",")))


if __name__ == "__main__":
    main()
