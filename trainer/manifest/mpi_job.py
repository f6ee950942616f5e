"""A run under horovodrun: Kubeflow's MPIJob, of one size or elastic."""

from __future__ import annotations

from trainer.manifest.cluster_run import HOME, ClusterRun
from trainer.manifest.names import DISCOVERY_SCRIPT, HOSTFILE
from trainer.manifest.pod import Tree, launcher_template, metadata, train_command, worker_template

# The image's ssh server has it: it needs no root.
_SSH_PORT = 2222
# horovodrun waits this long for hosts that are still pulling their image, and notes nothing in the home folder.
_START = ["-p", str(_SSH_PORT), "--start-timeout", "600", "--disable-cache", "--network-interfaces", "eth0"]


def mpi_job(run: ClusterRun) -> list[Tree]:
    """A fleet of one size. Raises ManifestError."""
    run.refuse_growth("mpijob")
    # --gloo: where Horovod was built with MPI too, horovodrun would call mpirun, which knows nothing of what is mended.
    hosts = ["--gloo", "-np", str(run.workers), "--hostfile", HOSTFILE]
    # All workers at once: horovodrun gives up on a host whose ssh server is not there yet.
    return [_job(run, hosts, "WaitForWorkersReady")]


def elastic_mpi_job(run: ClusterRun) -> list[Tree]:
    """A fleet whose workers come and go, or that grows by plan. Raises ManifestError."""
    hosts = [
        *("-np", str(run.workers), "--min-np", str(run.per_node), "--max-np", str(run.fleet.largest)),
        # The operator's script prints hosts without their slots.
        *("--host-discovery-script", DISCOVERY_SCRIPT, "--slots-per-host", str(run.per_node)),
        *("--blacklist-cooldown-range", "10", "600"),
    ]
    return [_job(run, hosts, "AtStartup")]


def _job(run: ClusterRun, hosts: list[str], launcher_creation: str) -> Tree:
    most_nodes = run.fleet.largest // run.per_node
    run.refuse_long_name(f"{run.name}-worker-{most_nodes - 1}")
    launcher = {"args": ["horovodrun", *hosts, *_START, "trainer", *train_command()]}
    worker = {
        "args": ["ssh-worker"],
        "ports": [{"name": "ssh", "containerPort": _SSH_PORT}],
        "readinessProbe": {"tcpSocket": {"port": "ssh"}, "periodSeconds": 2},
    }
    return {
        "apiVersion": "kubeflow.org/v2beta1",
        "kind": "MPIJob",
        "metadata": metadata(run),
        "spec": {
            "slotsPerWorker": run.per_node,
            "mpiImplementation": "OpenMPI",  # its form of hostfile is the one that horovodrun reads
            "launcherCreationPolicy": launcher_creation,
            "sshAuthMountPath": f"{HOME}/.ssh",
            "runPolicy": {"cleanPodPolicy": "Running", "backoffLimit": 10},
            "mpiReplicaSpecs": {
                "Launcher": {
                    "replicas": 1,
                    "restartPolicy": "Never",
                    "template": launcher_template(run, launcher),
                },
                "Worker": {
                    "replicas": run.nodes,
                    "restartPolicy": "OnFailure",
                    "template": worker_template(run, worker),
                },
            },
        },
    }
