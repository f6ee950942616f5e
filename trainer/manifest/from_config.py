"""From a run's configuration to what runs in pods: the same run, with the paths that are there."""

from __future__ import annotations

from pathlib import PurePosixPath

from trainer import __version__
from trainer.config import TrainConfig, to_yaml
from trainer.manifest.cluster_run import (
    CALIBRATION_FILE,
    CONFIG_FILE,
    DATA,
    RUNS,
    SETTINGS,
    ClusterRun,
    ManifestError,
    WorkerNeeds,
    dns_name,
)
from trainer.passwords import without_password
from trainer.rule import Fleet

_REGISTRY = "registry.example.com/large-batch-trainer"


def cluster_run(
    config: TrainConfig,
    fleet: Fleet,
    per_node: int,
    *,
    keeps_size: bool,
    grace_s: int,
    name: str | None,
    namespace: str,
    image: str | None,
    cpus: int,
    memory_gib: int,
    calibration: str | None,
) -> ClusterRun:
    """The run as pods run it.

    keeps_size: the job has one fleet from first to last, and the configuration is to refuse any other. name, image:
    None for those that follow from the configuration. cpus, memory_gib: of a worker. calibration: the text of its file.
    Raises ManifestError.
    """
    if without_password(config.tracking.mlflow) != config.tracking.mlflow:
        raise ManifestError(
            "tracking.mlflow: has a user or a password, which everybody could read in a ConfigMap: leave them out, and "
            "put them into the secret mlflow-credentials"
        )
    gpus = 0 if config.device == "cpu" else 1
    texts = {CONFIG_FILE: to_yaml(_in_pods(config, fleet, keeps_size, cpus, calibration is not None))}
    if calibration is not None:
        texts[CALIBRATION_FILE] = calibration
    return ClusterRun(
        name=dns_name(config.name) if name is None else name,
        namespace=namespace,
        image=image or f"{_REGISTRY}:{__version__}" + ("" if gpus else "-cpu"),
        fleet=fleet,
        per_node=per_node,
        needs=WorkerNeeds(gpus, cpus, memory_gib),
        grace_s=grace_s,
        texts=texts,
        uses_images=config.data.path is not None,
        mlflow=config.tracking.mlflow,
    )


def _in_pods(config: TrainConfig, fleet: Fleet, keeps_size: bool, cpus: int, is_calibrated: bool) -> TrainConfig:
    data = config.data.model_copy(
        update={
            "path": _under(DATA, config.data.path, "data.path"),
            "validation_path": _under(DATA, config.data.validation_path, "data.validation_path"),
            "validation_labels": _under(DATA, config.data.validation_labels, "data.validation_labels"),
            # A pod sees all cores of its node, whatever it asked for.
            "threads": config.data.threads or cpus,
        }
    )
    is_planned = keeps_size or not fleet.is_constant
    output = None if config.output == TrainConfig.model_fields["output"].default else config.output
    return config.model_copy(
        update={
            "data": data,
            "output": _under(RUNS, output, "output") or RUNS,
            "fleet": fleet.steps if is_planned else None,
            "calibration": f"{SETTINGS}/{CALIBRATION_FILE}" if is_calibrated else None,
        }
    )


def _under(mount: str, path: str | None, key: str) -> str | None:
    """The path in a pod: beneath where its volume is mounted."""
    if path is None:
        return None
    whole = PurePosixPath(mount, path)
    if whole.parts[:2] != PurePosixPath(mount).parts or ".." in whole.parts:
        raise ManifestError(
            f"{key}={path}: is not in the volume that pods have at {mount}: give the path within it, as in "
            f"{key}={mount}/..."
        )
    return str(whole)
