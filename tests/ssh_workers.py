"""docker/ssh_worker.py with a real sshd on this machine, for a user, a port and keys of the test's own."""

from __future__ import annotations

import getpass
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.launching import REPOSITORY
from tests.waiting import wait_until

SCRIPT = REPOSITORY / "docker" / "ssh_worker.py"
_SSHD = Path("/usr/sbin/sshd")

# Counts the SIGTERMs that it gets; with the first it "saves" for as long as it is told, and ends as a stopped trainer.
TRAINER = """
import pathlib, signal, sys, time
count, seconds = pathlib.Path(sys.argv[1]), float(sys.argv[2])
heard = []
signal.signal(signal.SIGTERM, lambda *_: (heard.append(1), count.write_text(str(len(heard)))))
count.write_text("0")
while not heard:
    time.sleep(0.02)
end = time.monotonic() + seconds
while time.monotonic() < end:
    time.sleep(0.02)
pathlib.Path(sys.argv[1] + ".saved").touch()
sys.exit(85)
"""


@dataclass(frozen=True, slots=True)
class SshWorker:
    """An ssh-worker that runs. ssh: what reaches it, to be followed by a command."""

    process: subprocess.Popen[str]
    ssh: tuple[str, ...]
    port: int
    folder: Path

    def start(self, command: str) -> subprocess.Popen[str]:
        """Sends a command as a launcher does."""
        return subprocess.Popen([*self.ssh, command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def start_trainer(self, seconds: float, then: str = "; exit $?") -> subprocess.Popen[str]:
        """As horovodrun does: through a shell, which first changes the folder. then: what keeps the shell there."""
        (self.folder / "trainer.py").write_text(TRAINER)
        command = f"cd {self.folder} > /dev/null 2>&1 ; env A=1 {sys.executable} trainer.py count {seconds} {then}"
        client = self.start(command)
        wait_until(lambda: self.signals_heard() == "0", 20, lambda: "the trainer has begun")
        return client

    def signals_heard(self) -> str:
        count = self.folder / "count"
        return count.read_text() if count.exists() else ""

    def has_saved(self) -> bool:
        return (self.folder / "count.saved").exists()


@contextmanager
def ssh_worker(folder: Path, environment: Mapping[str, str]) -> Iterator[SshWorker]:
    """Starts one; kills what is left of it afterwards. Skips where the machine has no sshd."""
    if not (_SSHD.exists() and shutil.which("ssh")):
        pytest.skip("openssh-server and openssh-client are not installed on this machine")
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where sshd of root puts those who have not logged in yet
    key, port = folder / "id_rsa", free_port()
    subprocess.run(["ssh-keygen", "-q", "-t", "ecdsa", "-b", "521", "-m", "PEM", "-N", "", "-f", key], check=True)
    config = folder / "sshd_config"
    config.write_text(own_config(key, port))
    client = folder / "ssh_config"
    client.write_text((REPOSITORY / "docker" / "ssh_config").read_text().replace("Port 2222", f"Port {port}"))
    command = [sys.executable, "-I", str(SCRIPT), "--config", str(config)]
    errors = folder / "ssh-worker.log"
    with errors.open("w") as log:
        process = subprocess.Popen(command, stderr=log, text=True, env={**os.environ, **environment})
    try:
        wait_until(lambda: is_listening(port), 20, lambda: f"sshd listens at {port}")
        yield SshWorker(process, ("ssh", "-F", str(client), "-i", str(key), "127.0.0.1"), port, folder)
    finally:
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()
        process.wait()


def own_config(key: Path, port: int) -> str:
    """docker/sshd_config, for this user and these files."""
    own = {
        "Port": str(port),
        "ListenAddress": "127.0.0.1",
        "AllowUsers": getpass.getuser(),
        "HostKey": str(key),
        "AuthorizedKeysFile": f"{key}.pub",
        "ForceCommand": f"exec {sys.executable} -I {SCRIPT} --session",
    }
    text = (REPOSITORY / "docker" / "sshd_config").read_text()
    kept = [line for line in text.splitlines() if line.split(" ")[0] not in own]
    return "\n".join([*kept, *(f"{name} {value}" for name, value in own.items())]) + "\n"


def settings(text: str) -> dict[str, str]:
    """What a configuration of ssh or sshd says."""
    return dict(re.findall(r"^ *([A-Z]\w+) (.+)$", text, re.MULTILINE))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
