"""Jobs of k8s/overlays train as they stand: their pods as containers, with the rights, volumes, names and commands of
the manifest, and what an operator and the cluster's name server add. After test_images.py, which builds the image."""

from __future__ import annotations

import contextlib
import json
import secrets
import shutil
from collections.abc import Iterator

import pytest

from tests import containers
from tests.containers import TRAINER, make_keys
from tests.pods import Cluster, render
from tests.waiting import wait_until
from trainer.tracking import TrackingError, journals_in, read_journal

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

MLFLOW_NAME, MLFLOW_PORT = "mlflow", 5000


@pytest.fixture
def cluster(tmp_path, request) -> Iterator[Cluster]:
    """A network with an MLflow server by the name that runs look for, and nothing else yet."""
    if reason := containers.what_is_missing():
        pytest.skip(reason)
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl, which renders overlays, is not installed on this machine")
    if containers.podman("image", "exists", TRAINER, check=False).returncode != 0:
        pytest.skip(f"there is no image {TRAINER}: make image-check builds it")
    mark = f"lbt{secrets.token_hex(3)}"
    with containers.network(mark):
        server = f"{mark}-{MLFLOW_NAME}"
        address = ["--host=0.0.0.0", f"--port={MLFLOW_PORT}", f"--allowed-hosts={MLFLOW_NAME}:{MLFLOW_PORT}"]
        options = ["--network", mark, "--network-alias", MLFLOW_NAME]
        containers.start(server, TRAINER, "mlflow", "server", *address, options=options)
        yield Cluster(mark, TRAINER, tmp_path, request.getfixturevalue("overlay")["ConfigMap"])


@pytest.fixture
def overlay(request):
    """The rendered documents of the overlay that the test names."""
    return render(request.param)


def record(cluster):
    """The one run's record."""
    (journal,) = journals_in(cluster.claim("runs"))
    return read_journal(journal)


def has_trained(cluster, epochs):
    """Whether there is a record, and it is so far."""
    with contextlib.suppress(TrackingError, ValueError):
        return len(record(cluster).epochs) >= epochs
    return False


def runs_in_mlflow(cluster):
    """Name and status of each run that the server has."""
    script = (
        "import json, mlflow; found = mlflow.search_runs(search_all_experiments=True, output_format='list'); "
        "print(json.dumps([[run.info.run_name, run.info.status] for run in found]))"
    )
    uri = f"MLFLOW_TRACKING_URI=http://{MLFLOW_NAME}:{MLFLOW_PORT}"
    asked = containers.podman("exec", "--env", uri, f"{cluster.network}-{MLFLOW_NAME}", "python3", "-c", script)
    return json.loads(asked.stdout.splitlines()[-1])


@pytest.mark.parametrize("overlay", ["try-mpijob"], indirect=True)
def test_an_mpi_job_trains_in_the_pods_that_its_operator_makes(overlay, cluster, tmp_path):
    job = overlay["MPIJob"]
    name, spec = job["metadata"]["name"], job["spec"]
    workers = [f"{name}-worker-{index}" for index in range(spec["mpiReplicaSpecs"]["Worker"]["replicas"])]
    hosts = [f"{worker}.{name}.{job['metadata']['namespace']}.svc" for worker in workers]
    keys, mpi = tmp_path / "keys", tmp_path / "mpi"
    keys.mkdir()
    mpi.mkdir()
    make_keys(keys)
    (mpi / "hostfile").write_text("".join(f"{host} slots={spec['slotsPerWorker']}\n" for host in hosts))
    template = spec["mpiReplicaSpecs"]["Worker"]["template"]
    for worker, host in zip(workers, hosts, strict=True):
        cluster.start(template, worker, host, {keys: spec["sshAuthMountPath"]})
    launcher = f"{name}-launcher"
    template = spec["mpiReplicaSpecs"]["Launcher"]["template"]
    cluster.start(template, launcher, mounts={keys: spec["sshAuthMountPath"], mpi: "/etc/mpi"})

    code = containers.wait(cluster.container(launcher), 600)
    assert code == 0, containers.said(cluster.container(launcher))
    assert (record(cluster).status, record(cluster).epochs[-1].epoch) == ("FINISHED", 24)
    assert runs_in_mlflow(cluster) == [["digits-increase-batch", "FINISHED"]]


@pytest.mark.parametrize("overlay", ["try-job"], indirect=True)
def test_an_indexed_job_trains_in_pods_that_find_the_first_of_them(overlay, cluster):
    job, service = overlay["Job"], overlay["Service"]
    pods = [f"{job['metadata']['name']}-{index}" for index in range(job["spec"]["completions"])]
    template = job["spec"]["template"]
    for pod in pods:
        cluster.start(template, pod, f"{pod}.{service['metadata']['name']}")

    for pod in pods:
        assert containers.wait(cluster.container(pod), 600) == 0, containers.said(cluster.container(pod))
    assert (record(cluster).status, record(cluster).epochs[-1].epoch) == ("FINISHED", 24)
    assert runs_in_mlflow(cluster) == [["digits-increase-batch", "FINISHED"]]


@pytest.mark.parametrize("overlay", ["try-trainjob"], indirect=True)
def test_a_train_job_trains_in_pods_that_are_told_of_each_other_by_its_operator(overlay, cluster):
    job, runtime = overlay["TrainJob"], overlay["TrainingRuntime"]
    name, wanted = job["metadata"]["name"], job["spec"]["trainer"]
    (replicated,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    pods = [f"{name}-{replicated['name']}-0-{index}" for index in range(wanted["numNodes"])]
    fleet = {"PET_NNODES": wanted["numNodes"], "PET_NPROC_PER_NODE": wanted["numProcPerNode"]}
    first = {"PET_MASTER_ADDR": f"{pods[0]}.{name}", "PET_MASTER_PORT": 29500}
    for rank, pod in enumerate(pods):
        added = {key: str(value) for key, value in {**fleet, **first, "PET_NODE_RANK": rank}.items()}
        cluster.start(replicated["template"]["spec"]["template"], pod, f"{pod}.{name}", added=added)

    for pod in pods:
        assert containers.wait(cluster.container(pod), 600) == 0, containers.said(cluster.container(pod))
    assert (record(cluster).status, record(cluster).epochs[-1].epoch) == ("FINISHED", 24)
    assert runs_in_mlflow(cluster) == [["digits-increase-batch", "FINISHED"]]


@pytest.mark.parametrize("overlay", ["try-job"], indirect=True)
def test_a_pod_that_is_deleted_lets_the_run_be_saved_and_its_next_one_goes_on(overlay, cluster):
    template = overlay["Job"]["spec"]["template"]
    pods = ["digits-0", "digits-1"]
    for pod in pods:
        cluster.start(template, pod, f"{pod}.digits")
    wait_until(lambda: has_trained(cluster, 3), 300, lambda: containers.said(cluster.container("digits-0")))
    containers.stop(cluster.container("digits-1"), template["spec"]["terminationGracePeriodSeconds"])
    for pod in pods:
        containers.stop(cluster.container(pod), template["spec"]["terminationGracePeriodSeconds"])
    stopped = record(cluster)
    assert stopped.status == "PAUSED", containers.said(cluster.container("digits-0"))
    containers.remove(*map(cluster.container, pods))
    for pod in pods:
        cluster.start(template, pod, f"{pod}.digits")
    for pod in pods:
        assert containers.wait(cluster.container(pod), 600) == 0, containers.said(cluster.container(pod))
    assert record(cluster).status == "FINISHED"
    assert [epoch.epoch for epoch in record(cluster).epochs] == list(range(1, 25))
