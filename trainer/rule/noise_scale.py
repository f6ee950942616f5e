"""The noise scale of SGD and its inverses.

Two forms of one quantity, g, which has the unit of lr (the samples cancel), and what takes its place for Adam:

    exact          g = lr/(1-m) * (N/B - 1)    a full batch (B = N) has no noise
    large_dataset  g = lr/(1-m) * N/B          for B << N; "lr / 5" is "batch x 5" to the letter
    square_root    g = lr * sqrt(N/B)          Adam: "lr / 5" is "batch x 25"; momentum (beta1) follows the batch

The first two differ by the factor 1 - B/N: 10 % at B = N/10. Symbols: learning rate lr > 0, momentum m in [0, 1),
dataset size N and global batch B in samples. Sources: Smith & Le, arXiv:1710.06451; Smith, Kindermans, Ying & Le,
arXiv:1711.00489, equations 3 to 5; for Adam, what the square-root rule of Malladi et al. keeps (arXiv:2205.10287).
"""

from __future__ import annotations

import math
from typing import Literal

from trainer.rule.errors import PlanError

NoiseForm = Literal["large_dataset", "exact", "square_root"]


def sgd_noise_scale(
    lr: float, global_batch: float, dataset_size: int, momentum: float, form: NoiseForm = "large_dataset"
) -> float:
    """Noise scale g of SGD with this learning rate, batch (samples) and momentum.

    Raises PlanError where the batch is not in (0, N], or the momentum not in [0, 1).
    """
    return lr * _noise_per_lr(global_batch, dataset_size, momentum, form)


def lr_for_sgd_noise_scale(
    noise_scale: float, global_batch: float, dataset_size: int, momentum: float, form: NoiseForm = "large_dataset"
) -> float:
    """Learning rate at which SGD with this batch (samples) and momentum has the noise scale g > 0.

    Raises PlanError in the exact form if global_batch >= dataset_size: a full batch has no noise, whatever its lr.
    """
    noise_per_lr = _noise_per_lr(global_batch, dataset_size, momentum, form)
    if noise_per_lr <= 0:
        raise PlanError(
            f"a batch of {global_batch:g} samples from a dataset of {dataset_size} has no noise in the exact form: "
            f"choose a smaller batch"
        )
    return noise_scale / noise_per_lr


def global_batch_for_sgd_noise_scale(
    noise_scale: float, lr: float, dataset_size: int, momentum: float, form: NoiseForm = "large_dataset"
) -> float:
    """Batch (samples, not rounded) at which SGD with this learning rate and momentum has the noise scale g > 0."""
    _check_momentum(momentum)
    if form == "square_root":
        return dataset_size * (lr / noise_scale) ** 2
    batches = noise_scale * (1.0 - momentum) / lr
    return dataset_size / (batches + 1.0 if form == "exact" else batches)


def momentum_for_sgd_noise_scale(
    noise_scale: float, lr: float, global_batch: float, dataset_size: int, form: NoiseForm = "large_dataset"
) -> float:
    """Momentum at which SGD with this learning rate and batch (samples) has the noise scale g > 0.

    Raises PlanError where plain SGD is noisier than g already: momentum only adds noise.
    """
    assert form != "square_root", "Adam's noise does not depend on momentum"
    momentum = 1.0 - lr * _noise_per_lr(global_batch, dataset_size, 0.0, form) / noise_scale
    if momentum < 0:
        raise PlanError(
            f"lr {lr:g} at a batch of {global_batch:g} samples is noisier than g = {noise_scale:g} even without "
            f"momentum: lower lr or raise the batch"
        )
    return momentum


def momentum_epochs(global_batch: float, dataset_size: int, momentum: float) -> float:
    """Epochs that the momentum buffer takes to follow a change: B / (N (1-m)), which is 1/(1-m) updates.

    Source: arXiv:1711.00489, equation 8. A schedule should change on a longer scale than this.
    """
    _check_momentum(momentum)
    return global_batch / (dataset_size * (1.0 - momentum))


def _noise_per_lr(global_batch: float, dataset_size: int, momentum: float, form: NoiseForm) -> float:
    _check_momentum(momentum)
    if not 0 < global_batch <= dataset_size:
        raise PlanError(
            f"a batch of {global_batch:g} samples does not fit a dataset of {dataset_size}: "
            f"choose a batch between 1 and {dataset_size}"
        )
    if form == "square_root":
        return math.sqrt(dataset_size / global_batch)
    return (dataset_size / global_batch - (1.0 if form == "exact" else 0.0)) / (1.0 - momentum)


def _check_momentum(momentum: float) -> None:
    if not 0 <= momentum < 1:
        raise PlanError(f"momentum {momentum:g} is outside [0, 1): choose one below 1, 0.9 for example")
