"""An MLflow server with PostgreSQL on hosts of their own, as k8s/base/mlflow runs it.

What the server is started with (arguments, variables, user, read-only root, no capabilities) is read from the manifest,
so the two cannot disagree.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import string
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from tests.hosts import Host, Network
from tests.launching import REPOSITORY
from tests.waiting import wait_until
from trainer.tracking import RunLog
from trainer.yaml_text import parse_documents

MANIFESTS = REPOSITORY / "k8s/base/mlflow"
START_S = 120  # of the server: it makes the tables first, and loads MLflow once for each of its processes
Point = tuple[str, int, float, int]  # metric, step, value, milliseconds since 1970

_POSTGRES = Path("/usr/lib/postgresql")
_NOBODY_ELSE = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
# As a container with a read-only root has it: a /tmp of its own, and one folder to write to.
_READ_ONLY = """
mount -t tmpfs -o mode=1777 none /tmp
mount --bind "$0" "$0"
mount -o remount,bind,ro /
exec "$@"
"""


def what_the_service_lacks() -> str | None:
    """Why there can be no server with PostgreSQL on this machine, if so."""
    if not list(_POSTGRES.glob("*/bin/postgres")):
        return "PostgreSQL's server is not installed (apt-get install postgresql)"
    return None


needs_postgres = pytest.mark.skipif(what_the_service_lacks() is not None, reason=str(what_the_service_lacks()))


class MlflowService:
    """PostgreSQL on one host of a network, the server on another; all hosts know them by their Services' names."""

    def __init__(self, folder: Path, network: Network, server: Host, database: Host) -> None:
        """folder: new, where other users may look."""
        self.network, self.server_host, self.database_host = network, server, database
        self.password = string.punctuation + secrets.token_urlsafe(12)
        self.server_log = folder / "server.log"
        self._folder = folder
        self._container = _container("Deployment", "server.yaml")
        service = _manifest("Service", "server.yaml")
        self.name = service["metadata"]["name"]
        self.uri = f"http://{self.name}:{service['spec']['ports'][0]['port']}"
        names = {self.name: server, _manifest("Service", "postgres.yaml")["metadata"]["name"]: database}
        for host in network.hosts:
            with open(host.home / "hosts", "a") as listed:
                listed.writelines(f"{there.address} {name}\n" for name, there in names.items())
        self._server: subprocess.Popen[str] | None = None
        self._database: subprocess.Popen[str] | None = None
        self._make_database()

    def start_database(self) -> None:
        data = str(self._folder / "database")
        options = ["-c", f"listen_addresses={self.database_host.address}", "-c", "unix_socket_directories="]
        with open(self._folder / "database.log", "ab") as log:
            self._database = self.database_host.run(
                [*_NOBODY_ELSE, _tool("postgres"), "-D", data, *options], stdout=log, stderr=log
            )
        wait_until(self._database_answers, 60, lambda: "PostgreSQL answers")

    def stop_database(self) -> None:
        """At once, with its connections: what a pod that is moved elsewhere looks like to the server."""
        assert self._database is not None
        (postmaster,) = (self._folder / "database/postmaster.pid").read_text().splitlines()[:1]
        self.database_host.output_of("kill", "-INT", postmaster)
        self._database.wait(60)

    def start_server(self, password: str | None = None) -> None:
        """With another password than the database's, if one is given; returns at once."""
        artifacts = self._folder / "artifacts"
        user, group = (str(self._pod_security[key]) for key in ("runAsUser", "runAsGroup"))
        artifacts.mkdir(exist_ok=True)
        os.chown(artifacts, int(user), int(group))
        assert self._container["securityContext"]["readOnlyRootFilesystem"]
        assert self._container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        # One capability that the pod has not: the interpreter may lie in a home that is closed to others.
        look = ["=-all,+dac_read_search"] * 3
        as_user = [
            f"--{what}{how}" for what, how in zip(("bounding-set", "inh-caps", "ambient-caps"), look, strict=True)
        ]
        as_user += [f"--reuid={user}", f"--regid={group}", "--clear-groups", "--no-new-privs"]
        env = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
        for variable in self._container["env"]:
            env[variable["name"]] = variable.get("value") or (password or self.password)
        assert env["MLFLOW_ARTIFACTS_DESTINATION"] == "/artifacts"
        env["MLFLOW_ARTIFACTS_DESTINATION"] = str(artifacts)
        with open(self.server_log, "ab") as log:
            self._server = self.server_host.run(
                ["unshare", "--mount", "bash", "-ec", _READ_ONLY, str(artifacts), "setpriv", *as_user,
                 *self._container["args"]],
                env=env, stdout=log, stderr=log,
            )  # fmt: skip

    def wait_for_server(self) -> None:
        probe = self._container["readinessProbe"]["httpGet"]
        url = f"http://{self.server_host.address}:{self.uri.rpartition(':')[2]}{probe['path']}"
        wait_until(lambda: _answers(url), START_S, lambda: self.server_log.read_text()[-3000:])

    def kill_server(self) -> None:
        """With all its processes."""
        with contextlib.suppress(subprocess.CalledProcessError):
            self.server_host.output_of("pkill", "-KILL", "-u", str(self._pod_security["runAsUser"]))
        if self._server is not None:
            self._server.wait(30)

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """What the database answers, or the rows that a change returns."""
        with contextlib.closing(self._connect()) as connection, connection, connection.cursor() as cursor:
            cursor.execute(query, values)
            return cursor.fetchall() if cursor.description else []

    def run_ids(self, run_uid: str) -> list[str]:
        """MLflow's runs with this uid; there should be one."""
        return [row[0] for row in self.rows("select run_uuid from tags where key = 'run_uid' and value = %s", run_uid)]

    def points(self, run_uid: str) -> list[Point]:
        """All that the database holds of a run's curves, sorted, with doubles if there are any."""
        found = self.rows(
            "select key, step, value, timestamp from metrics where run_uuid = any(%s)", self.run_ids(run_uid)
        )
        return sorted(found)

    @property
    def _pod_security(self) -> dict[str, Any]:
        return dict(_manifest("Deployment", "server.yaml")["spec"]["template"]["spec"]["securityContext"])

    def _make_database(self) -> None:
        env = {
            variable["name"]: variable.get("value") for variable in _container("StatefulSet", "postgres.yaml")["env"]
        }
        data, passwords = self._folder / "database", self._folder / "password"
        passwords.write_text(self.password)
        shutil.chown(self._folder, "postgres", "postgres")
        self._folder.chmod(0o755)
        made = subprocess.run(
            [*_NOBODY_ELSE, _tool("initdb"), "-D", str(data), "-U", env["POSTGRES_USER"], f"--pwfile={passwords}",
             "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C"],
            cwd="/", capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert made.returncode == 0, made.stderr
        with open(data / "pg_hba.conf", "a") as allowed:
            allowed.write("host all all samenet scram-sha-256\n")
        self.start_database()
        with contextlib.closing(self._connect("postgres")) as connection:
            connection.autocommit = True
            connection.cursor().execute(f"create database {env['POSTGRES_DB']}")

    def _connect(self, name: str = "mlflow") -> Any:
        return psycopg2.connect(
            host=self.database_host.address, user="mlflow", dbname=name, password=self.password, connect_timeout=5
        )

    def _database_answers(self) -> bool:
        try:
            self._connect("postgres").close()
        except psycopg2.OperationalError:
            return False
        return True


@contextlib.contextmanager
def mlflow_service(network: Network, server: Host, database: Host) -> Iterator[MlflowService]:
    """Up and answering; its files are gone afterwards."""
    # Not below pytest's folders, which are closed to other users, nor in /tmp, which the server has to itself.
    folder = Path(tempfile.mkdtemp(prefix="mlflow-service-", dir="/var/tmp"))
    try:
        service = MlflowService(folder, network, server, database)
        service.start_server()
        service.wait_for_server()
        yield service
    finally:
        for host in (server, database):
            host.kill()
        shutil.rmtree(folder)


def journal_points(log: RunLog) -> list[Point]:
    """What a store should hold of a run that ended once, sorted: each epoch's metrics, and the closing numbers, where
    the last epoch has them not, at step 0."""
    epochs = [(key, e.epoch, value, e.time_s) for e in log.epochs for key, value in e.metrics.items()]
    assert log.close is not None
    new = log.close.summary.keys() - log.epochs[-1].metrics.keys()
    closing = [(key, 0, log.close.summary[key], log.close.time_s) for key in new]
    return sorted((key, step, value, round(1000 * time_s)) for key, step, value, time_s in epochs + closing)


def _manifest(kind: str, file: str) -> dict[str, Any]:
    (found,) = [part for part in parse_documents((MANIFESTS / file).read_text()) if part["kind"] == kind]
    return dict(found)


def _container(kind: str, file: str) -> dict[str, Any]:
    (container,) = _manifest(kind, file)["spec"]["template"]["spec"]["containers"]
    return dict(container)


def _tool(name: str) -> str:
    return str(max(_POSTGRES.glob(f"*/bin/{name}")))


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
