"""Which micro-batches are measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from trainer.calibration.errors import CalibrationError
from trainer.rule import RunPlan

_MOST_SIZES = 6
_FEWEST_SIZES = 3


def parse_sizes(text: str) -> tuple[int, ...]:
    """Ascending sizes from "8,16,32". Raises CalibrationError."""
    try:
        sizes = tuple(sorted({int(word) for word in text.split(",")}))
    except ValueError:
        raise CalibrationError(f"--micro-batches {text}: sizes are whole numbers with commas: give 8,16,32") from None
    if sizes[0] < 1:
        raise CalibrationError(f"--micro-batches {text}: a micro-batch has at least one sample: leave {sizes[0]} out")
    if len(sizes) < 2:
        raise CalibrationError(
            f"--micro-batches {text}: how the time grows with the size needs two sizes at least, and three to know "
            f"how well: give {sizes[0]},{2 * sizes[0]},{4 * sizes[0]}"
        )
    return sizes


def default_sizes(largest: int, ghost_batch: int | None) -> tuple[int, ...]:
    """The largest, and powers of two times the ghost batch (or of two) below it: six at the most.

    Three at least, the smallest then below the ghost batch. Raises CalibrationError where there are no two sizes.
    """
    if largest < 2:
        raise CalibrationError(
            f"this run has micro-batches of {largest} sample only, and how the time grows with the size needs two "
            f"sizes: name them with --micro-batches 1,2,4"
        )
    unit = 1 if ghost_batch is None else ghost_batch
    powers = [unit * 2**power for power in range(largest.bit_length()) if unit * 2**power < largest]
    sizes = [*powers[-(_MOST_SIZES - 1) :], largest]
    while len(sizes) < _FEWEST_SIZES and sizes[0] > 1:
        sizes.insert(0, -(-sizes[0] // 2))
    return tuple(sizes)


def fed_sizes(plan: RunPlan, sizes: Sequence[int]) -> tuple[int, ...]:
    """The run's own micro-batches: the smallest, the one in which it reads most of its images, and the largest.

    None above the largest of the measured sizes; of one that remains, that and half of it.
    """
    images: Counter[int] = Counter()
    for phase in plan.phases:
        images[min(phase.micro_batch, sizes[-1])] += phase.updates * phase.global_batch
    (main, _), *_ = images.most_common(1)
    chosen = {min(images), main, max(images)}
    return tuple(sorted(chosen if len(chosen) > 1 else {main, -(-main // 2)}))


def check_sizes(sizes: tuple[int, ...], fits: int) -> None:
    """Raises CalibrationError where a size does not fit into memory."""
    if sizes[-1] > fits:
        raise CalibrationError(
            f"--micro-batches {','.join(map(str, sizes))}: at most {fits} samples fit into memory here: leave out "
            f"what is above"
        )
