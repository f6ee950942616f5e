"""How Adam's constants follow the batch under the square-root rule (Malladi et al., arXiv:2205.10287).

Adam and its stochastic differential equation stay together when a batch that is k times as large comes with

    lr    -> lr sqrt(k)
    beta  -> 1 - k (1 - beta)      both betas: the averages remember the same number of samples
    eps   -> eps / sqrt(k)         the gradient's noise, which eps is held against, is smaller by as much

lr is the coordinator's, through the form `square_root` of the noise scale; the rest stands here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from trainer.rule.errors import PlanError


@dataclass(frozen=True, slots=True)
class AdamConstants:
    """Adam's second beta and its eps, at the reference's batch or after scaling. The first beta is the momentum."""

    beta2: float = 0.999
    eps: float = 1e-8

    def __post_init__(self) -> None:
        if not 0 <= self.beta2 < 1:
            raise PlanError(f"beta2 {self.beta2:g} is outside [0, 1): choose one below 1, 0.999 for example")
        if not (self.eps > 0 and math.isfinite(self.eps)):
            raise PlanError(f"eps {self.eps:g} of Adam must be above 0, 1.0e-8 for example")


def scale_beta(beta: float, batch_ratio: float) -> float:
    """A beta at `batch_ratio` times the batch that it was chosen at; one of 0, which remembers nothing, stays.

    The ratio must not be above largest_batch_ratio(beta).
    """
    # To 13 decimals: 1 - 10 (1 - 0.9) is 0, not 2e-16.
    return max(0.0, round(1.0 - batch_ratio * (1.0 - beta), 13)) if beta > 0 else 0.0


def scale_constants(constants: AdamConstants, batch_ratio: float) -> AdamConstants:
    """beta2 and eps at `batch_ratio` times the batch that they were chosen at."""
    return AdamConstants(scale_beta(constants.beta2, batch_ratio), constants.eps / math.sqrt(batch_ratio))


def largest_batch_ratio(*betas: float) -> float:
    """How many times larger the batch may become before one of these betas would fall below 0."""
    return min((1.0 / (1.0 - beta) for beta in betas if beta > 0), default=math.inf)
