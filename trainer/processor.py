"""What the processor can, by the kernel's list of its features."""

from __future__ import annotations

from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
# x86 and Arm
_BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16"}


def computes_bfloat16(cpuinfo: Path = CPUINFO) -> bool:
    """Whether the processor multiplies bfloat16 itself; others emulate it. True where nothing is known."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return True
    pairs = [line.partition(":") for line in lines]
    features = [words.split() for name, _, words in pairs if name.strip() in ("flags", "Features")]
    return not features or not _BFLOAT16.isdisjoint(features[0])
