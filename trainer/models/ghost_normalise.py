"""How ghost batches are normalised: three ways to one result, each where it is the fastest.

Cutting a batch, normalising the parts and joining them costs a copy of the batch forward and another one backward. On
a CPU each part is written into its place of one output instead. Compiled, all groups are normalised at once and the
compiler makes a few loops of it. On a GPU cuDNN normalises each part in one launch, and the copies stay.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from trainer.models.errors import ModelError

_batch_norm_into = torch.ops.aten.native_batch_norm.out
_batch_norm_backward = torch.ops.aten.native_batch_norm_backward


def cut(samples: int, ghost_batch: int) -> list[int]:
    """Sizes of the round(samples / ghost_batch) ghost batches, at least one; the larger first."""
    ghosts = max(1, round(samples / ghost_batch))
    size, rest = divmod(samples, ghosts)
    return [size + 1] * rest + [size] * (ghosts - rest)


def normalise(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, sizes: list[int], eps: float
) -> tuple[Tensor, Tensor]:
    """x (N, C, *) cut along N into parts of the given sizes, each with mean 0 and variance 1 in every channel, times
    weight, plus bias (C each); and the sums over the parts of their means and of their unbiased variances, (2, C)
    without a gradient, in the type of the statistics (float32 for half types).

    Raises ModelError where a part has one value in a channel, of which there is no variance."""
    if min(sizes) * math.prod(x.shape[2:]) == 1:
        raise ModelError(
            f"batch norm of a micro-batch of shape {tuple(x.shape)}: a ghost batch of one sample has one value in a "
            f"channel here: set a larger model.ghost_batch or data.image_size, or model.ghost_batch=null"
        )
    if torch.compiler.is_compiling() and len(set(sizes)) == 1:
        return _at_once(x, weight, bias, len(sizes), eps)
    wide = torch.promote_types(x.dtype, torch.float32)
    statistics = torch.zeros(2, len(sizes), x.shape[1], dtype=wide, device=x.device)
    if x.device.type == "cpu" and not torch.compiler.is_compiling():
        y = _IntoPlace.apply(x, weight, bias, statistics, sizes, eps)
    else:
        # Not tensor_split: its gradient is a sum of one tensor of x's size for every part, split's is one copy. With a
        # momentum of 1 batch_norm leaves the part's own statistics behind.
        parts = zip(x.split(sizes), statistics[0], statistics[1], strict=True)
        y = torch.cat([F.batch_norm(part, mean, var, weight, bias, True, 1.0, eps) for part, mean, var in parts])
    return y, statistics.sum(1)


def _at_once(x: Tensor, weight: Tensor | None, bias: Tensor | None, ghosts: int, eps: float) -> tuple[Tensor, Tensor]:
    parts = x.unflatten(0, (ghosts, -1))
    parts = parts.to(torch.promote_types(x.dtype, torch.float32))
    dims = [1, *range(3, parts.ndim)]
    var, mean = torch.var_mean(parts, dims, correction=0, keepdim=True)
    y = (parts - mean) * torch.rsqrt(var + eps)
    channels = (-1, *[1] * (x.ndim - 2))
    if weight is not None and bias is not None:
        y = y * weight.view(channels) + bias.view(channels)
    values = parts.numel() // (ghosts * x.shape[1])
    sums = torch.stack([mean.detach().sum(0).flatten(), var.detach().sum(0).flatten() * (values / (values - 1))])
    return y.to(x.dtype).flatten(0, 1), sums


class _IntoPlace(torch.autograd.Function):
    """Batch norm of each part, written into its place of one output; statistics (2, parts, C) are filled in."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        statistics: Tensor,
        sizes: list[int],
        eps: float,
    ) -> Tensor:
        if not (x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last)):
            x = x.contiguous()  # the operation writes rubbish into an output of other strides
        y = torch.empty_like(x)
        saved = torch.empty_like(statistics)  # mean and 1 / standard deviation of each part
        for part, into, (mean, var), (save_mean, save_invstd) in zip(
            x.split(sizes), y.split(sizes), statistics.unbind(1), saved.unbind(1), strict=True
        ):
            _batch_norm_into(
                part, weight, bias, mean, var, True, 1.0, eps, out=into, save_mean=save_mean, save_invstd=save_invstd
            )
        ctx.save_for_backward(x, weight, saved)
        ctx.sizes, ctx.eps = sizes, eps
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, saved = ctx.saved_tensors
        wanted = list(ctx.needs_input_grad[:3])
        to_x = torch.empty_like(x) if wanted[0] else None
        to_weight, to_bias = (torch.zeros(x.shape[1], dtype=saved.dtype) if each else None for each in wanted[1:])
        begin = 0
        for size, (mean, invstd) in zip(ctx.sizes, saved.unbind(1), strict=True):
            part, upstream = x.narrow(0, begin, size), gradient.narrow(0, begin, size)
            of_x, of_weight, of_bias = _batch_norm_backward(
                upstream, part, weight, None, None, mean, invstd, True, ctx.eps, wanted
            )
            if to_x is not None:
                to_x.narrow(0, begin, size).copy_(of_x)
            if to_weight is not None:
                to_weight += of_weight
            if to_bias is not None:
                to_bias += of_bias
            begin += size
        return to_x, to_weight, to_bias, None, None, None
