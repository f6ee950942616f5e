"""Several hosts on one machine, for what crosses a network: each has its own processes, name, addresses, /run and sshd.

    with joined_hosts(folder, 2) as network:
        one, two = network.hosts
        one.run(["ssh", "host2", "hostname"]).wait()

Linux namespaces, joined by a bridge; the file system is common to all, as a shared folder would be. Nothing of the
machine's own ssh, names or addresses is touched. Hosts are gone when the process that made them is, however it ends.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.launching import heed_signals
from tests.waiting import wait_until

INTERFACE = "eth0"  # of every host
_BRIDGE = "trainer-br"
_SSH_PORT = 2222  # not the usual one, so that a launcher has to be told
_TOOLS = ("ip", "unshare", "nsenter", "ssh", "ssh-keygen", "mount")
_SSHD = "/usr/sbin/sshd"
# Process 1 of a host. It ends when nobody holds its standard input any more, and the kernel ends all others with it.
_INIT = """
set -e
mount -t tmpfs none /run; mkdir -p /run/sshd /run/lock
mount -t tmpfs -o mode=1777 none /dev/shm
hostname {name}
mount --bind {home}/hosts /etc/hosts
mount --bind {home}/hostname /etc/hostname
mount --bind {home}/ssh_config /etc/ssh/ssh_config
ip link set lo up
read -r linked
ip addr add {address}/24 dev {interface}
ip link set {interface} up
ip route add default via {outside}
{sshd} -f {home}/sshd_config -E {home}/sshd.log
echo up
read -r ended || true
"""
_SSHD_CONFIG = """
Port {port}
HostKey {home}/host_key
AuthorizedKeysFile {folder}/key.pub
PidFile none
PermitRootLogin prohibit-password
PasswordAuthentication no
StrictModes no
UsePAM no
MaxStartups 100
"""
_SSH_CONFIG = """
Host *
    Port {port}
    IdentityFile {folder}/key
    StrictHostKeyChecking accept-new
    UserKnownHostsFile {home}/known_hosts
    LogLevel ERROR
    ServerAliveInterval 3
    ServerAliveCountMax 3
"""


def what_hosts_lack() -> str | None:
    """Why there can be no hosts on this machine, if so."""
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None] + [_SSHD] * (not Path(_SSHD).exists())
    if missing:
        return f"hosts on one machine need {', '.join(missing)}"
    trial = ["unshare", "--net", "--uts", "--mount", "--ipc", "--pid", "--fork", "--mount-proc", "true"]
    if os.geteuid() != 0 or subprocess.run(trial, capture_output=True, check=False).returncode != 0:
        return "hosts on one machine need root, and namespaces"
    return None


_LACK = what_hosts_lack()
needs_hosts = pytest.mark.skipif(_LACK is not None, reason=str(_LACK))


@dataclass(slots=True)
class Host:
    """One of the hosts. address: in the network; number: its place there, from 1; home: its own files."""

    name: str
    number: int
    address: str
    home: Path
    _bridge: str
    _init: subprocess.Popen[str] | None = field(default=None, repr=False)
    _pid: int = 0  # of the host's process 1, as the machine sees it; 0 where there is none

    @property
    def is_up(self) -> bool:
        return self._init is not None and self._init.poll() is None

    def start(self) -> None:
        """Boots it: with its old name, address and keys, and nothing of its old processes."""
        assert not self.is_up, f"{self.name} is up already"
        with open(self.home / "boot.log", "ab") as log:
            self._init = subprocess.Popen(
                ["unshare", "--net", "--uts", "--mount", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc",
                 "bash", str(self.home / "init.sh")],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True,
                preexec_fn=heed_signals,
            )  # fmt: skip
        wait_until(lambda: children_of(self._init.pid), 10, lambda: f"{self.name} has a process 1", pause_s=0.01)
        (self._pid,) = children_of(self._init.pid)
        # The same hardware address after every start: others remember it for a minute.
        mac = _mac(self.address)
        peer = ["peer", "name", INTERFACE, "address", mac, "netns", str(self._pid)]
        _ip("link", "add", self._port, "mtu", "1500", "type", "veth", *peer)
        _ip("link", "set", self._port, "master", self._bridge, "up")
        self._init.stdin.write("linked\n")
        self._init.stdin.flush()
        assert self._init.stdout.readline() == "up\n", (
            f"{self.name} did not start: {(self.home / 'boot.log').read_text()}"
        )

    def prefix(self, folder: Path | str = "/") -> list[str]:
        """What is put before a command so that it runs here. Signals are for the command's own process: the one in
        front of it passes none on."""
        assert self.is_up, f"{self.name} is down"
        return ["nsenter", "-t", str(self._pid), "-n", "-u", "-m", "-i", "-p", f"--wdns={folder}"]

    def run(
        self, command: Sequence[str], *, folder: Path | str = "/", env: Mapping[str, str] | None = None, **options
    ) -> subprocess.Popen[str]:
        """Starts a command here, in a folder, with these variables (else this process's); options are Popen's."""
        prefix = self.prefix(folder)
        return subprocess.Popen(
            [*prefix, *command], env=env, text=True, start_new_session=True, preexec_fn=heed_signals, **options
        )

    def output_of(self, *command: str, timeout_s: float = 30) -> str:
        """What a short command says here; raises CalledProcessError where it fails."""
        finished = subprocess.run(
            [*self.prefix(), *command], capture_output=True, text=True, timeout=timeout_s, check=True
        )
        return finished.stdout

    def set_link(self, up: bool) -> None:
        """Pulls the cable, or plugs it in again. Processes on both sides hear nothing of it."""
        _ip("link", "set", self._port, "up" if up else "down")

    def kill(self) -> None:
        """SIGKILL to all that runs here, and the host is down: its kernel still closes connections, so that others
        notice at once."""
        if self._init is None:
            return
        if self.is_up:
            # The kernel ends all others with it. One that has not got so far goes with what was to start it.
            os.kill(self._pid or self._init.pid, signal.SIGKILL)
        self._init.communicate(timeout=30)
        # The kernel takes the link away in its own time; a host that is started again needs its name.
        subprocess.run(["ip", "link", "del", self._port], capture_output=True, check=False)
        self._init, self._pid = None, 0

    def cut_power(self) -> None:
        """The host is gone without a word on the network."""
        self.set_link(up=False)
        self.kill()

    @property
    def _port(self) -> str:
        return f"{self._bridge}h{self.number}"


@dataclass(frozen=True, slots=True)
class Network:
    """Hosts that reach each other by name and address. outside: this machine's address, as they see it; key: of ssh."""

    hosts: tuple[Host, ...]
    outside: str
    key: Path
    ssh_port: int


@contextmanager
def joined_hosts(folder: Path, count: int, own_name_at: str | None = None) -> Iterator[Network]:
    """host1, host2, ... with ssh between them that asks nothing. folder: for their files. own_name_at: the address that
    each has for its own name where it is not that of its network: 127.0.1.1 as installed by Debian."""
    _remove_what_others_left()
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "key")], check=True)
    bridge, subnet = _new_bridge()
    try:
        outside = f"{subnet}.254"
        _ip("addr", "add", f"{outside}/24", "dev", bridge)
        _ip("link", "set", bridge, "address", _mac(outside), "up")  # or it would change with the hosts that are up
        addresses = {f"host{number}": f"{subnet}.{number}" for number in range(1, count + 1)}
        hosts = tuple(
            Host(name, number, address, folder / name, bridge)
            for number, (name, address) in enumerate(addresses.items(), 1)
        )
        for host in hosts:
            own = {host.name: own_name_at or host.address}
            _write_files(host, folder, {**addresses, **own, "outside": outside})
        try:
            for host in hosts:
                host.start()
            yield Network(hosts, outside, folder / "key", _SSH_PORT)
        finally:
            for host in hosts:
                host.kill()
    finally:
        _ip("link", "del", bridge)


def _write_files(host: Host, folder: Path, names: Mapping[str, str]) -> None:
    home = host.home
    home.mkdir()
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(home / "host_key")], check=True)
    places = {"home": shlex.quote(str(home)), "folder": shlex.quote(str(folder)), "port": _SSH_PORT}
    init = _INIT.format(
        **places, name=host.name, address=host.address, interface=INTERFACE, outside=names["outside"], sshd=_SSHD
    )
    listed = "".join(f"{address} {name}\n" for name, address in {"localhost": "127.0.0.1", **names}.items())
    for file, text in {
        "init.sh": init, "hosts": listed, "hostname": f"{host.name}\n",
        "ssh_config": _SSH_CONFIG.format(**places), "sshd_config": _SSHD_CONFIG.format(**places),
    }.items():  # fmt: skip
        (home / file).write_text(text)


def _new_bridge() -> tuple[str, str]:
    """A bridge of our own, and the first three numbers of its addresses."""
    for number in range(100):  # longer names are none of an interface
        bridge = f"{_BRIDGE}{number}"
        if subprocess.run(["ip", "link", "add", bridge, "type", "bridge"], capture_output=True, check=False).returncode:
            continue  # somebody else's
        _ip("link", "set", bridge, "alias", str(os.getpid()))
        return bridge, f"10.77.{number}"
    raise AssertionError("100 networks of hosts on one machine")


def _remove_what_others_left() -> None:
    """Bridges of processes that have ended without taking them away."""
    for alias in Path("/sys/class/net").glob(f"{_BRIDGE}*/ifalias"):
        with contextlib.suppress(OSError, ValueError):
            if not Path(f"/proc/{int(alias.read_text())}").exists():
                subprocess.run(["ip", "link", "del", alias.parent.name], capture_output=True, check=False)


def _mac(address: str) -> str:
    return "02:00:" + ":".join(f"{int(part):02x}" for part in address.split("."))


def children_of(pid: int) -> list[int]:
    """Of a process, as the machine numbers them: the first of what a host's `run` returns is the command itself."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(stat.read_text().rpartition(") ")[2].split()[1]) == pid:
                found.append(int(stat.parent.name))
    return found


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)
