"""From a configuration to the parts of a run: data, schedule, network, optimizer, input pipeline."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn
from torch.optim import Optimizer

from dali_pipelines.pipeline import Dataset, InputPipeline, open_dataset, open_pipeline
from dali_pipelines.sample_order import Shard
from trainer.calibration.calibration import check_settings, read_calibration
from trainer.calibration.hardware import device_name
from trainer.calibration.memory import Occupy, largest_micro_batch, whole_ghosts
from trainer.calibration.stopwatch import everybodys
from trainer.cli.fleet import FleetError, cores_per_worker
from trainer.collective.agreement import first_rank_that_differs, together
from trainer.collective.collective import Collective
from trainer.collective.local import LocalCollective
from trainer.config import ConfigError, TrainConfig
from trainer.engine.evaluate import evaluate
from trainer.engine.guarded_input import GuardedInput
from trainer.engine.optimizer import build_optimizer
from trainer.engine.update import run_update
from trainer.environment import Launch, cache_folder
from trainer.models import build_model
from trainer.rule import BatchPlan, plan_run


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
    model, optimizer = _build_network(config, dataset, device)
    return Parts(model, optimizer, _open_input(config, dataset, launch, device))


def _build_network(config: TrainConfig, dataset: Dataset, device: torch.device) -> tuple[nn.Module, Optimizer]:
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
        fused=config.optimizer.fused,
    )
    return model, optimizer


def _open_input(config: TrainConfig, dataset: Dataset, launch: Launch, device: torch.device) -> InputPipeline:
    max_micro_batch = config.schedule.limits.max_micro_batch
    assert max_micro_batch != "auto", "resolve_max_micro_batch comes first"
    return open_pipeline(
        dataset,
        seed=config.seed,
        image_size=config.data.image_size,
        augmentation=config.data.augmentation,
        mean=config.data.mean,
        std=config.data.std,
        max_micro_batch=max_micro_batch,
        device=device,
        memory_format=memory_format(config, device),
        decoder=config.data.decoder,
        hw_decoder_load=config.data.hw_decoder_load,
        threads=config.data.threads or cores_per_worker(launch),
        max_unreadable=config.data.max_unreadable,
    )


def resolve_max_micro_batch(
    config: TrainConfig, dataset: Dataset, launch: Launch, collective: Collective, device: torch.device
) -> TrainConfig:
    """The run with a number where schedule.limits.max_micro_batch is auto: what fits on every worker, and is of use.

    Taken from the configuration's calibration where that was measured on such a device with no fewer workers a host,
    else found by trying. Raises WorkerError on every rank where the calibration is none of this run, where the fleet
    cannot share the run's batches, or where not one sample fits.
    """
    if config.schedule.limits.max_micro_batch != "auto":
        return config
    at_most = together(collective, largest_share, config, dataset.train_size, collective.world_size)
    # Files may differ from host to host, and what is not known on one is measured on all.
    known = everybodys(collective, together(collective, _calibrated_max_micro_batch, config, launch, device))
    if min(known) > 0:
        fits = int(min(known))
        return config.with_max_micro_batch(at_most if fits >= at_most else whole_ghosts(fits, config.model.ghost_batch))
    return config.with_max_micro_batch(find_max_micro_batch(config, dataset, launch, collective, device, at_most))


def largest_share(config: TrainConfig, dataset_size: int, workers: int) -> int:
    """The most samples that one of so many workers ever has in an update of the run. Raises PlanError."""
    schedule = config.with_max_micro_batch(dataset_size).rule_schedule(dataset_size)
    plan = plan_run(schedule, config.rule_fleet(workers))
    return max(phase.global_batch // phase.world_size for phase in plan.phases)


def _calibrated_max_micro_batch(config: TrainConfig, launch: Launch, device: torch.device) -> int:
    """0 where the configuration's calibration does not tell."""
    if config.calibration is None:
        return 0
    calibration = read_calibration(Path(config.calibration))
    check_settings(calibration, config, config.calibration)
    same_device = calibration.hardware.get("device") == device_name(device)
    enough_workers = -(-calibration.workers // calibration.nodes) >= launch.local_size
    return calibration.max_micro_batch if same_device and enough_workers else 0


def find_max_micro_batch(
    config: TrainConfig, dataset: Dataset, launch: Launch, collective: Collective, device: torch.device, at_most: int
) -> int:
    """The largest micro-batch of at most `at_most` samples that fits into every worker's memory: see
    trainer.calibration.memory. Raises WorkerError on every rank."""

    def search() -> int:
        with _occupying(config.with_max_micro_batch(at_most), dataset, launch, device) as occupy:
            return largest_micro_batch(
                occupy, device, at_most=at_most, ghost_batch=config.model.ghost_batch, local_size=launch.local_size
            )

    return int(min(everybodys(collective, together(collective, search))))


@contextlib.contextmanager
def _occupying(config: TrainConfig, dataset: Dataset, launch: Launch, device: torch.device) -> Iterator[Occupy]:
    """Gives what trainer.calibration.memory tries sizes with: an update and an evaluation, alone, with a pipeline."""
    model, optimizer = _build_network(config, dataset, device)
    for group in optimizer.param_groups:
        group["lr"] = 0.0  # a batch as small as those tried may not stand the run's lr
    alone, autocast_to = LocalCollective(), autocast_type(config)

    @contextlib.contextmanager
    def open_input(micro_batch: int) -> Iterator[InputPipeline]:
        with contextlib.closing(_open_input(config.with_max_micro_batch(micro_batch), dataset, launch, device)) as one:
            yield one

    @contextlib.contextmanager
    def occupy(micro_batch: int) -> Iterator[None]:
        with contextlib.nullcontext(held) if held is not None else open_input(micro_batch) as pipeline:
            plan = BatchPlan(micro_batch, 2, 1)
            batches = pipeline.batches(Shard(0, 1, micro_batch, plan.accumulation_steps, 0, plan.global_batch))
            run_update(model, optimizer, alone, batches, plan, autocast_to)
            share = -(-dataset.validation_size // micro_batch)
            images = GuardedInput(lambda: pipeline.evaluation_batches(0, share, micro_batch))
            evaluate(model, images, alone, device, autocast_to)
            yield

    with contextlib.ExitStack() as stack:
        # Images in memory take the same whatever the micro-batch, and reading them takes its time.
        held = None
        if dataset.in_memory:
            held = stack.enter_context(contextlib.closing(_open_input(config, dataset, launch, device)))
        yield occupy


def autocast_type(config: TrainConfig) -> torch.dtype | None:
    """The type that forward and backward compute in where it is not float32."""
    return torch.bfloat16 if config.precision == "bfloat16" else None


def memory_format(config: TrainConfig, device: torch.device) -> torch.memory_format:
    """How images, and with them all activations, lie in memory. Parameters stay as they are: what the optimizer, the
    checkpoints and the workers' messages hold does not depend on it."""
    if config.memory_format == "auto":
        # On a GPU in float32 it depends on the network and on the chip.
        is_faster = device.type == "cpu" or config.precision == "bfloat16"
        return torch.channels_last if is_faster else torch.contiguous_format
    return torch.channels_last if config.memory_format == "channels_last" else torch.contiguous_format


def wire_type(config: TrainConfig) -> torch.dtype | None:
    """The type in which gradients travel where it is not their own."""
    return torch.float16 if config.gradients.wire == "float16" else None


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
