"""A network of one's own on this machine: what travels on it, how fast it is, and how fast it may be."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from trainer.collective.agreement import broadcast_text
from trainer.collective.collective import Collective

_INSIDE = "BENCHMARK_NETWORK"
_CHUNK = 2**22  # bytes


def enter_own_network(module: str, gbit: float | None) -> None:
    """Runs the module again, with the same arguments, in a network that nobody else uses. gbit: what all its traffic
    together gets, in Gbit/s; None for what the machine can do. Needs root; ends with the module's exit code."""
    if _INSIDE in os.environ:
        return
    setup = "ip link set lo up"
    if gbit is not None:
        setup += f" && tc qdisc add dev lo root tbf rate {gbit * 1000:.0f}mbit burst 4mb limit 256mb"
    command = [sys.executable, "-m", module, *sys.argv[1:]]
    done = subprocess.run(
        ["unshare", "--net", "sh", "-c", f'{setup} && exec "$@"', "sh", *command],
        env=os.environ | {_INSIDE: "own", "GLOO_SOCKET_IFNAME": "lo"},
        check=False,
    )
    raise SystemExit(done.returncode)


def loopback_bytes() -> int:
    """Bytes that have travelled on lo, headers included."""
    lines = Path("/proc/net/dev").read_text().splitlines()
    return int(next(line for line in lines if line.strip().startswith("lo:")).split(":")[1].split()[0])


def copy_seconds(nbytes: int) -> float:
    """One thread copies so many bytes from one place in memory to another."""
    source = torch.ones(nbytes // 4)
    target = torch.empty_like(source)
    target.copy_(source)
    begin = time.perf_counter()
    target.copy_(source)
    return time.perf_counter() - begin


@contextlib.contextmanager
def pair(collective: Collective) -> Iterator[socket.socket]:
    """A plain TCP connection between the two workers of a fleet."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0))) if collective.rank == 0 else None
        port = int(broadcast_text(collective, str(server.getsockname()[1]) if server else ""))
        connection = server.accept()[0] if server else socket.create_connection(("127.0.0.1", port))
        yield stack.enter_context(connection)


def exchange_seconds(connection: socket.socket, nbytes: int) -> float:
    """Both ends send so many bytes at once: what a ring of two has to move for as many bytes of gradients."""
    buffer, received = memoryview(bytearray(_CHUNK)), memoryview(bytearray(_CHUNK))
    begin = time.perf_counter()
    thread = threading.Thread(target=lambda: [connection.sendall(buffer[:n]) for n in _pieces(nbytes)])
    thread.start()
    left = nbytes
    while left:
        left -= connection.recv_into(received, min(left, _CHUNK))
    thread.join()
    return time.perf_counter() - begin


def _pieces(nbytes: int) -> Iterator[int]:
    for start in range(0, nbytes, _CHUNK):
        yield min(_CHUNK, nbytes - start)
