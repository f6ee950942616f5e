#!/usr/bin/python3 -I
"""What a worker's container runs. With sshd alone nobody saves: told to end, it leaves alone what it has started, which
is killed with the container; and to the commands of a launcher that ends it passes no signal on.

    ssh-worker             sshd on port 2222. On SIGTERM it takes no more connections, tells what was started over ssh
                           to stop, and ends when that has: trainers save first
    ssh-worker --session   what sshd runs for each connection: its command, in the environment of the container. Told
                           to stop by SIGTERM, from ssh-worker or by the kernel when the connection breaks
    ssh-worker --check     exit code 0 where this container's ssh-worker answers, or, where there is none, trainer does

Each trainer is told once, however many ends come together: a second SIGTERM would end it before it has saved. Runs as
process 1 or below an init; the standard library alone, since it starts with every connection.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

PORT = 2222
SSHD = "/usr/sbin/sshd"
CONFIG = "/etc/ssh/sshd_worker_config"
# Processes are known by variables in the environment that they were started with.
WORKER = "SSH_WORKER"  # the process id of the ssh-worker whose sshd started it
SESSION = "SSH_WORKER_SESSION"  # the process id of the session in which it runs
# They end with what they run, and pass its exit code on.
LEFT_ALONE = ("bash", "dash", "orted", "sh")

_PR_SET_PDEATHSIG = 1
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
_POLL_S = 0.1
_GOODBYE_S = 3.0  # for sshd to pass on exit codes


def environment_of(process: int | str) -> dict[str, str]:
    """What a process was started with; empty where it is gone, or somebody else's."""
    try:
        text = os.fsdecode(Path("/proc", str(process), "environ").read_bytes())
    except OSError:
        return {}
    return dict(pair.split("=", 1) for pair in text.split("\0") if "=" in pair)


def processes_with(name: str, value: int) -> dict[int, dict[str, str]]:
    """Those that were started with this variable, and their environments."""
    running = {int(entry): environment_of(entry) for entry in os.listdir("/proc") if entry.isdigit()}
    return {process: environment for process, environment in running.items() if environment.get(name) == str(value)}


def name_of(process: int) -> str:
    """The command's name; empty where it is gone."""
    try:
        return Path("/proc", str(process), "comm").read_text().strip()
    except OSError:
        return ""


def to_be_told(processes: Mapping[int, Mapping[str, str]]) -> list[int]:
    """Of all that runs below an ssh-worker: the sessions, which tell what they run; and what a session has left behind,
    as mpirun's daemon does with its workers."""
    sessions = [process for process, environment in processes.items() if SESSION not in environment]
    left = [process for process, environment in processes.items() if int(environment.get(SESSION, 0)) not in processes]
    return sessions + [process for process in left if process not in sessions and name_of(process) not in LEFT_ALONE]


def tell(processes: Sequence[int], told: set[int]) -> None:
    """SIGTERM to those that have not had it."""
    for process in set(processes) - told:
        told.add(process)
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGTERM)


def spawn(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Starts a program, with no signal held back; returns its process id."""
    return os.posix_spawn(command[0], list(command), environment, setsigmask=())


def reap() -> dict[int, int]:
    """Exit codes of children that have ended, as a shell counts them. As process 1 all orphans are ours."""
    ended = {}
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            code = os.waitstatus_to_exitcode(found[1])
            ended[found[0]] = code if code >= 0 else 128 - code
    return ended


def children_of(process: int) -> list[int]:
    """Process ids; none where it is gone."""
    try:
        return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except OSError:
        return []


def is_alive(process: int) -> bool:
    """Not where it has ended and its parent has not asked for its exit code yet: no command line is left of it then."""
    try:
        return bool(Path("/proc", str(process), "cmdline").read_bytes())
    except OSError:
        return False


def serve(config: str) -> int:
    """sshd until SIGTERM, then an end in good order. Returns the exit code."""
    own = os.getpid()
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    # While it serves, sshd says nothing: probes that hang up would fill the log. What it lacks it says here.
    if failed := subprocess.run([SSHD, "-t", "-f", config, "-o", "LogLevel=INFO"], check=False).returncode:
        say("sshd cannot start: are the job's keys mounted at /home/trainer/.ssh?")
        return failed
    sshd = spawn([SSHD, "-D", "-e", "-f", config, "-o", f"SetEnv={WORKER}={own}"], os.environ)
    while signal.sigwait(_SIGNALS) == signal.SIGCHLD:
        if (code := reap().get(sshd)) is not None:
            say(f"sshd ended with code {code}")
            return code or 1
    connections = children_of(sshd)
    os.kill(sshd, signal.SIGTERM)
    say(f"told to stop: {len(connections)} connections, waiting for what runs there")
    told: set[int] = set()
    while running := processes_with(WORKER, own):
        tell(to_be_told(running), told)
        reap()
        time.sleep(_POLL_S)
    end = time.monotonic() + _GOODBYE_S
    while time.monotonic() < end and any(is_alive(process) for process in connections):
        reap()
        time.sleep(_POLL_S)
    say("stopped")
    return 0


def session(command: str) -> int:
    """A launcher's command, told to stop when the connection breaks. Returns its exit code."""
    own, worker = os.getpid(), int(os.environ[WORKER])
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() in (1, worker):
        return 1  # the connection was gone before the kernel was asked to say so
    # sshd starts with an empty environment; what is run here belongs to the container.
    environment = {**os.environ, **environment_of(worker), SESSION: str(own)}
    shell = environment.get("SHELL", "/bin/sh")
    child = spawn([shell, "-c", command], environment)
    while signal.sigwait(_SIGNALS) == signal.SIGCHLD:
        if (code := reap().get(child)) is not None:
            return code
    code, told = None, set[int]()
    while (running := processes_with(SESSION, own)) or code is None:
        tell([process for process in running if name_of(process) not in LEFT_ALONE], told)
        code = reap().get(child, code)
        time.sleep(_POLL_S)
    return code


def check() -> int:
    """0 where what this container is for answers."""
    commands = (Path("/proc", entry, "cmdline") for entry in os.listdir("/proc") if entry.isdigit())
    if any(last_argument(command) == "ssh-worker" for command in commands):
        with socket.create_connection(("127.0.0.1", PORT), timeout=5) as connection:
            return 0 if connection.recv(4) == b"SSH-" else 1
    return subprocess.run(["trainer", "--version"], check=False).returncode


def last_argument(command: Path) -> str:
    """File name that ends a command line; empty where the process is gone."""
    try:
        return Path(os.fsdecode(command.read_bytes().rstrip(b"\0").split(b"\0")[-1])).name
    except OSError:
        return ""


def say(text: str) -> None:
    print(f"ssh-worker: {text}", file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description="sshd for the workers of a job, which may save before it ends")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--session", action="store_true", help="what sshd runs for each connection")
    what.add_argument("--check", action="store_true", help="exit code 0 where this container does its work")
    parser.add_argument("--config", default=CONFIG, metavar="FILE", help="of sshd [%(default)s]")
    options = parser.parse_args()
    if options.check:
        return check()
    if not options.session:
        return serve(options.config)
    command = os.environ.get("SSH_ORIGINAL_COMMAND")
    if not command:
        say("no command was given: this sshd is for a launcher's commands; for a shell use kubectl exec")
        return 2
    return session(command)


if __name__ == "__main__":
    raise SystemExit(main())
