"""torch.compile for training: whether it works here, found out before a run begins, and how it treats micro-batches."""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
from torch import nn

# Runs whose micro-batch takes more sizes go on uncompiled; torch's own limit is 8.
_SIZES = 64
# How long a worker that compiles may seem to stand still.
COMPILING_S = 1500.0


class CompileError(ValueError):
    """torch.compile does not work here; the message says what it lacks."""


def compiler(is_wanted: bool, device: torch.device) -> Callable[[nn.Module], nn.Module]:
    """What makes a compiled module of one; where that is not wanted the module stays as it is.

    Each size of a micro-batch is compiled by itself when it first comes, forward and backward. Raises CompileError
    where a small function cannot be compiled for the device: there is no C++ compiler, or no Triton.
    """
    if not is_wanted:
        return lambda module: module
    anew = random.SystemRandom().random()  # not what lies compiled in a cache
    try:
        torch.compile(lambda x: x.sin() + anew)(torch.ones(8, device=device))
    except Exception as error:  # of the compiler behind it: many kinds
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        needs = "Triton and a C compiler" if device.type == "cuda" else "a C++ compiler (apt-get install g++)"
        raise CompileError(
            f"compile true: torch cannot compile here ({reason}): install {needs}, or set compile=false"
        ) from error
    from torch._dynamo import config as dynamo  # takes a second

    # 2.4 has the older name
    setattr(dynamo, "recompile_limit" if hasattr(dynamo, "recompile_limit") else "cache_size_limit", _SIZES)
    # Not one compilation for all sizes: the number of ghost batches follows from the size, and so would its loops.
    return lambda module: torch.compile(module, dynamic=False)  # type: ignore[return-value]
