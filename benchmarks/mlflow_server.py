"""What an MLflow server takes to answer, with and without uvloop: one request, and an experiment read back.

    python -m benchmarks.mlflow_server --runs 30 --rounds 3

Two servers, one for each event loop, over one SQLite file on this machine; they are asked in turns. The experiment is
one run of a preset, trained here, under so many names; it is read as `trainer compare --experiment` reads it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from benchmarks.side_by_side import in_turns, ratios, spread, table
from trainer.tracking import RunLog, journals_in, read_journal
from trainer.tracking.mlflow_reader import load_run_logs
from trainer.tracking.mlflow_sender import send_journal
from trainer.tracking.mlflow_store import open_client

LOOPS = ("asyncio", "uvloop")
METRIC = "val/top1"
START_S = 180  # of a server: it makes the tables first
QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


@contextlib.contextmanager
def server(folder: Path, loop: str, workers: int) -> Iterator[str]:
    """Its address, while it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", str(workers)]
    command += ["--backend-store-uri", f"sqlite:///{folder}/server.db"]
    command += ["--artifacts-destination", f"{folder}/artifacts", "--uvicorn-opts", f"--loop {loop}"]
    with open(folder / f"{loop}.log", "wb") as log:
        process = subprocess.Popen(command, env=os.environ | QUIET, stdout=log, stderr=log, start_new_session=True)
    try:
        uri = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + START_S
        while not _answers(f"{uri}/health"):
            is_hopeful = process.poll() is None and time.monotonic() < deadline
            assert is_hopeful, (folder / f"{loop}.log").read_text()[-3000:]
            time.sleep(0.2)
        yield uri
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except OSError:
        return False


def one_run(preset: str, output: Path) -> RunLog:
    """Trains it; its record."""
    train = [sys.executable, "-m", "trainer", "train", preset, "tracking.mlflow=off", f"output={output}"]
    subprocess.run(train, stdout=subprocess.DEVNULL, check=True)
    (journal,) = journals_in(output)
    return read_journal(journal)


def request(uri: str, run_id: str, requests: int) -> float:
    """Seconds for one curve of a run, median."""
    client = open_client(uri)
    seconds = []
    for _ in range(requests):
        begin = time.perf_counter()
        client.get_metric_history(run_id, METRIC)
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)


def experiment(uri: str, name: str) -> float:
    """Seconds until all of its runs are here."""
    begin = time.perf_counter()
    load_run_logs(uri, experiment=name)
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=30, help="in the experiment [%(default)s]")
    parser.add_argument("--preset", default="digits-increase-batch", help="what is run [%(default)s]")
    parser.add_argument("--workers", type=int, default=4, help="processes of a server [%(default)s]")
    parser.add_argument("--requests", type=int, default=50, help="whose median counts, each round [%(default)s]")
    parser.add_argument("--rounds", type=int, default=3, help="[%(default)s]")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        uris = {loop: stack.enter_context(server(folder, loop, args.workers)) for loop in LOOPS}
        log = one_run(args.preset, folder / "runs")
        for number in range(args.runs):
            send_journal(uris["uvloop"], replace(log, run=replace(log.run, run_uid=f"{log.run.run_uid}-{number}")))
        found = load_run_logs(uris["uvloop"], experiment=log.run.experiment)
        assert len(found) == args.runs, f"{len(found)} of {args.runs} runs are there"
        run_id = found[0].source.split()[-1]
        one_request = {loop: partial(request, uri, run_id, args.requests) for loop, uri in uris.items()}
        whole = {loop: partial(experiment, uri, log.run.experiment) for loop, uri in uris.items()}
        answers, readings = in_turns(one_request, args.rounds), in_turns(whole, args.rounds)
    size = f"{args.runs} runs of {len(log.epochs)} epochs and {len(log.epochs[-1].metrics)} curves"
    print(f"{size}; {args.rounds} rounds; median (least to most)\n")
    rows = [("a request, ms", answers, 1000), ("the experiment, s", readings, 1)]
    table(
        ("", *LOOPS, "uvloop / asyncio"),
        (
            (what, *(spread(taken[loop], 1, scale) for loop in LOOPS), spread(ratios(taken, "uvloop", "asyncio")))
            for what, taken, scale in rows
        ),
    )


if __name__ == "__main__":
    main()
