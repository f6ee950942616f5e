"""How long an update takes on a fleet, from what was measured on a worker or a few: and so how long a run takes.

    work    = accumulation x compute(micro-batch) + all-reduce that the last backward does not hide + overhead
    update  = max(work, input) + sharing x min(work, input)

input is what the pipeline needs for a worker's samples. On a GPU it runs beside the work (sharing 0); where images are
decoded on the cores that also train, the two add up (sharing 1), or get in each other's way (above 1). Compute is what
was measured, on straight lines between the measured micro-batches. A prediction outside of what was measured says how
far.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from trainer.rule.all_reduce import AllReduceTime, Fabric, all_reduce_seconds, fit_nonnegative
from trainer.rule.batch_plan import BatchPlan
from trainer.rule.errors import PlanError
from trainer.rule.run_plan import Phase, RunPlan

Bound = Literal["compute", "all-reduce", "input", "overhead"]
LARGEST_SHARING = 2


@dataclass(frozen=True, slots=True)
class ComputeTime:
    """Measured: seconds of one micro-batch forward and backward; spread: quartiles' half distance over the median."""

    micro_batch: int
    forward_s: float
    backward_s: float
    spread: float = 0.0

    def __post_init__(self) -> None:
        if not (self.micro_batch >= 1 and 0 < self.forward_s < math.inf and 0 < self.backward_s < math.inf):
            raise PlanError(
                f"a micro-batch of {self.micro_batch} samples, {self.forward_s:g} s forward and {self.backward_s:g} s "
                f"backward, was never measured: calibrate again"
            )


@dataclass(frozen=True, slots=True)
class StepTimes:
    """What was measured of one worker, and of the fleet that it was measured in.

    compute: ascending micro-batches. update_overhead_s: an update apart from its micro-batches and the all-reduce
    (optimizer, checks, bookkeeping). gradient_bytes: what every update adds up. hidden_share: of the all-reduce or of
    the last backward, whichever is shorter, that ran at the same time. A micro-batch of b images takes one worker's
    pipeline by itself input_s_per_batch + b / input_images_per_s; input_sharing in [0, LARGEST_SHARING]: how much of
    the shorter of work and input is not done beside the other. evaluation_s_per_image: on one worker. epoch_s: what an
    epoch costs apart from its updates and images: starting the stream, saving, recording. workers, nodes: the fleet of
    the measurement.
    """

    compute: tuple[ComputeTime, ...]
    update_overhead_s: float
    gradient_bytes: int
    fabric: Fabric
    all_reduce: tuple[AllReduceTime, ...]
    hidden_share: float
    input_s_per_batch: float
    input_images_per_s: float
    input_sharing: float
    evaluation_s_per_image: float
    validation_size: int
    epoch_s: float
    workers: int
    nodes: int

    def __post_init__(self) -> None:
        sizes = [time.micro_batch for time in self.compute]
        if len(sizes) < 2 or sizes != sorted(set(sizes)):
            raise PlanError(f"the measured micro-batches {sizes} must be two at least, and ascend: calibrate again")

    @property
    def per_node(self) -> int:
        """Workers of a node, in the fullest of the measured fleets."""
        shapes = [(self.workers, self.nodes), *((time.workers, time.nodes) for time in self.all_reduce)]
        return max(-(-workers // nodes) for workers, nodes in shapes)


@dataclass(frozen=True, slots=True)
class UpdateTime:
    """Seconds of one update by part; all_reduce_s is what the backward does not hide, input_s what work does not hide.

    bound: the part that takes longest, or input where the pipeline takes longer than all the work. error: relative, as
    far as the measurement tells; None where it does not (fewer than three micro-batches, nothing to leave out).
    """

    compute_s: float
    all_reduce_s: float
    overhead_s: float
    input_s: float
    bound: Bound
    error: float | None

    @property
    def seconds(self) -> float:
        return self.compute_s + self.all_reduce_s + self.overhead_s + self.input_s


@dataclass(frozen=True, slots=True)
class PhaseTime:
    """A phase of a plan: its updates, and what its epochs cost beside them."""

    phase: Phase
    update: UpdateTime
    evaluation_s: float
    epochs_s: float

    @property
    def seconds(self) -> float:
        return self.phase.updates * self.update.seconds + self.evaluation_s + self.epochs_s

    @property
    def images_per_s(self) -> float:
        """While it trains."""
        return self.phase.global_batch / self.update.seconds

    @property
    def worker_s(self) -> float:
        return self.seconds * self.phase.world_size


@dataclass(frozen=True, slots=True)
class RunTime:
    """A run's phases in time; notes say in words how far outside of the measurement it lies."""

    phases: tuple[PhaseTime, ...]
    notes: tuple[str, ...]

    @property
    def seconds(self) -> float:
        return sum(phase.seconds for phase in self.phases)

    @property
    def worker_hours(self) -> float:
        return sum(phase.worker_s for phase in self.phases) / 3600

    @property
    def error(self) -> float | None:
        """Relative; the phases' weighted by their time, since what is wrong in one is wrong in all."""
        errors = [phase.update.error for phase in self.phases]
        if None in errors:
            return None
        return sum(e * p.seconds for e, p in zip(errors, self.phases, strict=True) if e is not None) / self.seconds


def predict_run(plan: RunPlan, times: StepTimes, per_node: int | None = None) -> RunTime:
    """Seconds of every phase; per_node: workers of a node, None for as many as in the measurement."""
    per_node = per_node or times.per_node
    phases = []
    for phase in plan.phases:
        batch = BatchPlan(phase.micro_batch, phase.accumulation_steps, phase.world_size)
        epochs = phase.last_epoch - phase.first_epoch + 1
        # Every worker evaluates its share; the slowest has it rounded up.
        images = -(-times.validation_size // phase.world_size)
        phases.append(
            PhaseTime(
                phase,
                predict_update(batch, times, nodes=-(-phase.world_size // per_node)),
                evaluation_s=epochs * images * times.evaluation_s_per_image,
                epochs_s=epochs * times.epoch_s,
            )
        )
    return RunTime(tuple(phases), tuple(_notes(plan, times, per_node)))


def predict_update(plan: BatchPlan, times: StepTimes, nodes: int) -> UpdateTime:
    """Seconds of one update of the plan on workers spread evenly over the nodes."""
    forward, backward = _compute_seconds(times.compute, plan.micro_batch)
    compute = plan.accumulation_steps * (forward + backward)
    whole = all_reduce_seconds(times.gradient_bytes, plan.world_size, nodes, times.fabric)
    all_reduce = whole - times.hidden_share * min(whole, backward)
    overhead = times.update_overhead_s
    work = compute + all_reduce + overhead
    input_alone = plan.accumulation_steps * (times.input_s_per_batch + plan.micro_batch / times.input_images_per_s)
    input_s = max(work, input_alone) + times.input_sharing * min(work, input_alone) - work
    parts: dict[Bound, float] = {"compute": compute, "all-reduce": all_reduce, "overhead": overhead}
    bound: Bound = "input" if input_alone > work else max(parts, key=lambda part: parts[part])
    compute_error = _compute_error(times.compute, plan.micro_batch)
    error = None
    if compute_error is not None:
        # An all-reduce that outlasts the backward shows all that it is wrong by, a shorter one what is not hidden.
        unsure = whole if whole > backward else all_reduce
        error = math.hypot(compute_error * compute, times.fabric.error * unsure) / (work + input_s)
    return UpdateTime(compute, all_reduce, overhead, input_s, bound, error)


def _compute_seconds(measured: Sequence[ComputeTime], micro_batch: int) -> tuple[float, float]:
    """Forward and backward: on the straight line between the neighbours; beyond the ends along the fitted line."""
    sizes = [time.micro_batch for time in measured]
    nearest = min(max(micro_batch, sizes[0]), sizes[-1])
    upper = next(i for i, size in enumerate(sizes) if size >= nearest)
    lower = max(upper - 1, 0)
    share = 0.0 if upper == lower else (nearest - sizes[lower]) / (sizes[upper] - sizes[lower])

    def at(values: Sequence[float]) -> float:
        inside = values[lower] + share * (values[upper] - values[lower])
        _, per_sample = fit_nonnegative([[1.0, float(size)] for size in sizes], values)
        return max(inside + per_sample * (micro_batch - nearest), inside * min(1.0, micro_batch / nearest))

    return at([time.forward_s for time in measured]), at([time.backward_s for time in measured])


def _compute_error(measured: Sequence[ComputeTime], micro_batch: int) -> float | None:
    """Relative: how wrong the neighbours would have been about an inner size near it, and how far repeats lie apart."""
    by_size = {time.micro_batch: time for time in measured}
    spread = max(time.spread for time in measured)
    if micro_batch in by_size:
        return by_size[micro_batch].spread
    if len(measured) < 3:
        return None
    wrong = []
    for left_out in measured[1:-1]:
        others = [time for time in measured if time is not left_out]
        seconds = left_out.forward_s + left_out.backward_s
        wrong.append(abs(sum(_compute_seconds(others, left_out.micro_batch)) / seconds - 1))
    return math.hypot(max(wrong), spread)


def _notes(plan: RunPlan, times: StepTimes, per_node: int) -> list[str]:
    notes = []
    smallest, largest = times.compute[0].micro_batch, times.compute[-1].micro_batch
    for size in sorted({phase.micro_batch for phase in plan.phases}):
        if not smallest <= size <= largest:
            factor = size / largest if size > largest else smallest / size
            side = "above" if size > largest else "below"
            notes.append(
                f"micro-batch {size:,} lies {factor:.3g} times {side} what was measured ({smallest:,} to {largest:,})"
            )
    fleets = sorted({phase.world_size for phase in plan.phases if phase.world_size > 1})
    beside, shared = -(-times.workers // times.nodes), min(per_node, max(phase.world_size for phase in plan.phases))
    if shared > beside:
        notes.append(
            f"{shared} workers share a node, and {beside} did where compute and input were measured: what they take "
            f"from each other is not counted"
        )
    measured = sorted({(time.workers, time.nodes) for time in times.all_reduce if time.workers > 1})
    if not fleets:
        return notes
    if not measured:
        return [*notes, "no all-reduce was measured, so none is counted: calibrate under a launcher"]
    if times.workers == 1:
        notes.append(
            "how much of the all-reduce the backward hides was not measured, so none is: calibrate under a launcher"
        )
    most = max(workers for workers, _ in measured)
    if fleets[-1] > most:
        notes.append(
            f"{fleets[-1]:,} workers are {fleets[-1] / most:.3g} times the {most} whose all-reduce was measured"
        )
    if any(fleet > per_node for fleet in fleets) and times.fabric.between is None:
        notes.append("no all-reduce was measured between nodes: it is taken to be as fast as within one")
    shapes = {-(-workers // nodes) for workers, nodes in measured}
    if times.fabric.within is None and min(per_node, fleets[-1]) > max(shapes):
        notes.append(f"no all-reduce was measured with {per_node} workers a node: what they add is not counted")
    return notes
