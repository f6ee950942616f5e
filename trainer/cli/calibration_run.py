"""Measuring for `trainer calibrate`: from what was asked for to the values of the file, on every worker."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from rich.console import Console

from trainer.calibration.all_reduce import measure_all_reduce
from trainer.calibration.calibration import Calibration, timed_settings
from trainer.calibration.errors import CalibrationError
from trainer.calibration.hardware import hardware, versions
from trainer.calibration.measure import measure
from trainer.calibration.sizes import check_sizes, default_sizes, fed_sizes
from trainer.calibration.subject import Subject
from trainer.cli import compose
from trainer.cli.calibration_request import Request
from trainer.cli.compiler import compiler
from trainer.collective.agreement import broadcast_text, together
from trainer.collective.collective import Collective
from trainer.collective.local import LocalCollective
from trainer.environment import Launch
from trainer.rule import decide, plan_run
from trainer.rule.all_reduce import Algorithm


def measure_run(
    request: Request, launch: Launch, collective: Collective, device: torch.device, console: Console
) -> Calibration:
    """All of it; nothing is written yet. Raises WorkerError on every rank, TrainingError."""

    def tell(text: str) -> None:
        console.print(f"measuring {text}")

    config = request.config
    dataset = compose.open_data(config, launch, collective, console)
    # On the run's own fleet; where it names none, on any, also of one worker.
    of_use = together(collective, compose.largest_share, config, dataset.train_size, 1)
    tell("the largest micro-batch that fits into memory")
    at_most = max(of_use, *request.sizes) if request.sizes else of_use
    fits = compose.find_max_micro_batch(config, dataset, launch, collective, device, at_most)
    limit = config.schedule.limits.max_micro_batch
    if limit != "auto" and fits < min(limit, of_use):
        console.print(f"note: schedule.limits.max_micro_batch is {limit}, and {fits} fit into memory")
    runs = config.with_max_micro_batch(min(fits, fits if limit == "auto" else limit))
    schedule = runs.rule_schedule(dataset.train_size)
    sizes = request.sizes or together(
        collective, default_sizes, min(schedule.max_micro_batch, of_use), config.model.ghost_batch
    )
    together(collective, check_sizes, sizes, fits)
    fleet = config.rule_fleet(collective.world_size)
    plan = together(collective, plan_run, schedule, fleet)
    compiled = together(collective, compiler, config.compile, device)
    parts = together(collective, compose.build_parts, runs, dataset, launch, device)
    with contextlib.closing(parts.pipeline), _folder_beside(request.file, collective) as folder:
        subject = Subject(
            collective=collective,
            alone=LocalCollective(),
            nodes=_nodes(launch),
            model=parts.model,
            optimizer=parts.optimizer,
            pipeline=parts.pipeline,
            schedule=schedule,
            decision=decide(schedule, 0, fleet.workers_at(0)),
            validation_size=dataset.validation_size,
            classes=len(dataset.class_names),
            device=device,
            autocast_to=compose.autocast_type(config),
            memory_format=compose.memory_format(config, device),
            compiled=compiled,
            wire=compose.wire_type(config),
        )
        algorithm = _algorithm(collective, device)
        times = measure(subject, sizes, fed_sizes(plan, sizes), algorithm, folder, request.seconds, tell)
    return Calibration(
        measured_at=broadcast_text(collective, _now()),
        settings=timed_settings(config),
        hardware=hardware(device),
        versions=versions(),
        collective=collective.name,
        algorithm=algorithm,
        workers=times.workers,
        nodes=times.nodes,
        max_micro_batch=fits,
        compute=times.compute,
        update_overhead_s=times.update_overhead_s,
        gradient_bytes=times.gradient_bytes,
        all_reduce=times.all_reduce,
        hidden_share=times.hidden_share,
        input_s_per_batch=times.input_s_per_batch,
        input_images_per_s=times.input_images_per_s,
        input_sharing=times.input_sharing,
        evaluation_s_per_image=times.evaluation_s_per_image,
        validation_size=times.validation_size,
        epoch_s=times.epoch_s,
    )


def measure_fleet(
    request: Request,
    existing: Calibration,
    launch: Launch,
    collective: Collective,
    device: torch.device,
    console: Console,
) -> Calibration:
    """The calibration with this fleet's all-reduce, in the place of what it had of such a fleet. Raises WorkerError."""
    algorithm, nodes = _algorithm(collective, device), _nodes(launch)

    def check() -> None:
        if collective.world_size == 1:
            raise CalibrationError(
                f"--add-to {request.file}: one worker has nobody to add up with: start several with horovodrun or "
                f"torchrun"
            )
        theirs, ours = (existing.collective, existing.algorithm), (collective.name, algorithm)
        if existing.all_reduce and theirs != ours:
            raise CalibrationError(
                f"{request.file}: its all-reduce was measured through {' with the algorithm '.join(theirs)}, and this "
                f"fleet's goes through {' with the algorithm '.join(ours)}: calibrate anew with --output"
            )

    together(collective, check)
    measured = measure_all_reduce(
        collective,
        nodes,
        device,
        compose.wire_type(request.config),
        existing.gradient_bytes,
        request.seconds,
        lambda text: console.print(f"measuring {text}"),
    )
    others = tuple(time for time in existing.all_reduce if (time.workers, time.nodes) != (collective.world_size, nodes))
    return existing.model_copy(
        update={"all_reduce": others + measured, "collective": collective.name, "algorithm": algorithm}
    )


def _nodes(launch: Launch) -> int:
    return -(-launch.world_size // launch.local_size)


def _algorithm(collective: Collective, device: torch.device) -> Algorithm:
    """NCCL takes the faster of its algorithms, Gloo and MPI are taken for rings."""
    if device.type != "cuda" or collective.name == "local":
        return "ring"
    if collective.name == "ddp":
        return "fastest"
    from trainer.collective.hvd import built_with_nccl

    return "fastest" if built_with_nccl() else "ring"


@contextlib.contextmanager
def _folder_beside(file: Path, collective: Collective) -> Iterator[Path]:
    """A folder for trial files on rank 0's disk, where the calibration goes."""
    if collective.rank > 0:
        yield Path()  # which nobody writes to
        return
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=".calibrate-") as folder:
        yield Path(folder)


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
