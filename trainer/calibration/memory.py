"""The largest micro-batch that a worker's memory holds, beside its input pipeline and with head-room."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch

from trainer.calibration.errors import CalibrationError
from trainer.calibration.host_memory import forget_peak, obtainable_bytes, peak_bytes
from trainer.user_errors import is_users

# Encloses a moment at which everything is in memory that a run holds with micro-batches of so many samples.
Occupy = Callable[[int], AbstractContextManager[object]]

HEAD_ROOM = 0.1  # of a GPU's memory; on the CPU of what a worker may have
_FINENESS = 16  # a search ends when a sixteenth is left to gain
_FIRST_TRY = 8
_CPU_TRIES = (2, 4, 8, 16)
_OUT_OF_MEMORY = ("out of memory", "bad_alloc", "alloc_failed", "allocat")


def largest_micro_batch(
    occupy: Occupy, device: torch.device, *, at_most: int, ghost_batch: int | None, local_size: int
) -> int:
    """Samples that fit, `at_most` where that many do, else a multiple of the ghost batch where one fits.

    On a GPU sizes are really tried, until a tenth of its memory is left. On the CPU the peaks of a few small sizes give
    a line, and where it meets nine tenths of this worker's share is the answer; that assumes that memory grows with the
    micro-batch in a line, that the host's other processes keep what they have now, and that the local_size workers of
    the host share what is left evenly. Raises CalibrationError where not even one sample fits.
    """
    assert at_most >= 1, "a worker takes a sample"
    if device.type == "cuda":
        found = search(lambda size: _fits_on_gpu(occupy, size, device), at_most, ghost_batch)
    else:
        found = _largest_on_cpu(occupy, at_most, local_size)
    if found < 1:
        raise CalibrationError(
            f"not one sample fits into the memory of {device} beside the input pipeline: take a smaller network or "
            f"data.image_size, or fewer workers a host"
        )
    return found if found == at_most else whole_ghosts(found, ghost_batch)


def whole_ghosts(size: int, ghost_batch: int | None) -> int:
    """Rounded down to a multiple of the ghost batch; below it, which is one group, left as it is."""
    return size if ghost_batch is None or size < ghost_batch else size - size % ghost_batch


def search(fits: Callable[[int], bool], at_most: int, ghost_batch: int | None) -> int:
    """The largest size found that fits: doubled, then refined to a sixteenth; 0 where not even 1 does.

    The last size tried is one that fits, so that it was seen after everything that larger ones left behind.
    """
    fitting, failing = 0, at_most + 1
    size = min(at_most, ghost_batch or _FIRST_TRY)
    while fitting < at_most < failing:
        if fits(size):
            fitting, size = size, min(2 * size, at_most)
        else:
            failing = size
    while failing <= at_most and failing - fitting > max(1, fitting // _FINENESS):
        middle = whole_ghosts((fitting + failing) // 2, ghost_batch)
        if middle <= fitting:
            break  # no multiple lies between
        size = middle
        if fits(size):
            fitting = size
        else:
            failing = size
    while 0 < fitting < at_most and size != fitting and not fits(fitting):
        size = fitting = whole_ghosts(fitting - max(1, fitting // _FINENESS), ghost_batch)
    return fitting


def _fits_on_gpu(occupy: Occupy, size: int, device: torch.device) -> bool:
    torch.cuda.reset_peak_memory_stats(device)
    try:
        with occupy(size):
            torch.cuda.synchronize(device)
            free, total = torch.cuda.mem_get_info(device)
            # torch may have given memory back in between, because it was short of it.
            given_back = torch.cuda.max_memory_reserved(device) - torch.cuda.memory_reserved(device)
        fits = free - given_back >= HEAD_ROOM * total
    except (RuntimeError, ValueError) as error:
        if not is_out_of_memory(error):
            raise
        fits = False
    gc.collect()
    torch.cuda.empty_cache()
    return fits


def is_out_of_memory(error: BaseException) -> bool:
    """torch has a type for it, its libraries and DALI have words; a DataError of ours repeats DALI's."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    if isinstance(error, ValueError) and not is_users(error):
        return False
    return any(words in str(error).lower() for words in _OUT_OF_MEMORY)


def _largest_on_cpu(occupy: Occupy, at_most: int, local_size: int) -> int:
    forget_peak()
    budget = (1 - HEAD_ROOM) * (peak_bytes() + obtainable_bytes() / local_size)
    peaks: dict[int, int] = {}
    for size in sorted({min(size, at_most) for size in _CPU_TRIES}):
        forget_peak()
        with occupy(size):
            peaks[size] = peak_bytes()
        if len(peaks) > 1 and 2 * peaks[size] > budget:
            break  # enough is known, and a larger one may not fit
    if peaks.get(at_most, budget + 1) <= budget:
        return at_most
    return along_line(peaks, budget, at_most) if len(peaks) > 1 else at_most // 2


def along_line(peaks: dict[int, int], budget: float, at_most: int) -> int:
    """The size whose peak is the budget, on the steepest line through neighbouring sizes (bytes by size).

    0 where not even one sample fits.
    """
    steps = itertools.pairwise(sorted(peaks.items()))
    per_sample = max((later - earlier) / (more - few) for (few, earlier), (more, later) in steps)
    size, peak = max(peaks.items())
    if per_sample <= 0:
        return at_most if peak <= budget else 0
    return max(0, min(at_most, int(size + (budget - peak) / per_sample)))
