"""What schemas cannot see in manifests: numbers that must agree, and names that must lead somewhere.

Rules are functions from a Manifest to problems. They are fed with files that people have changed, so whatever the
documents hold, they answer with problems and raise nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from trainer.manifest import (
    rules_links,
    rules_mpi_job,
    rules_pod,
    rules_security,
    rules_settings,
    rules_shape,
    rules_torchrun,
)
from trainer.manifest.rules_view import Manifest, Problem, in_python, read_manifest

__all__ = ["RULES", "SHARED_PARTS", "Problem", "problems"]

Rule = Callable[[Manifest], Iterator[Problem]]

RULES: tuple[Rule, ...] = (
    rules_shape.wrong_types,
    rules_shape.kinds_and_names,
    rules_shape.duplicates,
    rules_links.namespaces,
    rules_mpi_job.roles,
    rules_mpi_job.operators_choices,
    rules_mpi_job.worker_counts,
    rules_mpi_job.hosts,
    rules_mpi_job.elastic,
    rules_mpi_job.ssh,
    rules_torchrun.indexed_jobs,
    rules_torchrun.rendezvous,
    rules_torchrun.restarts,
    rules_torchrun.train_jobs,
    rules_torchrun.runtimes,
    rules_settings.settings,
    rules_links.references,
    rules_links.shared_claims,
    rules_links.workload_selectors,
    rules_links.services,
    rules_links.network_policies,
    rules_links.tracking_servers,
    rules_pod.images,
    rules_pod.mounts,
    rules_pod.shared_memory,
    rules_pod.grace_periods,
    rules_pod.restart_policies,
    rules_pod.restarts_resume,
    rules_pod.ports,
    rules_pod.gpu_capabilities,
    rules_pod.labels,
    rules_security.hosts_are_closed,
    rules_security.no_root,
    rules_security.no_new_privileges,
    rules_security.resources,
)

SHARED_PARTS = frozenset({"Namespace/training", "PersistentVolumeClaim/images", "PersistentVolumeClaim/runs",
                          "Secret/mlflow-postgres", "Service/mlflow"})  # fmt: skip
"""What k8s/base puts into the cluster (the Secret: what it asks for), once for all runs: for `known`."""


def problems(documents: Sequence[object], known: Collection[str] = ()) -> list[Problem]:
    """What is wrong with documents that are applied together, in the order of the rules; nothing where all is well.

    known: what is in the cluster besides, as "Secret/mlflow-postgres". Objects refer to others by name; those that are
    neither here nor known are problems.
    """
    manifest = read_manifest(documents, frozenset(known))
    found = [
        Problem(f"document {place}", f"is {in_python(document)}: an object with kind and metadata is needed")
        for place, document in enumerate(documents, start=1)
        if not isinstance(document, Mapping)
    ]
    found += [problem for rule in RULES for problem in rule(manifest)]
    return list(dict.fromkeys(found))  # two places that disagree may both be told of it
