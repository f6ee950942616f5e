"""What it costs a fleet to add up its gradients: two algorithms, two kinds of link, and a fit to measured times.

Every cost is linear in the latency and in the inverse bandwidth of the links, so measured times give both back by
least squares. Workers of one node add up first, then the nodes, over a link that all workers of a node share
(Thakur, Rabenseifner & Gropp 2005, doi:10.1177/1094342005051521; the ring is that of Patarasuk & Yuan 2009,
doi:10.1016/j.jpdc.2008.09.002).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from trainer.rule.errors import PlanError

Algorithm = Literal["ring", "tree", "fastest"]
_MOST_FITS = 20


@dataclass(frozen=True, slots=True)
class Link:
    """One message takes latency_s + bytes * s_per_byte (the inverse of the bandwidth)."""

    latency_s: float
    s_per_byte: float


@dataclass(frozen=True, slots=True)
class Fabric:
    """The links between workers: within a node, and between nodes (None: never measured).

    algorithm: ring (Gloo), tree, or the faster of the two (NCCL chooses by message size). error: the largest relative
    difference between a measured time and the fit.
    """

    within: Link | None
    between: Link | None
    algorithm: Algorithm = "ring"
    error: float = 0.0


@dataclass(frozen=True, slots=True)
class AllReduceTime:
    """Measured: `seconds` for one all-reduce of `nbytes` bytes over `workers` workers on `nodes` nodes."""

    workers: int
    nodes: int
    nbytes: int
    seconds: float

    def __post_init__(self) -> None:
        if not (1 <= self.nodes <= self.workers and self.nbytes >= 1 and 0 < self.seconds < math.inf):
            raise PlanError(
                f"an all-reduce of {self.nbytes} bytes over {self.workers} workers on {self.nodes} nodes in "
                f"{self.seconds:g} s was never measured: calibrate again"
            )


def ring_seconds(nbytes: float, members: int, link: Link) -> float:
    """2(n-1) messages of 1/n of the bytes, one after the other."""
    return _seconds(_ring(members), nbytes, link)


def tree_seconds(nbytes: float, members: int, link: Link) -> float:
    """Up a binary tree and down again, pipelined: 2 log2(n) latencies, and the bytes once each way."""
    return _seconds(_tree(members), nbytes, link)


def all_reduce_seconds(nbytes: float, workers: int, nodes: int, fabric: Fabric) -> float:
    """Seconds for one all-reduce of nbytes over the workers, spread evenly over the nodes.

    Where only links within a node were measured, those between are taken for as good; where only those between, what
    happens within a node is part of them; without either the all-reduce costs nothing. step_time says so.
    """
    per_node = -(-workers // nodes)
    between = fabric.between or fabric.within
    return _stage(nbytes, nodes, between, fabric.algorithm) + _stage(nbytes, per_node, fabric.within, fabric.algorithm)


def fit_fabric(times: Sequence[AllReduceTime], algorithm: Algorithm = "ring") -> Fabric:
    """The links that explain the measured times best (least squares of the relative errors, nothing negative).

    Links within nodes are seen by fleets of one node only; the times of a fleet on several nodes then give those
    between. Measured on several nodes alone, everything counts as between.
    """
    times = [time for time in times if time.workers > 1]
    if not times:
        return Fabric(None, None, algorithm)
    # Which algorithm was the faster for a message follows from the links that are sought. All are taken for rings at
    # first (links that cost nothing leave it open); each fit then says better which were trees.
    free = Link(0.0, 0.0)
    sees_within, sees_between = any(time.nodes == 1 for time in times), any(time.nodes > 1 for time in times)
    fabric = _fit(times, Fabric(free if sees_within else None, free if sees_between else None, algorithm))
    for _ in range(_MOST_FITS if algorithm == "fastest" else 0):
        better = _fit(times, fabric)
        if better.error >= fabric.error:
            break
        fabric = better
    return fabric


def _fit(times: Sequence[AllReduceTime], guess: Fabric) -> Fabric:
    """The links that explain the times best by the algorithms that the guessed ones would take; None stays None."""

    def row(time: AllReduceTime) -> list[float]:
        members = -(-time.workers // time.nodes), time.nodes
        entries: list[float] = []
        for count, link in zip(members, (guess.within, guess.between), strict=True):
            latencies, times_sent = (0.0, 0.0) if link is None else _terms(time.nbytes, count, link, guess.algorithm)
            entries += [latencies, times_sent * time.nbytes]
        return entries

    latency_w, byte_w, latency_b, byte_b = fit_nonnegative([row(time) for time in times], [t.seconds for t in times])
    within = None if guess.within is None else Link(latency_w, byte_w)
    between = None if guess.between is None else Link(latency_b, byte_b)
    fabric = Fabric(within, between, guess.algorithm)
    errors = [abs(all_reduce_seconds(t.nbytes, t.workers, t.nodes, fabric) / t.seconds - 1) for t in times]
    return replace(fabric, error=max(errors))


def fit_nonnegative(rows: Sequence[Sequence[float]], values: Sequence[float]) -> list[float]:
    """Coefficients >= 0 with sum_j rows[i][j] c[j] nearest to values[i] > 0 in relative terms (least squares).

    Exact for the handful of columns that it is used with: every subset of them is tried, smaller ones first.
    """
    columns = len(rows[0])
    scaled = [[entry / value for entry in row] for row, value in zip(rows, values, strict=True)]
    best, least = [0.0] * columns, math.inf
    for size in range(1, columns + 1):
        for chosen in itertools.combinations(range(columns), size):
            solution = _solve([[row[j] for j in chosen] for row in scaled])
            if solution is None or min(solution) < 0:
                continue
            residual = sum((sum(row[j] * c for j, c in zip(chosen, solution, strict=True)) - 1) ** 2 for row in scaled)
            if residual < least * (1 - 1e-9) - 1e-18:
                least, best = residual, [0.0] * columns
                for j, coefficient in zip(chosen, solution, strict=True):
                    best[j] = coefficient
    return best


def _solve(rows: Sequence[Sequence[float]]) -> list[float] | None:
    """Least squares of rows @ c = 1 by the normal equations; None where columns cannot be told apart."""
    size = len(rows[0])
    scale = [math.sqrt(sum(row[j] ** 2 for row in rows)) for j in range(size)]
    if min(scale) == 0:
        return None
    unit = [[row[j] / scale[j] for j in range(size)] for row in rows]
    matrix = [
        [sum(row[i] * row[j] for row in unit) for j in range(size)] + [sum(row[i] for row in unit)] for i in range(size)
    ]
    for i in range(size):
        pivot = max(range(i, size), key=lambda k: abs(matrix[k][i]))
        if abs(matrix[pivot][i]) < 1e-10:
            return None
        matrix[i], matrix[pivot] = matrix[pivot], matrix[i]
        for k in range(size):
            if k != i:
                factor = matrix[k][i] / matrix[i][i]
                matrix[k] = [a - factor * b for a, b in zip(matrix[k], matrix[i], strict=True)]
    return [matrix[i][size] / matrix[i][i] / scale[i] for i in range(size)]


def _stage(nbytes: float, members: int, link: Link | None, algorithm: Algorithm) -> float:
    return 0.0 if link is None else _seconds(_terms(nbytes, members, link, algorithm), nbytes, link)


def _terms(nbytes: float, members: int, link: Link, algorithm: Algorithm) -> tuple[float, float]:
    """How many latencies, and how often the bytes travel, by the algorithm."""
    ring, tree = _ring(members), _tree(members)
    if algorithm == "fastest":
        return min(ring, tree, key=lambda terms: _seconds(terms, nbytes, link))
    return tree if algorithm == "tree" else ring


def _ring(members: int) -> tuple[float, float]:
    return 2.0 * (members - 1), 2.0 * (members - 1) / members


def _tree(members: int) -> tuple[float, float]:
    return 2.0 * math.ceil(math.log2(members)), 2.0 if members > 1 else 0.0


def _seconds(terms: tuple[float, float], nbytes: float, link: Link) -> float:
    return terms[0] * link.latency_s + terms[1] * nbytes * link.s_per_byte
