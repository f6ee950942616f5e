"""`trainer manifest`: every number of a job follows from the plan, and no two disagree."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from tests.simple_calibration import write_simple_calibration
from trainer.cli.main import main
from trainer.config import load_config
from trainer.manifest.cluster_run import ClusterRun, ManifestError, WorkerNeeds, dns_name, grace_s
from trainer.manifest.mpi_job import elastic_mpi_job, mpi_job
from trainer.manifest.torchrun_jobs import indexed_job, train_job
from trainer.rule import Fleet, FleetStep
from trainer.yaml_text import parse, parse_documents

pytestmark = pytest.mark.unit

ROOT = Path(__file__).resolve().parents[2]
OVERLAYS = sorted((ROOT / "k8s" / "overlays").iterdir())
RUN = ClusterRun(
    name="run",
    namespace="training",
    image="registry.example.com/large-batch-trainer:1",
    fleet=Fleet.of(256),
    per_node=8,
    needs=WorkerNeeds(gpus=1, cpus=8, memory_gib=32),
    grace_s=120,
    texts={"trainer.yaml": "name: run\n"},
    uses_images=True,
    mlflow="auto",
)
SHAPES = [(256, 8), (4, 2), (3, 1), (8, 8)]  # workers, workers of a node


def after(command, option):
    return command[command.index(option) + 1]


def manifest(capsys, *words):
    """The documents that the command prints, by kind."""
    assert main(["manifest", *words]) == 0
    return {document["kind"]: document for document in parse_documents(capsys.readouterr().out)}


def trainer_config(documents, tmp_path):
    """The configuration that pods find, as the trainer reads it."""
    file = tmp_path / "trainer.yaml"
    file.write_text(documents["ConfigMap"]["data"]["trainer.yaml"])
    return load_config(str(file))


def gpus(template):
    return template["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"]


@pytest.mark.parametrize(("workers", "per_node"), SHAPES)
def test_an_mpi_job_starts_as_many_workers_as_its_pods_have_gpus(workers, per_node):
    (job,) = mpi_job(replace(RUN, fleet=Fleet.of(workers), per_node=per_node))
    spec = job["spec"]
    roles = spec["mpiReplicaSpecs"]
    command = roles["Launcher"]["template"]["spec"]["containers"][0]["args"]
    assert after(command, "-np") == str(workers)
    assert spec["slotsPerWorker"] == gpus(roles["Worker"]["template"]) == per_node
    assert roles["Worker"]["replicas"] * per_node == workers
    assert roles["Launcher"]["replicas"] == 1
    ports = roles["Worker"]["template"]["spec"]["containers"][0]["ports"]
    assert after(command, "-p") == str(ports[0]["containerPort"])


@pytest.mark.parametrize(("workers", "per_node"), SHAPES)
def test_an_elastic_job_may_shrink_to_one_node_and_tells_the_slots_that_the_operator_does_not(workers, per_node):
    (job,) = elastic_mpi_job(replace(RUN, fleet=Fleet.of(workers), per_node=per_node))
    command = job["spec"]["mpiReplicaSpecs"]["Launcher"]["template"]["spec"]["containers"][0]["args"]
    assert [after(command, option) for option in ("-np", "--min-np", "--max-np", "--slots-per-host")] == [
        str(number) for number in (workers, per_node, workers, per_node)
    ]
    assert "--hostfile" not in command


def test_a_fleet_that_grows_starts_at_its_first_size_and_may_reach_its_largest():
    fleet = Fleet((FleetStep(0, 128), FleetStep(30, 256)))
    (job,) = elastic_mpi_job(replace(RUN, fleet=fleet))
    roles = job["spec"]["mpiReplicaSpecs"]
    command = roles["Launcher"]["template"]["spec"]["containers"][0]["args"]
    assert (after(command, "-np"), after(command, "--max-np"), roles["Worker"]["replicas"]) == ("128", "256", 16)


@pytest.mark.parametrize(("workers", "per_node"), SHAPES)
def test_a_train_job_has_the_plans_nodes_and_workers(workers, per_node):
    runtime, job = train_job(replace(RUN, fleet=Fleet.of(workers), per_node=per_node))
    (node,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    wanted = job["spec"]["trainer"]
    assert wanted["numNodes"] * wanted["numProcPerNode"] == workers
    assert runtime["spec"]["mlPolicy"]["numNodes"] == wanted["numNodes"]
    assert gpus(node["template"]["spec"]["template"]) == wanted["numProcPerNode"] == per_node
    assert job["spec"]["runtimeRef"]["name"] == runtime["metadata"]["name"]


@pytest.mark.parametrize(("workers", "per_node"), SHAPES)
def test_an_indexed_jobs_pods_meet_at_the_first_of_them(workers, per_node):
    service, job = indexed_job(replace(RUN, fleet=Fleet.of(workers), per_node=per_node))
    spec = job["spec"]
    command = spec["template"]["spec"]["containers"][0]["args"]
    assert spec["completions"] == spec["parallelism"] == int(after(command, "--nnodes")) == workers // per_node
    assert int(after(command, "--nproc-per-node")) == gpus(spec["template"]) == per_node
    host, port = after(command, "--rdzv-endpoint").split(":")
    assert host == f"{job['metadata']['name']}-0.{service['metadata']['name']}"
    assert spec["template"]["spec"]["subdomain"] == service["metadata"]["name"]
    assert int(port) == service["spec"]["ports"][0]["port"]
    assert service["spec"]["selector"].items() <= spec["template"]["metadata"]["labels"].items()


def test_torchrun_is_patient_for_almost_as_long_as_its_pod():
    (_, job) = indexed_job(RUN)
    spec = job["spec"]["template"]["spec"]
    variables = {each["name"]: each.get("value") for each in spec["containers"][0]["env"]}
    assert 0 < int(variables["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"]) < spec["terminationGracePeriodSeconds"] == 120


@pytest.mark.parametrize(
    ("measured", "expected"),
    [
        (None, 380),  # 300 s that a worker may stand still, 60 s for a save, 20 s to tell everybody
        ((10.0, 5.0), 70),  # 2 x (2 x 10 + 5) + 20
        ((10.1, 5.0), 80),  # 70.4, in tens
        ((0.008, 0.1), 60),  # never below a minute
    ],
)
def test_the_grace_period_is_longer_than_two_updates_and_a_save(measured, expected):
    assert grace_s(measured, hang_timeout_s=300.0) == expected


def test_the_grace_period_follows_from_the_measured_update(tmp_path, capsys):
    calibration = Path(write_simple_calibration(tmp_path, "digits-hybrid"))
    words = ["digits-hybrid", "--workers", "2", "--per-node", "2", "--calibration", str(calibration)]
    job = manifest(capsys, *words)["MPIJob"]
    roles = job["spec"]["mpiReplicaSpecs"].values()
    assert {role["template"]["spec"]["terminationGracePeriodSeconds"] for role in roles} == {60}
    text = calibration.read_text().replace('"update_overhead_s": ', '"update_overhead_s": 2')  # 20 s and more an update
    assert text != calibration.read_text()
    calibration.write_text(text)
    job = manifest(capsys, *words)["MPIJob"]
    roles = job["spec"]["mpiReplicaSpecs"].values()
    assert all(role["template"]["spec"]["terminationGracePeriodSeconds"] >= 100 for role in roles)


def test_pods_find_images_output_and_settings_where_their_volumes_are(tmp_path, capsys):
    documents = manifest(
        capsys, "imagenet-rn50-8192", "data.path=train", "output=mine", "--workers", "8", "--per-node", "8"
    )
    config = trainer_config(documents, tmp_path)
    assert (config.data.path, config.output, config.data.threads) == ("/data/train", "/runs/mine", 8)
    pod = documents["MPIJob"]["spec"]["mpiReplicaSpecs"]["Worker"]["template"]["spec"]
    mounts = {mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
    assert {"/data", "/runs", "/etc/trainer", "/dev/shm"} <= mounts


@pytest.mark.parametrize(
    ("kind", "workers", "fleet"),
    [
        ("mpijob", "8", (FleetStep(0, 8),)),
        ("job", "8", (FleetStep(0, 8),)),
        ("mpijob-elastic", "8", None),  # it goes on with fewer
        ("mpijob-elastic", "4,30:8", (FleetStep(0, 4), FleetStep(30, 8))),
    ],
)
def test_a_run_of_fixed_size_refuses_another_and_an_elastic_one_takes_what_there_is(
    kind, workers, fleet, tmp_path, capsys
):
    documents = manifest(capsys, "imagenet-rn50-8192", "--workers", workers, "--per-node", "4", "--kind", kind)
    assert trainer_config(documents, tmp_path).fleet == fleet


def test_a_run_on_cpus_asks_for_no_gpus_and_takes_the_image_without_them(capsys):
    job = manifest(capsys, "digits-hybrid", "device=cpu", "--workers", "2", "--per-node", "1", "--kind", "job")["Job"]
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert "nvidia.com/gpu" not in json.dumps(job)
    assert container["image"].endswith("-cpu")


@pytest.mark.parametrize("overlay", OVERLAYS, ids=[overlay.name for overlay in OVERLAYS])
def test_the_overlays_are_what_their_first_line_writes(overlay, tmp_path):
    first_line = (overlay / "kustomization.yaml").read_text().splitlines()[0]
    arguments = shlex.split(first_line.removeprefix("# Written by: trainer "))
    assert main([*arguments, "--out", str(tmp_path / "again")]) == 0
    written = {file.name: file.read_text() for file in (tmp_path / "again").iterdir()}
    assert {file.name: file.read_text() for file in overlay.iterdir()} == written, "make manifests"


def test_there_is_an_overlay_of_256_workers_for_every_launcher():
    names = {overlay.name for overlay in OVERLAYS}
    assert {"mpijob-256", "trainjob-256", "job-256"} <= names


def test_what_is_written_once_is_written_the_same_again(capsys):
    words = ["manifest", "imagenet-rn50-8192", "--workers", "8", "--per-node", "8"]
    assert main(words) == main(words) == 0
    text = capsys.readouterr().out
    assert text[: len(text) // 2] == text[len(text) // 2 :]


@pytest.mark.parametrize("name", ["digits-0.1", "Run_1", "a--b", "imagenet-rn50-8192"])
def test_any_runs_name_becomes_one_that_kubernetes_takes(name):
    assert replace(RUN, name=dns_name(name)).name == dns_name(name)


@pytest.mark.parametrize(
    ("kind", "ending"),
    [(mpi_job, "-worker-31"), (train_job, "-node-0-31-abcde"), (indexed_job, "-31")],
)
def test_names_of_pods_are_held_to_what_dns_takes(kind, ending):
    longest = "x" * (63 - len(ending))
    assert kind(replace(RUN, name=longest))
    with pytest.raises(ManifestError, match="64 characters"):
        kind(replace(RUN, name=longest + "x"))


def test_settings_are_a_block_that_a_person_can_read(capsys):
    assert main(["manifest", "digits-hybrid", "--workers", "2", "--per-node", "1"]) == 0
    assert "  trainer.yaml: |\n    name: digits-hybrid\n" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["mpijob", "mpijob-elastic", "trainjob", "job"])
def test_every_kind_carries_its_settings_and_a_policy_that_lets_only_its_own_pods_in(kind, capsys):
    documents = manifest(capsys, "digits-hybrid", "--workers", "2", "--per-node", "1", "--kind", kind)
    policy = documents["NetworkPolicy"]["spec"]
    assert policy["ingress"] == [{"from": [{"podSelector": policy["podSelector"]}]}]
    assert parse(documents["ConfigMap"]["data"]["trainer.yaml"])["name"] == "digits-hybrid"


@pytest.mark.parametrize(
    ("mlflow", "ports", "variable"),
    [
        ("auto", [5000], "http://mlflow:5000"),  # the server in the namespace
        ("off", [], None),
        ("https://mlflow.example.com", [443], None),
        ("http://10.0.0.7:8080", [8080], None),
        ("sqlite:////runs/mlflow.db", [], None),
    ],
)
def test_a_policy_lets_a_run_out_to_its_mlflow_server_and_no_further(mlflow, ports, variable, capsys):
    documents = manifest(capsys, "digits-hybrid", f"tracking.mlflow={mlflow}", "--workers", "2", "--per-node", "1")
    egress = documents["NetworkPolicy"]["spec"]["egress"]
    assert [port["port"] for rule in egress for port in rule.get("ports", [])] == [53, 53, *ports]
    pod = documents["MPIJob"]["spec"]["mpiReplicaSpecs"]["Launcher"]["template"]["spec"]
    variables = {each["name"]: each.get("value") for each in pod["containers"][0]["env"]}
    assert variables.get("MLFLOW_TRACKING_URI") == variable


def test_a_file_with_a_line_break_in_its_name_leaves_the_comment_a_comment(tmp_path, capsys):
    calibration = Path(write_simple_calibration(tmp_path, "digits-hybrid"))
    odd = calibration.rename(tmp_path / "a\nb: c.json")
    documents = manifest(capsys, "digits-hybrid", "--workers", "2", "--per-node", "2", "--calibration", str(odd))
    assert set(documents) == {"ConfigMap", "MPIJob", "NetworkPolicy"}


def test_the_first_lines_say_what_an_ended_launcher_leaves_of_the_grace_period(capsys):
    words = ["manifest", "digits-hybrid", "--workers", "2", "--per-node", "1", "--kind"]
    assert main([*words, "mpijob"]) == 0
    assert "# of which horovodrun leaves 60 s" in capsys.readouterr().out
    assert main([*words, "job"]) == 0
    assert "horovodrun" not in capsys.readouterr().out
