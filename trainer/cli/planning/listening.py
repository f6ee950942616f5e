"""What a plan cannot know: how a run that listens to its gradient noise may differ, and where there is none to hear."""

from __future__ import annotations

from collections.abc import Sequence

from trainer.cli.planning.table import epochs_text
from trainer.config import TrainConfig
from trainer.rule import Phase, RunPlan


def policy_notes(config: TrainConfig, plan: RunPlan) -> list[str]:
    """How the run may turn out otherwise than its plan, by its policy; none where it follows the plan."""
    schedule = config.schedule
    if plan.policy == "measured":
        most = "" if schedule.growth.share == 1 else f"{schedule.growth.share:g} times "
        return [
            f"policy measured: no batch is larger than this; it begins at {_first_batch(config, plan):,}, grows at "
            f"most {schedule.growth.factor:g} times an epoch and up to {most}the measured gradient noise scale; where "
            f"it is smaller so is lr, and g is the same"
        ]
    if plan.policy == "adascale":
        longest = _most_epochs(plan, schedule.reference.global_batch)
        if longest <= plan.epochs:
            return ["policy adascale: no batch is larger than the reference's, so nothing differs"]
        return [
            f"policy adascale: lr is at most this, and an update may count for less than its samples: the run reads "
            f"between {plan.epochs:g} and about {longest:.4g} epochs"
        ]
    return []


def policy_in_short(plan: RunPlan) -> str | None:
    """What to know of a plan that stands beside others; None where the run follows it."""
    match plan.policy:
        case "measured":
            return "policy measured: with the largest batches that it may take; a run may need more updates"
        case "adascale":
            return "policy adascale: as if every update went as far as its samples; a run may need more samples"
        case _:
            return None


def probe_notes(config: TrainConfig, plan: RunPlan) -> list[str]:
    """Where the gradient noise cannot be measured, and what follows for a policy that listens to it.

    An update that is a single ghost batch has no parts to hold against each other. Where model.ghost_batch is null it
    is not known whether the network has batch norm, and nothing is said.
    """
    ghost = config.model.ghost_batch
    if config.gradient_probe.every is None or ghost is None:
        return []
    if plan.policy == "measured" and (never := _measured_from_one_ghost(config, plan, ghost)):
        return never
    deaf = [phase for phase in plan.phases if _is_one_ghost(phase, ghost)]
    if not deaf:
        return []
    always = len(deaf) == len(plan.phases)
    epochs = "" if always else f" in epochs {_spans(deaf)}"
    what = f"the gradient noise is not measured{epochs}: an update is a single ghost batch{'' if always else ' there'}"
    if plan.policy == "adascale":
        if always:
            what += ", and policy adascale never hears anything: it keeps the reference's lr"
        elif deaf[0] is plan.phases[0]:
            what += ", and policy adascale hears nothing at first: it keeps the reference's lr until then"
    return [what + _remedy(min(phase.global_batch for phase in deaf))]


def _measured_from_one_ghost(config: TrainConfig, plan: RunPlan, ghost: int) -> list[str]:
    """Under policy measured the batch does not grow before something is heard: the first update decides."""
    batch = _first_batch(config, plan)
    limit = config.schedule.limits.max_micro_batch
    most = max(phase.micro_batch for phase in plan.phases) if limit == "auto" else limit
    until = next((step.epoch for step in plan.fleet.steps if step.workers > 1), None)
    if until == 0 or batch > most or round(batch / ghost) > 1:
        return []
    what = "the gradient noise is never measured"
    if until is not None and until < plan.epochs:
        what = f"the gradient noise is not measured before epoch {until}"
    return [
        f"{what}: an update of the reference's {batch:,} samples is a single ghost batch, and policy measured hears "
        f"nothing: its batch does not grow{_remedy(batch)}"
    ]


def _remedy(batch: int) -> str:
    """A ghost batch of which an update of so many samples has two; nothing where there is none."""
    return f": model.ghost_batch={max(2, batch // 2)} would let it" if batch >= 3 else ""


def _is_one_ghost(phase: Phase, ghost: int) -> bool:
    return phase.accumulation_steps * phase.world_size == 1 and round(phase.micro_batch / ghost) <= 1


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
