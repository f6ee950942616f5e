"""Runs whose workers stand on several hosts, started as a user would start them there."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from tests.elastic_fleets import Hosts
from tests.hosts import INTERFACE, Host, Network, children_of
from tests.launching import REPOSITORY
from tests.live_runs import LiveRun

_TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
_RENDEZVOUS = 29400
# What a worker needs of the environment that mpirun does not take along by itself.
_EXPORTED = ("PATH", "PYTHONPATH", "OMP_NUM_THREADS", "LIVE_RUN")


def over_ssh(network: Network) -> list[str]:
    """horovodrun on the first host, as far as its ways to the others."""
    ssh = ["-p", str(network.ssh_port), "-i", str(network.key), "--network-interfaces", INTERFACE]
    return [*network.hosts[0].prefix(REPOSITORY), "horovodrun", *ssh]


def horovod_job(output: Path, network: Network, arguments: Sequence[str], per_host: int = 1) -> LiveRun:
    workers = per_host * len(network.hosts)
    listed = ",".join(f"{host.name}:{per_host}" for host in network.hosts)
    prefix = [*over_ssh(network), "-np", str(workers), "-H", listed, sys.executable]
    return LiveRun(output, "horovodrun", workers, arguments, prefix)


def elastic_horovod_job(
    output: Path, network: Network, arguments: Sequence[str], hosts: Hosts, cooldown_s: int
) -> LiveRun:
    """A worker a host, at least one; a host that has lost its worker is tried again after two or three cool-downs."""
    most = str(len(network.hosts))
    elastic = [
        "-np", most, "--min-np", "1", "--max-np", most, "--host-discovery-script", str(hosts.script),
        "--blacklist-cooldown-range", str(cooldown_s), "3600",
    ]  # fmt: skip
    return LiveRun(output, "horovodrun", len(network.hosts), arguments, [*over_ssh(network), *elastic, sys.executable])


def torchrun_node(
    output: Path, network: Network, host: Host, arguments: Sequence[str], per_host: int = 1, restarts: int | None = None
) -> LiveRun:
    """torchrun on one of the hosts; the first keeps the rendezvous. restarts: of an elastic fleet, of at least one
    host."""
    most = len(network.hosts)
    prefix = [
        *host.prefix(REPOSITORY), *_TORCHRUN, f"--nproc-per-node={per_host}", "--rdzv-backend=c10d",
        f"--rdzv-endpoint={network.hosts[0].name}:{_RENDEZVOUS}", "--rdzv-id=my-run",
    ]  # fmt: skip
    env = {}
    if restarts is None:
        prefix += [f"--nnodes={most}"]
    else:
        conf = "keep_alive_interval=1,keep_alive_max_attempt=6,last_call_timeout=2"
        prefix += [f"--nnodes=1:{most}", f"--max-restarts={restarts}", f"--rdzv-conf={conf}"]
        env = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    return LiveRun(output, "torchrun", per_host * most, arguments, prefix, env)


def torchrun_job(output: Path, network: Network, arguments: Sequence[str], per_host: int = 1) -> list[LiveRun]:
    """A torchrun on each host, the first host's first."""
    return [torchrun_node(output, network, host, arguments, per_host) for host in network.hosts]


def mpi_job(output: Path, network: Network, arguments: Sequence[str], per_host: int = 1) -> LiveRun:
    first = network.hosts[0]
    listed = ",".join(f"{host.name}:{per_host}" for host in network.hosts)
    prefix = [
        *first.prefix(REPOSITORY), "mpirun", "--allow-run-as-root", "-np", str(per_host * len(network.hosts)),
        "-H", listed, "--bind-to", "none", "-x", f"MASTER_ADDR={first.name}",
        *(word for name in _EXPORTED for word in ("-x", name)), sys.executable,
    ]  # fmt: skip
    return LiveRun(output, "mpirun", per_host * len(network.hosts), arguments, prefix)


def launcher_of(run: LiveRun) -> int:
    """The process of horovodrun, torchrun or mpirun on its host."""
    (pid,) = children_of(run.process.pid)
    return pid
