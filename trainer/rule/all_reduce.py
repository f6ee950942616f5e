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
from dataclasses import dataclass
from typing import Literal

Algorithm = Literal["ring", "tree", "fastest"]


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
    seconds = 0.0 if between is None else _stage(nbytes, nodes, between, fabric.algorithm)
    return seconds + (0.0 if fabric.within is None else _stage(nbytes, per_node, fabric.within, fabric.algorithm))


def fit_fabric(times: Sequence[AllReduceTime], algorithm: Algorithm = "ring") -> Fabric:
    """The links that explain the measured times best (least squares of the relative errors, nothing negative).

    Links within nodes are seen by fleets of one node only; the times of a fleet on several nodes then give those
    between. Measured on several nodes alone, everything counts as between.
    """
    times = [time for time in times if time.workers > 1]
    if not times:
        return Fabric(None, None, algorithm)
    sees_within = any(time.nodes == 1 for time in times)
    sees_between = any(time.nodes > 1 for time in times)
    terms = _tree if algorithm == "tree" else _ring

    def row(time: AllReduceTime) -> list[float]:
        within = terms(-(-time.workers // time.nodes)) if sees_within else (0.0, 0.0)
        between = terms(time.nodes) if sees_between else (0.0, 0.0)
        return [within[0], within[1] * time.nbytes, between[0], between[1] * time.nbytes]

    latency_w, byte_w, latency_b, byte_b = fit_nonnegative([row(time) for time in times], [t.seconds for t in times])
    fabric = Fabric(
        Link(latency_w, byte_w) if sees_within else None, Link(latency_b, byte_b) if sees_between else None, algorithm
    )
    errors = [abs(all_reduce_seconds(t.nbytes, t.workers, t.nodes, fabric) / t.seconds - 1) for t in times]
    return Fabric(fabric.within, fabric.between, algorithm, max(errors))


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


def _stage(nbytes: float, members: int, link: Link, algorithm: Algorithm) -> float:
    ring, tree = ring_seconds(nbytes, members, link), tree_seconds(nbytes, members, link)
    return {"ring": ring, "tree": tree, "fastest": min(ring, tree)}[algorithm]


def _ring(members: int) -> tuple[float, float]:
    """How many latencies, and how often the bytes travel."""
    return 2.0 * (members - 1), 2.0 * (members - 1) / members


def _tree(members: int) -> tuple[float, float]:
    return 2.0 * math.ceil(math.log2(members)), 2.0 if members > 1 else 0.0


def _seconds(terms: tuple[float, float], nbytes: float, link: Link) -> float:
    return terms[0] * link.latency_s + terms[1] * nbytes * link.s_per_byte
