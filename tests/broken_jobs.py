"""Manifests of runs that break a rule: a good one, what is changed in it, and words of the problem that tells of it."""

from __future__ import annotations

from tests.manifests import (
    DROP,
    JOB,
    JOB_POD,
    LAUNCHER,
    NODE,
    NODE_JOB,
    WORKER,
    WORKER_POD,
    Change,
    add,
    edit,
    option,
    put,
    renamed_role,
    variable,
    without,
)

ROLES = "MPIJob spec mpiReplicaSpecs"

BROKEN_JOBS: dict[str, list[tuple[str, Change, str]]] = {
    "roles": [
        ("mpijob", renamed_role("Worker", "Workers"), "mpiReplicaSpecs.Workers: is no role"),
        ("mpijob", renamed_role("Launcher", "launcher"), "spec.mpiReplicaSpecs: has no Launcher: add it"),
        ("mpijob", put(f"{ROLES} Launcher replicas", 2), "Launcher.replicas: is 2: there is exactly one, write 1"),
        ("mpijob", put(f"{ROLES} Worker replicas", -1), "Worker.replicas: is -1: give 1 or more"),
        ("mpijob", put(f"{ROLES} Worker restartPolicy", "Always"), "Worker.restartPolicy: is Always: write Never"),
        ("mpijob", put("MPIJob spec slotsPerWorker", 0), "spec.slotsPerWorker: is 0: give the workers of a pod"),
        ("mpijob", put("MPIJob metadata name", "a" * 55), f"its pod {'a' * 55}-worker-1 has no name that DNS takes"),
    ],
    "operators_choices": [
        (
            "mpijob",
            put("ConfigMap metadata name", "imagenet-config"),
            "ConfigMap/imagenet-config metadata.name: the operator makes a ConfigMap of this name for MPIJob/imagenet",
        ),
        ("mpijob", put("MPIJob spec runPolicy cleanPodPolicy", "None"), "cleanPodPolicy: the workers'"),
        ("mpijob", put("MPIJob spec mpiImplementation", "Intel"), "the hostfile of Intel is none that"),
        ("mpijob", put("MPIJob spec launcherCreationPolicy", "Later"), "Later is unknown: write Wait"),
        ("mpijob", put("MPIJob spec launcherCreationPolicy", DROP), "workers that are not there yet"),
    ],
    "worker_counts": [
        ("mpijob", put(f"{LAUNCHER} args", ["sleep", "1"]), "starts neither horovodrun nor mpirun"),
        ("mpijob", put("MPIJob spec slotsPerWorker", 4), "a pod has 8 GPUs and slotsPerWorker is 4"),
        ("mpijob", put(f"{LAUNCHER} resources limits nvidia.com/gpu", 1), "hides GPUs from the launcher"),
        ("mpijob", option(LAUNCHER, "-np", None), "horovodrun is not told how many workers: give -np 16"),
        ("mpijob", option(LAUNCHER, "-np", "8"), "-np is 8, and 2 pods of 8 slots hold 16: make them"),
        ("mpijob", put(f"{ROLES} Worker replicas", 32), "-np is 16, and 32 pods of 8 slots hold 256"),
    ],
    "hosts": [
        ("mpijob", option(LAUNCHER, "--hostfile", None), "horovodrun is told of no hosts: give --hostfile"),
        ("mpijob", option(LAUNCHER, "--hostfile", "/hosts"), "to /etc/mpi/hostfile, not /hosts: name that"),
        ("mpijob", put(f"{LAUNCHER} args 1", "--verbose"), "horovodrun calls mpirun, which ends workers unsaved"),
    ],
    "elastic": [
        ("mpijob-elastic", put(f"{ROLES} Worker restartPolicy", DROP), "failed once would never come back: write OnF"),
        ("mpijob-elastic", option(LAUNCHER, "--host-discovery-script", "/x.sh"), "not /x.sh: name that"),
        ("mpijob-elastic", option(LAUNCHER, "--slots-per-host", None), "--slots-per-host is missing: give"),
        ("mpijob-elastic", option(LAUNCHER, "--blacklist-cooldown-range", "9", "6"), "would be out for ever"),
        ("mpijob-elastic", option(LAUNCHER, "--max-np", None), "give --min-np and --max-np"),
        ("mpijob-elastic", option(LAUNCHER, "--max-np", "8"), "-np 16 is not between --min-np 8 and --max-np 8"),
        ("mpijob-elastic", option(LAUNCHER, "--max-np", "20"), "--max-np 20 is no whole number of pods of 8"),
        ("mpijob-elastic", option(LAUNCHER, "--resume", None), "call trainer with --resume auto"),
    ],
    "ssh": [
        ("mpijob", put("MPIJob spec sshAuthMountPath", DROP), "is /root/.ssh, and user 1000 has its keys in /home/t"),
        ("mpijob", add(f"{WORKER_POD} volumes", {"name": "ssh-auth", "emptyDir": {}}), "the operator adds it: take"),
        (
            "mpijob",
            add(f"{WORKER} volumeMounts", {"name": "keys", "mountPath": "/home/trainer/.ssh/id_rsa"}),
            "volumeMounts[keys]: hides the keys that the operator mounts at /home/trainer/.ssh",
        ),
        ("mpijob", put(f"{WORKER} readinessProbe", DROP), "counts as ready before its ssh server is"),
        ("mpijob", put(f"{WORKER} ports ssh containerPort", 22), "calls port 2222, and the workers are ready at 22"),
    ],
    "indexed_jobs": [
        ("job", put("Job metadata name", "a" * 62), f"its pod {'a' * 62}-1 has no name that DNS takes: give a shorter"),
        ("job", option(JOB, "--nnodes", "all"), "--nnodes all is no number of pods: give 4, or 1:4"),
        ("job", put("Job spec parallelism", 1), "spec.parallelism: is 1, and torchrun waits for 2 pods"),
        ("job", option(JOB, "--nnodes", "1:4"), "spec.completions: is 2, and torchrun waits for 4 pods"),
        ("job", put("Job spec completionMode", DROP), "pods have no name to be found by: write Indexed"),
        ("job", option(JOB, "--nproc-per-node", "4"), "--nproc-per-node is 4, and a pod has 8 GPUs"),
    ],
    "rendezvous": [
        ("job", option(JOB, "--rdzv-endpoint", None), "torchrun's nodes cannot find each other"),
        ("job", option(JOB, "--rdzv-endpoint", "a-0.imagenet:29400"), "names a-0.imagenet, and the first pod"),
        ("job", put(f"{JOB_POD} subdomain", DROP), "the first pod is imagenet-0.(no subdomain)"),
        ("job", option(JOB, "--rdzv-endpoint", "imagenet-0.imagenet:x"), "has the port x: give a number"),
        ("job", put(f"{JOB} ports", []), "meets the others at port 29400, which it does not have"),
        ("job", without("Service"), "there is no Service imagenet, so pods have no names: add it"),
        ("job", put("Service spec clusterIP", DROP), 'one address for all pods, and no names: write "None"'),
        ("job", put("Service spec publishNotReadyAddresses", False), "is looked for before it is ready"),
        ("job", put("Service spec selector", {"a": "b"}), "does not find the pods of Job/imagenet"),
        ("job", put("Service spec ports rendezvous port", 1), "Service/imagenet spec.ports: has no port 29400"),
    ],
    "restarts": [
        ("job", variable(JOB, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "0"), "would meet those before them: set"),
    ],
    "train_jobs": [
        (
            "trainjob",
            put("TrainJob metadata name", "a" * 60),
            f"its pod {'a' * 60}-node-0-1 has no name that DNS takes",
        ),
        ("trainjob", put("TrainJob spec runtimeRef kind", "Runtime"), "runtimeRef.kind: Runtime is no runtime"),
        ("trainjob", put("TrainJob spec runtimeRef name", "other"), "there is no TrainingRuntime other: add"),
        ("trainjob", put("TrainJob spec trainer numNodes", 0), "TrainJob/imagenet spec.trainer.numNodes: is 0"),
        ("trainjob", put("TrainingRuntime spec mlPolicy numNodes", 4), "is 4, and TrainJob/imagenet has 2"),
        (
            "trainjob",
            add("TrainJob spec trainer env", {"name": "PET_NNODES", "value": "2"}),
            "PET_NNODES is the operator's to set: leave it out",
        ),
        ("trainjob", put("TrainJob spec trainer numProcPerNode", 4), "is 4, and a pod has 8 GPUs: one GPU"),
        (
            "trainjob",
            put("TrainJob spec trainer args", ["torchrun", "--nnodes=4", "-m", "trainer", "train"]),
            "--nnodes is 4, and TrainJob/imagenet has 2: leave it out",
        ),
    ],
    "runtimes": [
        ("trainjob", put("TrainingRuntime spec mlPolicy torch", DROP), "nobody tells torchrun of its nodes"),
        ("trainjob", put(f"{NODE_JOB} name", "nodes"), "has no job named node, the one that trains"),
        ("trainjob", put(f"{NODE_JOB} template metadata", {}), "looks for the job by a label: add trainer.kube"),
        ("trainjob", put(f"{NODE_JOB} replicas", 2), "the operator makes the nodes pods of one job: write 1"),
        ("trainjob", put(f"{NODE} name", "trainer"), "none is named node, the one that trains: rename it"),
    ],
    "settings": [
        ("mpijob", put(f"{WORKER} volumeMounts settings", DROP), "nothing is mounted where /etc/trainer/trainer.y"),
        ("job", put("ConfigMap data", {"a": "b"}), "has no trainer.yaml, which the trainer is told to read"),
        ("job", edit("ConfigMap", "^seed: 0", "sead: 0"), "ConfigMap/imagenet data: trainer.yaml: sead: unknown"),
        ("mpijob", edit("ConfigMap", "^collective: auto", "collective: ddp"), "the launcher is horovod's"),
        ("trainjob", edit("ConfigMap", "workers: 16", "workers: 8"), "plans 8 workers, and TrainJob/imagenet has 16"),
        (
            "mpijob-elastic",
            edit("ConfigMap", "^fleet: .*", "fleet: [{epoch: 0, workers: 16}, {epoch: 30, workers: 32}]"),
            "fleet plans 16 workers at first and 32 at most, and MPIJob/imagenet has 16: make",
        ),
        ("job", edit("ConfigMap", "^output: /runs", "output: runs"), "output is runs, which goes with the pod"),
        ("job", put(f"{JOB} volumeMounts runs readOnly", True), "output is /runs, which is mounted readOnly"),
        ("job", edit("ConfigMap", "path: /data/", "path: /images/"), "data.path is /images/imagenet, and nothing"),
    ],
}
