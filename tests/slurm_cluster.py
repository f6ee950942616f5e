"""A small Slurm cluster on hosts of this machine: munge, a controller on the first host, slurmd on each.

Without accounting, cgroups and plugins for tasks; the rest is as on a large one: jobs, steps, signals, requeueing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.hosts import Host, Network, what_hosts_lack
from tests.launching import REPOSITORY, worker_environment

CPUS = 4  # of a host, as Slurm is told
_DAEMONS = ("munged", "slurmctld", "slurmd", "srun", "sbatch", "scontrol")
_CONF = """
ClusterName=trainer
SlurmctldHost={controller}
SlurmUser=root
AuthType=auth/munge
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=30
SchedulerParameters=sched_interval=1
SrunPortRange=60001-60100
NodeName={nodes} CPUs={cpus} RealMemory=2000 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
"""


def what_slurm_lacks() -> str | None:
    """Why there can be no Slurm on this machine, if so."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"])
    missing = [name for name in _DAEMONS if shutil.which(name, path=path) is None]
    return what_hosts_lack() or (f"a Slurm cluster needs {', '.join(missing)}" if missing else None)


_LACK = what_slurm_lacks()
needs_slurm = pytest.mark.skipif(_LACK is not None, reason=str(_LACK))


@dataclass(frozen=True, slots=True)
class Slurm:
    """Commands are run on the first host, in the repository, with `environment`."""

    network: Network
    folder: Path
    environment: Mapping[str, str]

    def run(self, *command: str, **options) -> subprocess.Popen[str]:
        return self.network.hosts[0].run(command, folder=REPOSITORY, env=self.environment, **options)

    def output_of(self, *command: str, timeout_s: float = 120) -> str:
        """What a command says, errors too; raises AssertionError where it fails."""
        process = self.run(*command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        said, _ = process.communicate(timeout=timeout_s)
        assert process.returncode == 0, f"{' '.join(command)}: {process.returncode}\n{said}"
        return said

    def job(self, number: str) -> dict[str, str]:
        """What the controller knows of a job: JobState, ExitCode, Restarts, ..."""
        words = self.output_of("scontrol", "--oneliner", "show", "job", number).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def start_daemons_on(self, host: Host) -> None:
        """munged and slurmd, and on the first host the controller."""
        run_folder = "mkdir -p /run/munge; "
        munged = (
            f"munged --force --key-file={self.folder}/munge.key --pid-file=/run/munge/pid --seed-file=/run/munge/seed"
            f" --log-file={self.folder}/munged-{host.name}.log"
        )
        controller = "slurmctld -i; " if host is self.network.hosts[0] else ""
        script = f"set -e; {run_folder}{munged}; {controller}slurmd -N {host.name}"
        subprocess.run([*host.prefix(), "bash", "-c", script], env=self.environment, check=True, timeout=30)


@contextmanager
def slurm_on(network: Network, folder: Path) -> Iterator[Slurm]:
    """Slurm on these hosts, idle; it goes with them."""
    folder = folder.resolve()
    (folder / "state").mkdir(parents=True)
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    nodes = ",".join(host.name for host in network.hosts)
    conf = folder / "slurm.conf"
    conf.write_text(_CONF.format(controller=network.hosts[0].name, folder=folder, nodes=nodes, cpus=CPUS))
    environment = worker_environment()
    environment |= {"SLURM_CONF": str(conf), "PATH": f"{environment['PATH']}:/usr/sbin"}
    slurm = Slurm(network, folder, environment)
    for host in network.hosts:
        slurm.start_daemons_on(host)
    deadline = time.monotonic() + 30
    idle = ["idle"] * len(network.hosts)
    while (states := slurm.output_of("sinfo", "--noheader", "--Node", "--format=%T").split()) != idle:
        assert time.monotonic() < deadline, f"{states}: see the logs in {folder}"
        time.sleep(0.2)
    yield slurm
