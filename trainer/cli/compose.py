"""From a configuration to the parts of a run: data, schedule, network, optimizer, input pipeline."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn
from torch.optim import Optimizer

from dali_pipelines.pipeline import Dataset, InputPipeline, open_dataset, open_pipeline
from trainer.cli.fleet import FleetError, cores_per_worker
from trainer.collective.agreement import first_rank_that_differs, together
from trainer.collective.collective import Collective
from trainer.config import ConfigError, TrainConfig
from trainer.engine.optimizer import build_optimizer
from trainer.environment import Launch, cache_folder
from trainer.models import build_model


def open_data(config: TrainConfig, launch: Launch, collective: Collective, console: Console) -> Dataset:
    """The data set, the same on every rank: one worker a host builds what is missing, then the others open it.

    Raises DataError, or ConfigError where data.train_size says otherwise; FleetError where hosts see different data.
    """
    first = together(collective, lambda: _open(config, console) if launch.local_rank == 0 else None)
    dataset = together(collective, lambda: first or _open(config, console))

    def check() -> None:
        differs = first_rank_that_differs(collective, dataset.digest)
        if differs is not None:
            raise FleetError(
                f"rank {differs} sees other images than rank 0 under data.path {config.data.path}: give every host the "
                f"same files"
            )
        if config.data.train_size not in (None, dataset.train_size):
            raise ConfigError(
                f"data.train_size is {config.data.train_size}, and the training set has {dataset.train_size} images: "
                f"set data.train_size={dataset.train_size}, or null"
            )

    together(collective, check)
    return dataset


def _open(config: TrainConfig, console: Console) -> Dataset:
    data = config.data
    columns = (TextColumn("indexing images"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None)
        return open_dataset(
            data.format,
            data.path,
            validation_path=data.validation_path,
            validation_labels=data.validation_labels,
            in_memory=data.in_memory,
            cache=cache_folder(),
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )


@dataclass(frozen=True, slots=True)
class Parts:
    """What one worker trains with."""

    model: nn.Module
    optimizer: Optimizer
    pipeline: InputPipeline


def build_parts(config: TrainConfig, dataset: Dataset, launch: Launch, device: torch.device) -> Parts:
    """Network, optimizer and input pipeline on this worker's device. Raises ModelError or DataError."""
    torch.manual_seed(config.seed)
    model = build_model(
        config.model.name,
        len(dataset.class_names),
        config.model.ghost_batch,
        zero_init=config.model.zero_init,
        image_size=config.data.image_size,
    ).to(device)
    # Where it starts: the loop sets both before every update.
    lr, momentum = config.schedule.start.lr_and_momentum(config.schedule.reference)
    optimizer = build_optimizer(
        config.optimizer.name,
        model,
        lr=lr,
        momentum=momentum,
        weight_decay=config.optimizer.weight_decay,
        decay_norms_and_biases=config.optimizer.decay_norms_and_biases,
        adam=config.optimizer.adam_constants,
        trust_coefficient=config.optimizer.trust_coefficient,
    )
    pipeline = open_pipeline(
        dataset,
        seed=config.seed,
        image_size=config.data.image_size,
        augmentation=config.data.augmentation,
        mean=config.data.mean,
        std=config.data.std,
        max_micro_batch=config.schedule.limits.max_micro_batch,
        device=device,
        decoder=config.data.decoder,
        threads=config.data.threads or cores_per_worker(launch),
    )
    return Parts(model, optimizer, pipeline)


def autocast_type(config: TrainConfig) -> torch.dtype | None:
    """The type that forward and backward compute in where it is not float32."""
    return torch.bfloat16 if config.precision == "bfloat16" else None


def describe(
    config: TrainConfig, launch: Launch, collective: Collective, dataset: Dataset, parts: Parts, device: torch.device
) -> dict[str, str]:
    """What runs where on what, for the first lines of the output and for the run's tags."""
    parameters = sum(parameter.numel() for parameter in parts.model.parameters())
    height, width = dataset.mean_size
    return {
        "launcher": launch.launcher,
        "collective": collective.name,
        "world_size": str(collective.world_size),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "precision": config.precision,
        "threads": str(torch.get_num_threads()),
        "torch": torch.__version__,
        "model": f"{config.model.name}, {parameters:,} parameters",
        "data": f"{config.data.format}, {dataset.train_size:,} + {dataset.validation_size:,} images of about "
        f"{width}x{height}, {len(dataset.class_names)} classes",
    }
