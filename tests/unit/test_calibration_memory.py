"""How large a micro-batch may be: the search, the line through peaks, and what the kernel says of memory."""

from __future__ import annotations

import contextlib
import mmap
from pathlib import Path

import pytest
import torch

from trainer.calibration import memory
from trainer.calibration.errors import CalibrationError
from trainer.calibration.host_memory import forget_peak, obtainable_bytes, peak_bytes
from trainer.calibration.memory import along_line, is_out_of_memory, largest_micro_batch, search, whole_ghosts
from trainer.models.errors import ModelError

pytestmark = pytest.mark.unit

CPU = torch.device("cpu")
MIB = 2**20


@pytest.mark.parametrize("ghost_batch", [None, 32])
@pytest.mark.parametrize("capacity", [0, 1, 7, 31, 32, 33, 100, 640, 1000, 4096, 5000])
def test_the_search_ends_just_below_what_fits(capacity, ghost_batch):
    tried = []

    def fits(size):
        tried.append(size)
        return size <= capacity

    found = search(fits, 4096, ghost_batch)
    assert found <= capacity
    assert found <= 4096
    finest = max(1, found // 16, ghost_batch if ghost_batch and found >= ghost_batch else 1)
    assert min(capacity, 4096) - found <= finest
    assert ghost_batch is None or found < ghost_batch or found % ghost_batch == 0
    assert found == 0 or tried[-1] == found, "the answer was seen after what larger sizes left behind"
    assert len(tried) <= 24


def test_a_size_that_stops_fitting_after_larger_ones_were_tried_is_not_the_answer():
    largest_tried = 0

    def fits(size):
        nonlocal largest_tried
        largest_tried = max(largest_tried, size)
        return size <= (100 if largest_tried <= 100 else 80)  # a larger one keeps memory for good

    assert search(fits, 4096, None) <= 80


@pytest.mark.parametrize(("at_most", "found"), [(100, 100), (20, 20), (1, 1)])
def test_nothing_larger_than_of_use_is_tried(at_most, found):
    sizes = []
    assert search(lambda size: sizes.append(size) or True, at_most, 8) == found
    assert max(sizes) == at_most


@pytest.mark.parametrize(("size", "ghost_batch", "whole"), [(100, 32, 96), (96, 32, 96), (31, 32, 31), (5, None, 5)])
def test_sizes_are_cut_to_whole_ghost_batches(size, ghost_batch, whole):
    assert whole_ghosts(size, ghost_batch) == whole


@pytest.mark.parametrize(
    ("peaks", "budget", "at_most", "size"),
    [
        ({4: 140, 8: 180}, 600, 1000, 50),  # 100 + 10 n = 600
        ({4: 140, 8: 180}, 600, 20, 20),
        ({4: 140, 8: 180, 16: 180}, 600, 1000, 58),  # the steepest step counts: 16 + (600 - 180) / 10
        ({4: 140, 8: 140}, 600, 1000, 1000),  # too small to be seen
        ({4: 700, 8: 700}, 600, 1000, 0),
        ({4: 140, 8: 180}, 105, 1000, 0),  # 0.5 samples
        ({4: 140, 8: 180}, 50, 1000, 0),
    ],
)
def test_the_line_through_peaks_meets_the_budget(peaks, budget, at_most, size):
    assert along_line(peaks, budget, at_most) == size


@contextlib.contextmanager
def four_mebibytes_a_sample(micro_batch):
    """Memory that is there and gone at once, as tensors of an update are."""
    with mmap.mmap(-1, 4 * MIB * micro_batch) as held:
        for page in range(0, len(held), mmap.PAGESIZE):
            held[page] = 1
        yield


def needs_peaks():
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError as error:
        pytest.skip(f"this kernel lets no process begin a new peak of memory: {error}")


def test_the_peak_is_that_since_it_was_forgotten():
    needs_peaks()
    before = peak_bytes()
    with four_mebibytes_a_sample(16):
        pass
    assert 60 * MIB < peak_bytes() - before < 80 * MIB
    forget_peak()
    assert peak_bytes() - before < 30 * MIB


@pytest.mark.parametrize(("workers", "most"), [(1, 64), (2, 32)])
def test_on_the_cpu_workers_share_what_can_be_had(monkeypatch, workers, most):
    needs_peaks()
    monkeypatch.setattr(memory, "obtainable_bytes", lambda: 64 * 4 * MIB)
    found = largest_micro_batch(four_mebibytes_a_sample, CPU, at_most=10_000, ghost_batch=4, local_size=workers)
    assert found % 4 == 0
    # a tenth of this process's own memory is head-room as well: some hundred MiB, so up to 15 samples or so
    assert most / 2 <= found + 0.1 * peak_bytes() / (4 * MIB)
    assert found <= 0.9 * most


def test_what_is_of_use_is_kept_even_if_it_cuts_a_ghost_batch():
    needs_peaks()
    assert largest_micro_batch(four_mebibytes_a_sample, CPU, at_most=9, ghost_batch=4, local_size=1) == 9


def test_where_not_one_sample_fits_the_user_hears_what_to_do(monkeypatch):
    needs_peaks()
    monkeypatch.setattr(memory, "obtainable_bytes", lambda: 0)
    with pytest.raises(CalibrationError, match=r"not one sample fits into the memory of cpu .* smaller network"):
        largest_micro_batch(four_mebibytes_a_sample, CPU, at_most=64, ghost_batch=None, local_size=1)


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (RuntimeError("CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("CUDA runtime API error cudaErrorMemoryAllocation (2):\nout of memory"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ModelError("7.jpg: decoding failed (std::bad_alloc)"), True),  # an error of ours that repeats DALI's words
        (ValueError("cannot allocate"), False),  # a library's: no device ran short
    ],
)
def test_memory_that_ran_out_is_told_from_other_errors(error, is_one):
    assert is_out_of_memory(error) is is_one


def host(folder, cgroup, files):
    """A /proc with 8 GB available and these control groups."""
    proc, cgroups = folder / "proc", folder / "cgroups"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal: 16000000 kB\nMemAvailable:    8000000 kB\n")
    (proc / "self/cgroup").write_text(cgroup)
    for name, text in files.items():
        (cgroups / name).parent.mkdir(parents=True, exist_ok=True)
        (cgroups / name).write_text(text)
    return proc, cgroups


AVAILABLE = 1024 * 8_000_000


@pytest.mark.parametrize(
    ("cgroup", "files", "obtainable"),
    [
        ("0::/\n", {}, AVAILABLE),
        ("0::/\n", {"memory.max": "max\n", "memory.current": "5\n"}, AVAILABLE),
        # a container: its own group lies at the root; file cache can be had
        ("0::/\n", {"memory.max": "4000\n", "memory.current": "3000\n", "memory.stat": "anon 1\ninactive_file 500\n"},
         1500),
        # a batch job: its step has no limit, the job above it has
        ("0::/slurm/job_7/step_0\n", {"slurm/job_7/step_0/memory.max": "max\n", "slurm/job_7/memory.max": "4000\n",
                                      "slurm/job_7/memory.current": "1000\n"}, 3000),
        # in a container the path may be the host's
        ("0::/kubepods/pod7\n", {"memory.max": "4000\n", "memory.current": "1000\n"}, 3000),
        ("4:cpu:/x\n3:memory:/job\n0::/\n",
         {"memory/job/memory.limit_in_bytes": "4000\n", "memory/job/memory.usage_in_bytes": "1000\n",
          "memory/job/memory.stat": "inactive_file 1\ntotal_inactive_file 200\n",
          "memory/memory.limit_in_bytes": "9223372036854771712\n"}, 3200),
        ("0::/\n", {"memory.max": "4000\n", "memory.current": "5000\n"}, 0),
    ],
)  # fmt: skip
def test_what_can_be_had_is_the_least_of_host_and_control_groups(tmp_path, cgroup, files, obtainable):
    assert obtainable_bytes(*host(tmp_path, cgroup, files)) == obtainable


def test_a_host_that_says_nothing_of_memory_is_told_so(tmp_path):
    with pytest.raises(CalibrationError, match=r"set schedule\.limits\.max_micro_batch=N"):
        peak_bytes(tmp_path)
    with pytest.raises(CalibrationError, match=r"set schedule\.limits\.max_micro_batch=N"):
        forget_peak(tmp_path)
