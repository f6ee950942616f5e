"""Batch norm over groups of a fixed size, so that its noise does not change when the batch grows.

A batch is cut into ghost batches, each normalised with its own statistics (Hoffer et al., arXiv:1705.08741); the
paper that the schedules follow needs it to keep the mean gradient independent of the batch size (arXiv:1711.00489,
section 5).

Running statistics follow samples, not updates: an update of n ghost batches moves them as n steps of plain batch norm
would, towards the mean of the ghost batches' statistics. So they do not depend on how the batch was cut into
micro-batches and workers, and their memory stays the same number of samples while the batch grows.
"""

from __future__ import annotations

from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from trainer.models.errors import ModelError
from trainer.models.ghost_normalise import cut, normalise


class GhostBatchNorm(nn.Module):
    """Batch norm of (N, C, *) input over ghost batches of about `ghost_batch` samples.

    N is cut into round(N / ghost_batch) groups of consecutive samples, equal to within one sample, and at least one: a
    micro-batch below the ghost batch is one group. weight, bias, running_mean and running_var are as in
    torch.nn.BatchNorm2d, also in the state dict; in evaluation both compute the same.
    """

    running_mean: Tensor
    running_var: Tensor
    update_statistics: Tensor
    update_ghosts: Tensor

    def __init__(
        self, num_features: int, ghost_batch: int, eps: float = 1e-5, momentum: float = 0.1, affine: bool = True
    ):
        super().__init__()
        self.num_features, self.ghost_batch, self.eps, self.momentum = num_features, ghost_batch, eps, momentum
        self.weight = nn.Parameter(torch.ones(num_features)) if affine else None
        self.bias = nn.Parameter(torch.zeros(num_features)) if affine else None
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))
        # Sums of means and of variances over the ghost batches that this worker has seen since the last update, and
        # their number: a tensor, since a compiled forward would be compiled anew for every other number of Python's;
        # one for each channel, so that finish_update works on tensors of one shape.
        self.register_buffer("update_statistics", torch.zeros(2, num_features), persistent=False)
        self.register_buffer("update_ghosts", torch.zeros(num_features), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        sizes = cut(len(x), self.ghost_batch)
        y, statistics = normalise(x, self.weight, self.bias, sizes, self.eps)
        self.update_statistics.add_(statistics)
        self.update_ghosts.add_(len(sizes))
        return y

    def extra_repr(self) -> str:
        return f"{self.num_features}, ghost_batch={self.ghost_batch}, eps={self.eps}, momentum={self.momentum}"


def finish_update(model: nn.Module, global_batch: int) -> None:
    """Moves the running statistics of every ghost batch norm after an update of global_batch samples over all workers.

    Those of a norm that saw none of them stay as they were.
    """
    norms = [module for module in model.modules() if isinstance(module, GhostBatchNorm)]
    if not norms:
        return
    # All norms in a few calls: one by one they would be hundreds, and on a GPU as many launches.
    running = [buffer for norm in norms for buffer in (norm.running_mean, norm.running_var)]
    sums = [part for norm in norms for part in norm.update_statistics.unbind()]
    ghosts = [norm.update_ghosts for norm in norms for _ in range(2)]
    steps = [1.0 - (1.0 - norm.momentum) ** (global_batch / norm.ghost_batch) for norm in norms for _ in range(2)]
    # (mean - running) * step, where the mean is sum / ghosts, and 0 where there were none
    moves = torch._foreach_sub(sums, torch._foreach_mul(running, ghosts))
    torch._foreach_div_(moves, torch._foreach_clamp_min(ghosts, 1.0))
    torch._foreach_mul_(moves, steps)
    torch._foreach_add_(running, moves)
    torch._foreach_zero_([norm.update_statistics for norm in norms])
    torch._foreach_zero_([norm.update_ghosts for norm in norms])


def middle_border(model: nn.Module, samples: int) -> int | None:
    """Where a micro-batch of so many samples can be cut in two so that the network computes the same, apart from
    rounding: at the border of ghost batches that is next to the middle, and anywhere without batch norm. None where it
    is normalised as a whole."""
    norms = [module for module in model.modules() if isinstance(module, (GhostBatchNorm, _BatchNorm))]
    ghosts = {norm.ghost_batch for norm in norms if isinstance(norm, GhostBatchNorm)}
    if any(isinstance(norm, _BatchNorm) for norm in norms) or len(ghosts) > 1:
        return None
    if not ghosts:
        return samples // 2 or None
    ghost_batch = ghosts.pop()
    sizes = cut(samples, ghost_batch)
    # A part by itself may be cut into other ghost batches: 22 by 4 into 4 4 4 4 3 3, but its last 10 into 5 5.
    borders = [
        border
        for border in accumulate(sizes[:-1])
        if cut(border, ghost_batch) + cut(samples - border, ghost_batch) == sizes
    ]
    return min(borders, key=lambda border: abs(2 * border - samples), default=None)


def convert_batch_norm(model: nn.Module, ghost_batch: int) -> nn.Module:
    """The model with every BatchNorm1d/2d/3d replaced by ghost batch norm with the same parameters and statistics.

    Raises ModelError where a batch norm is of another kind: what it does besides would be lost without a word.
    """
    ghosts = {norm: _ghost_of(norm, ghost_batch) for norm in model.modules() if isinstance(norm, _BatchNorm)}
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):  # named_children leaves out a module's second name
            if child in ghosts:
                setattr(parent, name, ghosts[child])
    return ghosts.get(model, model)


def _ghost_of(plain: _BatchNorm, ghost_batch: int) -> GhostBatchNorm:
    if type(plain) not in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
        raise ModelError(
            f"{type(plain).__name__} is batch norm with something else in one and has no ghost form: set "
            f"model.ghost_batch=null, or take another network"
        )
    if plain.momentum is None or not plain.track_running_stats:
        raise ModelError(
            "batch norm with a cumulative average, or without running statistics, has no ghost form: set "
            "model.ghost_batch=null"
        )
    ghost = GhostBatchNorm(plain.num_features, ghost_batch, plain.eps, plain.momentum, plain.affine)
    ghost.load_state_dict({key: value for key, value in plain.state_dict().items() if key != "num_batches_tracked"})
    return ghost.to(plain.running_mean.device, plain.running_mean.dtype).train(plain.training)  # type: ignore[union-attr]
