"""What a run is to do and where it begins, settled by all workers together before anything is built."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from rich.console import Console

from dali_pipelines.pipeline import Dataset
from trainer.cli import compose, resume
from trainer.cli.elastic import check_elastic, check_folder_is_shared
from trainer.cli.fleet import choose_device
from trainer.cli.join import check_same_configuration
from trainer.cli.plan import plan_for_fleet
from trainer.cli.planning.timing import Timing, open_timing
from trainer.cli.resume import Resumption
from trainer.collective.agreement import together
from trainer.collective.collective import Collective
from trainer.config import TrainConfig
from trainer.engine.run_state import Standing
from trainer.environment import Launch
from trainer.rule import Fleet, RunPlan, Schedule
from trainer.rule.step_time import RunTime


@dataclass(frozen=True, slots=True)
class Task:
    """A run before it is built.

    given: the configuration as it was written; config: the same with a number where max_micro_batch was auto. time:
    what was predicted, on rank 0. identity: what must be the same for the run to be taken up again. resumed: None where
    it starts anew.
    """

    given: TrainConfig
    config: TrainConfig
    device: torch.device
    dataset: Dataset
    fleet: Fleet
    plan: RunPlan
    time: RunTime | None
    identity: Mapping[str, str]
    resumed: Resumption | None

    @property
    def schedule(self) -> Schedule:
        """The coordinator's."""
        return self.config.rule_schedule(self.dataset.train_size)

    @property
    def start(self) -> Standing:
        """Where the run begins."""
        return Standing() if self.resumed is None else self.resumed.standing


def prepare(args: argparse.Namespace, launch: Launch, collective: Collective, console: Console) -> Task:
    """Whatever is wrong with what was given is found here, the cheap things first.

    Raises WorkerError on every rank.
    """
    given = resume.load_configuration(args, collective)
    together(collective, check_same_configuration, collective, given)
    device = together(collective, choose_device, given.device, launch)
    fleet = given.rule_fleet(collective.world_size)
    together(collective, check_elastic, launch, args.resume)
    if launch.is_elastic:
        check_folder_is_shared(given.output, args.resume, collective)
    promised_size = given.data.train_size
    if promised_size is not None and given.schedule.limits.max_micro_batch != "auto":
        # an impossible fleet is told so before any image is looked for
        together(collective, plan_for_fleet, given, promised_size, fleet)
    timing = together(collective, lambda: _open_timing(given, launch) if collective.rank == 0 else None)
    dataset = compose.open_data(given, launch, collective, console)
    config = compose.resolve_max_micro_batch(given, dataset, launch, collective, device)
    plan = together(collective, plan_for_fleet, config, dataset.train_size, fleet)
    time = None if timing is None else timing.predict(plan)
    identity = resume.identity_of(given, dataset.digest)
    resumed = resume.find(args.resume, given, identity, collective, console) if args.resume else None
    return Task(given, config, device, dataset, fleet, plan, time, identity, resumed)


def _open_timing(config: TrainConfig, launch: Launch) -> Timing | None:
    timing = open_timing(config, per_node=launch.local_size)
    if timing is not None:
        timing.fit(config)
    return timing
