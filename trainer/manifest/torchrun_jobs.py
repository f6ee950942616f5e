"""A run under torchrun: Kubeflow's TrainJob with a runtime of its own, or an Indexed Job without an operator."""

from __future__ import annotations

from trainer.manifest.cluster_run import LEAVE_S, ClusterRun
from trainer.manifest.names import ANCESTOR_LABEL, OWN_STORE
from trainer.manifest.pod import Tree, metadata, selector, train_command, worker_template

_RENDEZVOUS_PORT = 29400
_RESTARTS = 3  # of all workers, within their pods
# Of all pods. While the first still waits for its node or its image, the others find nobody, and fail once a minute.
_ROUNDS = 10


def train_job(run: ClusterRun) -> list[Tree]:
    """A TrainJob, and the TrainingRuntime that it takes; the operator tells torchrun who its nodes are.

    Raises ManifestError.
    """
    run.refuse_growth("trainjob")
    run.refuse_long_name(f"{run.name}-node-0-{run.nodes - 1}-abcde")  # JobSet counts the ending that each pod gets
    template = _template(run, {"args": ["torchrun", "-m", "trainer", *train_command()]}, name="node")
    job = {
        "metadata": {"labels": {ANCESTOR_LABEL: "trainer"}},
        # A pod that fails takes the job with it; the set then starts all of them again.
        "spec": {"backoffLimit": 0, "template": template},
    }
    set_of_jobs = {
        "failurePolicy": {"maxRestarts": 10},
        "network": {"publishNotReadyAddresses": True},
        "replicatedJobs": [{"name": "node", "template": job}],
    }
    group = "trainer.kubeflow.org"
    runtime = {
        "apiVersion": f"{group}/v1alpha1",
        "kind": "TrainingRuntime",
        "metadata": metadata(run),
        "spec": {"mlPolicy": {"numNodes": run.nodes, "torch": {}}, "template": {"spec": set_of_jobs}},
    }
    wanted = {
        "apiVersion": f"{group}/v1alpha1",
        "kind": "TrainJob",
        "metadata": metadata(run),
        "spec": {
            "runtimeRef": {"apiGroup": group, "kind": "TrainingRuntime", "name": run.name},
            "trainer": {"numNodes": run.nodes, "numProcPerNode": run.per_node},
        },
    }
    return [runtime, wanted]


def indexed_job(run: ClusterRun) -> list[Tree]:
    """A Job whose pods know their index, and the headless Service by which they find the first.

    Raises ManifestError.
    """
    run.refuse_growth("job")
    run.refuse_long_name(f"{run.name}-{run.nodes - 1}")
    launch = [
        *("torchrun", "--nnodes", str(run.nodes), "--nproc-per-node", str(run.per_node)),
        *("--max-restarts", str(_RESTARTS), "--rdzv-backend", "c10d", "--rdzv-id", run.name),
        *("--rdzv-endpoint", f"{run.name}-0.{run.name}:{_RENDEZVOUS_PORT}"),
        # Where the workers of other pods find this one's: its own name may be none that they know.
        *("--local-addr", "$(POD_IP)"),
    ]
    container = {
        "args": [*launch, "-m", "trainer", *train_command()],
        "ports": [{"name": "rendezvous", "containerPort": _RENDEZVOUS_PORT}],
    }
    template = _template(run, container)
    # Workers that start again must not find the addresses of those before them in a store that torchrun shares.
    template["spec"]["containers"][0]["env"] += [
        {"name": OWN_STORE, "value": "1"},
        {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
    ]
    template["spec"]["subdomain"] = run.name
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(run),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,  # the first pod is looked for before it is ready
            "selector": selector(run, "worker"),
            "ports": [{"name": "rendezvous", "port": _RENDEZVOUS_PORT}],
        },
    }
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata(run),
        "spec": {
            "completions": run.nodes,
            "parallelism": run.nodes,
            "completionMode": "Indexed",
            "backoffLimit": _ROUNDS * run.nodes,  # it counts pods, and all may fail with one
            "podReplacementPolicy": "Failed",  # never two pods of one index
            "podFailurePolicy": {
                "rules": [{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]
            },
            "template": template,
        },
    }
    return [service, job]


def _template(run: ClusterRun, container: Tree, name: str = "trainer") -> Tree:
    template = worker_template(run, container, name)
    template["spec"]["restartPolicy"] = "Never"  # a pod that failed keeps its log
    # torchrun's own patience with workers that save, which is 30 s otherwise; and it has to end before its pod.
    patience = {"name": "TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "value": str(run.grace_s - LEAVE_S)}
    template["spec"]["containers"][0]["env"].append(patience)
    return template
