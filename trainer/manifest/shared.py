"""What every run has beside its job: its settings, and who may talk to its pods."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from trainer.manifest.cluster_run import MLFLOW_URI, ClusterRun, ManifestError
from trainer.manifest.pod import Tree, metadata, selector

_DNS_PORTS = [{"protocol": protocol, "port": 53} for protocol in ("UDP", "TCP")]
_USUAL_PORTS = {"http": 80, "https": 443, "databricks": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}


def settings(run: ClusterRun) -> Tree:
    """The ConfigMap of the files in /etc/trainer."""
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata(run), "data": dict(run.texts)}


def network_policy(run: ClusterRun) -> Tree:
    """The run's pods and nobody else reach each other: neither gradients nor rendezvous are authenticated.

    Raises ManifestError where nobody can tell how its MLflow server is reached.
    """
    own = {"podSelector": {"matchLabels": selector(run)}}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(run),
        "spec": {
            "podSelector": {"matchLabels": selector(run)},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": [own]}],
            "egress": [{"to": [own]}, {"to": [{"namespaceSelector": {}}], "ports": _DNS_PORTS}, *_to_mlflow(run)],
        },
    }


def _to_mlflow(run: ClusterRun) -> list[Tree]:
    """The rule that lets rank 0 reach its MLflow store, if that is on the network."""
    if run.mlflow == "auto":
        server = {"podSelector": {"matchLabels": {"app.kubernetes.io/name": "mlflow"}}}
        return [{"to": [server], "ports": [{"protocol": "TCP", "port": urlsplit(MLFLOW_URI).port}]}]
    scheme = re.split("[:+]", run.mlflow)[0]
    try:
        port = urlsplit(run.mlflow).port or _USUAL_PORTS.get(scheme)
    except ValueError as error:
        raise ManifestError(f"tracking.mlflow={run.mlflow}: {error}: give http://HOST:PORT") from None
    # Wherever it is: a policy knows addresses, and no names.
    return [{"ports": [{"protocol": "TCP", "port": port}]}] if port else []
