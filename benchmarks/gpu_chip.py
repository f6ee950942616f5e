"""What is known of the chip: its bf16 peak, the work that an image is, and how busy its JPEG engine is."""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections.abc import Iterator

import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from trainer.models import build_model

# Dense bf16 TFLOP/s by words of the device's name, the most particular first. From NVIDIA's data sheets, which print
# twice as much for Hopper and Ada ("with sparsity").
_PEAKS: tuple[tuple[frozenset[str], float], ...] = tuple(
    (frozenset(words.split()), tflops)
    for words, tflops in (
        ("H100 PCIe", 756.0),
        ("H100 NVL", 835.0),
        ("H100", 989.0),
        ("H200 NVL", 835.0),
        ("H200", 989.0),
        ("GH200", 989.0),
        ("A100", 312.0),
        ("L40S", 362.0),
        ("L4", 121.0),
    )
)


def device_of(text: str) -> torch.device:
    """The device of that name with its number, where DALI too finds it. Exits with a sentence where there is none."""
    device = torch.device(text)
    if device.type != "cuda":
        return device
    if not torch.cuda.is_available():
        raise SystemExit(f"--device {text}: torch {torch.__version__} sees no GPU: use --device cpu to try the code")
    torch.cuda.set_device(device.index or 0)
    return torch.device("cuda", device.index or 0)


def device_name(device: torch.device) -> str:
    """The GPU's name, or cpu."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def bf16_peak_tflops(name: str) -> float | None:
    """Dense bf16 TFLOP/s of the GPU of that name; None where it is not in the table, or only a slice of one."""
    words = frozenset(re.split(r"[^A-Za-z0-9]+", name))
    if "MIG" in words:
        return None
    return next((tflops for needed, tflops in _PEAKS if needed <= words), None)


def flops_per_image(network: str, classes: int, image_size: int) -> int:
    """Floating-point operations of forward and backward (a multiply-add is two), convolutions and products alone.

    Counted on the meta device, so it takes a moment for any network.
    """
    with torch.device("meta"):
        model = build_model(network, classes, None)
        images, labels = torch.randn(2, 3, image_size, image_size), torch.zeros(2, dtype=torch.int64)
        with FlopCounterMode(display=False) as counter:
            F.cross_entropy(model(images), labels).backward()
    return counter.get_total_flops() // 2


def share_of_peak(images_per_s: float, flops: int, device: torch.device) -> float | None:
    """Share (0 to 1) of the chip's bf16 peak; None where that is not known."""
    peak = bf16_peak_tflops(device_name(device))
    return None if peak is None else images_per_s * flops / (1e12 * peak)


@contextlib.contextmanager
def jpeg_engine_use(device: torch.device) -> Iterator[list[int]]:
    """A list that holds, after the block, how busy the JPEG engine was, in percent of the time, five times a second, as
    nvidia-smi said; it stays empty where there is no such engine, or nothing to ask."""
    readings: list[int] = []
    with contextlib.ExitStack() as stack:
        if device.type == "cuda":
            stack.callback(_read_into, readings, _ask(device))
        yield readings


def _ask(device: torch.device) -> subprocess.Popen[str] | None:
    # By its own number: CUDA may count other devices than nvidia-smi, or in another order.
    uuid = torch.cuda.get_device_properties(device).uuid
    query = ["nvidia-smi", f"--id=GPU-{uuid}", "--query-gpu=utilization.jpeg", "--format=csv,noheader,nounits"]
    try:
        return subprocess.Popen([*query, "--loop-ms=200"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    except OSError:
        return None


def _read_into(readings: list[int], asked: subprocess.Popen[str] | None) -> None:
    if asked is not None:
        asked.terminate()
        readings.extend(percentages(asked.communicate()[0]))


def percentages(said: str) -> list[int]:
    """The numbers among the lines of nvidia-smi, which says "[N/A]" or a sentence where it has none."""
    return [int(line) for line in map(str.strip, said.splitlines()) if line.isdigit()]
