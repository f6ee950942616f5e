"""Whether freed memory stays with the process, seen in the page faults of a new one."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from trainer.cli.fleet import choose_device
from trainer.environment import Launch
from trainer.processor import computes_bfloat16

pytestmark = pytest.mark.unit

# Page faults of a block of 64 MiB that is taken, written and freed for the second time.
_SECOND_BLOCK = """
import ctypes, resource
from trainer.cli.freed_memory import keep_freed_memory
kept = keep_freed_memory()
malloc, free = ctypes.CDLL(None).malloc, ctypes.CDLL(None).free
malloc.restype, malloc.argtypes, free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = malloc(2**26)
    ctypes.memset(block, 1, 2**26)
    free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(kept, faults())
"""


def second_block(**environment):
    command = [sys.executable, "-c", _SECOND_BLOCK]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    kept, faults = done.stdout.split()
    return kept == "True", int(faults)


def test_a_block_that_was_freed_is_taken_again_without_the_kernel():
    kept, faults = second_block()
    assert kept
    assert faults < 100  # of 16,384 pages


def test_a_worker_on_the_cpu_keeps_its_memory_and_one_on_a_gpu_does_not(monkeypatch):
    asked = []
    monkeypatch.setattr("trainer.cli.fleet.keep_freed_memory", lambda: asked.append(True))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    choose_device("auto", Launch("alone"))
    assert not asked
    choose_device("cpu", Launch("alone"))
    assert asked


@pytest.mark.parametrize(
    "environment", [{"MALLOC_ARENA_MAX": "2"}, {"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=131072"}]
)
def test_what_the_user_has_set_up_wins(environment):
    kept, faults = second_block(**environment)
    assert not kept
    assert faults > 16  # in huge pages as well


@pytest.mark.parametrize(
    ("cpuinfo", "is_native"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx512f avx512_bf16\n", True),
        ("processor\t: 0\nflags\t\t: fpu avx2 avx512f\n\nprocessor\t: 1\nflags\t\t: fpu avx2 avx512f\n", False),
        ("processor\t: 0\nFeatures\t: fp asimd bf16 i8mm\n", True),
        ("processor\t: 0\nFeatures\t: fp asimd\n", False),
        ("processor\t: 0\n", True),  # another kind of processor: nothing is said of what is not known
    ],
)
def test_a_processor_says_whether_it_computes_bfloat16(tmp_path, cpuinfo, is_native):
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    assert computes_bfloat16(tmp_path / "cpuinfo") is is_native
    assert computes_bfloat16(tmp_path / "none")
