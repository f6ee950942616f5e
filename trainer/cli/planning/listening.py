"""What a plan cannot know: how a run that listens to its gradient noise may differ, and where there is none to hear."""

from __future__ import annotations

from collections.abc import Sequence

from trainer.cli.planning.table import epochs_text
from trainer.config import TrainConfig
from trainer.rule import Phase, RunPlan

AT_LEAST = "at least "  # before updates and times of a run that may take more


def may_take_more(config: TrainConfig, plan: RunPlan) -> bool:
    """Whether the run may need more updates than its plan, by what it hears; never fewer."""
    reference = config.schedule.reference.global_batch
    match plan.policy:
        case "measured":
            # Nothing needs to be heard for the batch before, nor for a sample for every worker.
            before = [reference, *(phase.global_batch for phase in plan.phases[:-1])]
            least = (max(batch, phase.world_size) for batch, phase in zip(before, plan.phases, strict=True))
            return any(phase.global_batch > batch for batch, phase in zip(least, plan.phases, strict=True))
        case "adascale":
            return any(phase.global_batch > reference for phase in plan.phases)
        case _:
            return False


def policy_notes(config: TrainConfig, plan: RunPlan) -> list[str]:
    """How the run may turn out otherwise than its plan, by its policy; none under the policy that follows it."""
    schedule, differs = config.schedule, may_take_more(config, plan)
    if plan.policy == "measured":
        if not differs:
            return ["policy measured: the schedule never raises the batch, so nothing differs from policy planned"]
        most = "" if schedule.growth.share == 1 else f"{schedule.growth.share:g} times "
        return [
            f"policy measured: no batch is larger than this; it begins at {_first_batch(config, plan):,}, grows at "
            f"most {schedule.growth.factor:g} times an epoch and up to {most}the measured gradient noise scale; where "
            f"it is smaller so is lr, and g is the same"
        ]
    if plan.policy == "adascale":
        if not differs:
            return ["policy adascale: no batch is larger than the reference's, so nothing differs from policy planned"]
        longest = _most_epochs(plan, schedule.reference.global_batch)
        return [
            f"policy adascale: lr is at most this, and an update may count for less than its samples: the run reads "
            f"between {plan.epochs:g} and about {longest:.4g} epochs"
        ]
    return []


def policy_in_short(config: TrainConfig, plan: RunPlan) -> str | None:
    """What to know of a plan that stands beside others; None where the run follows it."""
    if not may_take_more(config, plan):
        return None
    what, more = {
        "measured": ("with the largest batches that it may take", "updates"),
        "adascale": ("as if every update went as far as its samples", "samples"),
    }[plan.policy]
    return f"policy {plan.policy}: {what}; a run may need more {more}, time and worker-hours"


def probe_notes(config: TrainConfig, plan: RunPlan) -> list[str]:
    """Where the gradient noise cannot be measured, and what follows for a policy that listens to it.

    Samples that are normalised together have no parts to hold against each other: an update that is a single ghost
    batch; and where model.ghost_batch is null one that is a single micro-batch, if the network has batch norm.
    """
    if config.gradient_probe.every is None:
        return []
    ghost, listens = config.model.ghost_batch, may_take_more(config, plan)
    if plan.policy == "measured" and listens and (never := _measured_from_one_draw(config, plan)):
        return never
    deaf = [phase for phase in plan.phases if _is_one_draw(phase, ghost)]
    if not deaf:
        return []
    always = len(deaf) == len(plan.phases)
    epochs = "" if always else f" in epochs {_spans(deaf)}"
    what = f"the gradient noise is not measured{epochs}{_if_any(ghost)}: an update is {_draw(ghost)}"
    if not always:
        what += " there"
    if plan.policy == "adascale" and listens:
        if always:
            what += ", and policy adascale never hears anything: it keeps the reference's lr"
        elif deaf[0] is plan.phases[0]:
            what += ", and policy adascale hears nothing at first: it keeps the reference's lr until then"
    return [what + _remedy(min(phase.global_batch for phase in deaf))]


def _measured_from_one_draw(config: TrainConfig, plan: RunPlan) -> list[str]:
    """Under policy measured the batch does not grow before something is heard: the first update decides."""
    ghost, batch = config.model.ghost_batch, _first_batch(config, plan)
    limit = config.schedule.limits.max_micro_batch
    most = max(phase.micro_batch for phase in plan.phases) if limit == "auto" else limit
    until = next((step.epoch for step in plan.fleet.steps if step.workers > 1), None)
    if until == 0 or batch > most or not _is_one_ghost(batch, ghost):
        return []
    what = "the gradient noise is never measured"
    if until is not None and until < plan.epochs:
        what = f"the gradient noise is not measured before epoch {until}"
    return [
        f"{what}{_if_any(ghost)}: an update of the reference's {batch:,} samples is {_draw(ghost)}, and policy "
        f"measured hears nothing: its batch does not grow{_remedy(batch)}"
    ]


def _draw(ghost: int | None) -> str:
    """An update that has no two parts."""
    return "one micro-batch of one worker" if ghost is None else "a single ghost batch"


def _if_any(ghost: int | None) -> str:
    """A plan builds no network: without a ghost batch it does not know whether there is batch norm."""
    return " if the network has batch norm" if ghost is None else ""


def _remedy(batch: int) -> str:
    """A ghost batch of which an update of so many samples has two; nothing where there is none."""
    return f": model.ghost_batch={max(2, batch // 2)} would let it" if batch >= 3 else ""


def _is_one_draw(phase: Phase, ghost: int | None) -> bool:
    return phase.accumulation_steps * phase.world_size == 1 and _is_one_ghost(phase.micro_batch, ghost)


def _is_one_ghost(samples: int, ghost: int | None) -> bool:
    """Whether batch norm takes a micro-batch of so many samples as a whole."""
    return ghost is None or round(samples / ghost) <= 1


def _first_batch(config: TrainConfig, plan: RunPlan) -> int:
    """What policy measured begins with: the reference's batch, whatever the start, as the fleet can share it."""
    first = plan.phases[0]
    each = max(1, config.schedule.reference.global_batch // first.world_size)
    return min(first.global_batch, each * first.world_size)


def _most_epochs(plan: RunPlan, reference_batch: int) -> float:
    """Epochs that the run reads if all of its updates count as one of the reference's."""
    batches = ((phase.global_batch, phase.updates) for phase in plan.phases)
    samples = sum(updates * batch * max(1.0, batch / reference_batch) for batch, updates in batches)
    return plan.epochs * samples / plan.total_samples


def _spans(phases: Sequence[Phase]) -> str:
    """Their epochs, those of neighbours as one span."""
    spans: list[tuple[int, int]] = []
    for phase in phases:
        goes_on = spans and spans[-1][1] + 1 == phase.first_epoch
        first = spans.pop()[0] if goes_on else phase.first_epoch
        spans.append((first, phase.last_epoch))
    return ", ".join(epochs_text(first, last) for first, last in spans)
