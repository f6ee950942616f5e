"""What is measured: the parts of a run on one worker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.optim import Optimizer

from trainer.collective.collective import Collective
from trainer.engine.job import InputPipeline
from trainer.rule import EpochDecision, Schedule


@dataclass(frozen=True, slots=True)
class Subject:
    """A run's parts on this worker, as its loop would get them; model and optimizer are used up.

    alone: a fleet of one, for what a worker takes when no gradients travel. nodes: machines that the fleet is on.
    validation_size in images; classes: how many labels there are. decision: what the optimizer hears before an update.
    memory_format: how the pipeline's images lie in memory. compiled: what the loop makes of a module that it trains.
    wire: the type in which gradients travel, None for their own.
    """

    collective: Collective
    alone: Collective
    nodes: int
    model: nn.Module
    optimizer: Optimizer
    pipeline: InputPipeline
    schedule: Schedule
    decision: EpochDecision
    validation_size: int
    classes: int
    device: torch.device
    autocast_to: torch.dtype | None
    memory_format: torch.memory_format
    compiled: Callable[[nn.Module], nn.Module]
    wire: torch.dtype | None
