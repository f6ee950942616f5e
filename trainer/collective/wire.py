"""Gradients as 16-bit floats on the wire: half the bytes, eleven bits of each number.

A float16 is exact to 2^-11 from 6e-5 to 65,504; below it loses bits, and above it is infinite. What travels is each
worker's share of a mean over the global batch, which is small, and smaller the more workers there are. So gradients
travel times SCALE: exact from 6e-8, of use from 6e-11, up to 64. A fixed power of two, since a scale that followed the
gradients would be one more thing that a resumed run has to remember, and its rounding another on every fleet.
DDP's own hook rounds what it has yet to divide by the number of workers: there both limits are that many times smaller.
"""

from __future__ import annotations

import math

import torch

SCALE = 2.0**10


def scale_on(wire: torch.dtype | None) -> float:
    """What gradients are multiplied with before they travel as this type; None is their own."""
    return SCALE if wire == torch.float16 else 1.0


def largest_on(wire: torch.dtype | None) -> float:
    """What no element of a gradient or of the workers' sum may be above where it travels as this type."""
    return torch.finfo(torch.float16).max / SCALE if wire == torch.float16 else math.inf
