"""Names that Kubernetes, the operators, torchrun and our images agree on; written here, and looked for by the rules."""

from __future__ import annotations

GPU = "nvidia.com/gpu"
NAME_LABEL, INSTANCE_LABEL, COMPONENT_LABEL, PART_OF_LABEL = (
    f"app.kubernetes.io/{key}" for key in ("name", "instance", "component", "part-of")
)
TRAINER = "large-batch-trainer"  # the project, as labels and images have it

# What the MPI operator mounts in the launcher's pod.
HOSTFILE, DISCOVERY_SCRIPT = "/etc/mpi/hostfile", "/etc/mpi/discover_hosts.sh"
# Kubeflow Trainer: of the job within a runtime that a TrainJob runs.
ANCESTOR_LABEL = "trainer.kubeflow.org/trainjob-ancestor-step"
# 1: torchrun keeps its rendezvous' store to itself.
OWN_STORE = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"
