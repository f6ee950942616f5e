"""Elastic fleets on this machine, whose workers and hosts come and go while a test looks on."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.live_runs import LiveRun

# Two names for this machine: Horovod takes away all workers of a host that has lost one.
HOSTS = "localhost", "127.0.0.1"
# Of torchrun's rendezvous: an agent that says nothing for 6 s counts as gone (by default for 15), and one that comes is
# waited for 1 s (30).
QUICK = "last_call_timeout=1,keep_alive_interval=1,keep_alive_max_attempt=6"


class Hosts:
    """A host-discovery script, and the list that it prints: hosts with one worker each."""

    def __init__(self, folder: Path, hosts: Sequence[str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._list, self.script = folder / "hosts", folder / "discover.sh"
        self.set(hosts)
        self.script.write_text(f"#!/bin/sh\ncat '{self._list}'\n")
        self.script.chmod(0o755)

    def set(self, hosts: Sequence[str]) -> None:
        aside = self._list.with_suffix(".new")
        aside.write_text("".join(f"{host}:1\n" for host in hosts))
        aside.replace(self._list)


def elastic_horovodrun(hosts: Hosts, workers: int, cooldown_s: int) -> list[str]:
    """The launcher's part of a command. cooldown_s: a host that has lost a worker gets none for two or three times as
    long."""
    return [
        "horovodrun", "-np", str(workers), "--min-np", "1", "--max-np", "2", "--network-interfaces", "lo",
        "--host-discovery-script", str(hosts.script), "--blacklist-cooldown-range", str(cooldown_s), "3600",
    ]  # fmt: skip


def horovod_fleet(output: Path, hosts: Hosts, workers: int, arguments: Sequence[str], cooldown_s: int = 600) -> LiveRun:
    """A run under an elastic horovodrun; a host that has lost a worker is not used again."""
    prefix = [*elastic_horovodrun(hosts, workers, cooldown_s), sys.executable]
    return LiveRun(output, "horovodrun", workers, arguments, prefix)


class Agents:
    """torchrun's agents, each a node of one worker; the first keeps the list of who is there."""

    def __init__(self, output: Path, arguments: Sequence[str], shares_store: bool, conf: str) -> None:
        self._output, self._arguments, self._port, self._conf = output, arguments, _free_port(), conf
        self._env = {} if shares_store else {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
        self.agents: list[LiveRun] = []

    def start(self) -> LiveRun:
        """One more; all write into one log."""
        prefix = [
            sys.executable, "-m", "torch.distributed.run", "--nnodes=1:2", "--nproc-per-node=1", "--max-restarts=3",
            "--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{self._port}", "--rdzv-id=grows",
            f"--rdzv-conf={self._conf}",
        ]  # fmt: skip
        agent = LiveRun(self._output, "torchrun", 1, self._arguments, prefix, self._env)
        self.agents.append(agent)
        agent.wait_until(self._keeps_the_list)
        return agent

    def _keeps_the_list(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self._port)) == 0


@contextlib.contextmanager
def torchrun_agents(
    output: Path, arguments: Sequence[str], shares_store: bool = False, conf: str = QUICK
) -> Iterator[Agents]:
    """Agents of which nothing is left, whatever goes wrong. conf: of the rendezvous."""
    agents = Agents(output, arguments, shares_store, conf)
    try:
        yield agents
    finally:
        for agent in agents.agents:
            agent.kill_all()


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
