"""The cost of adding up gradients: published formulas, and links found again in times computed from them."""

from __future__ import annotations

import pytest

from trainer.rule.all_reduce import (
    AllReduceTime,
    Fabric,
    Link,
    all_reduce_seconds,
    fit_fabric,
    fit_nonnegative,
    ring_seconds,
    tree_seconds,
)
from trainer.rule.errors import PlanError

pytestmark = pytest.mark.unit

NVLINK = Link(5e-6, 1 / 100e9)
INFINIBAND = Link(20e-6, 1 / 10e9)


def test_a_ring_sends_2_n_minus_1_messages_of_one_nth():
    # 4 workers, 8 MB at 1 GB/s, 10 us: 6 messages of 2 MB, each 10 us + 2 ms
    assert ring_seconds(8e6, 4, Link(10e-6, 1e-9)) == pytest.approx(6 * (10e-6 + 2e-3))


def test_a_tree_goes_up_and_down_once():
    # 8 workers: 3 levels up and 3 down; the bytes travel once each way
    assert tree_seconds(8e6, 8, Link(10e-6, 1e-9)) == pytest.approx(6 * 10e-6 + 2 * 8e-3)


def test_one_worker_has_nobody_to_wait_for():
    fabric = Fabric(NVLINK, INFINIBAND)
    assert all_reduce_seconds(1e8, 1, 1, fabric) == 0
    assert ring_seconds(1e8, 1, NVLINK) == tree_seconds(1e8, 1, NVLINK) == 0


def test_nodes_add_up_among_themselves_before_they_meet_the_others():
    seconds = all_reduce_seconds(1e8, 32, 4, Fabric(NVLINK, INFINIBAND))
    assert seconds == pytest.approx(ring_seconds(1e8, 8, NVLINK) + ring_seconds(1e8, 4, INFINIBAND))


def test_the_fastest_algorithm_is_a_tree_for_small_messages_and_many_workers():
    fabric = Fabric(None, INFINIBAND, "fastest")
    assert all_reduce_seconds(1e3, 1024, 1024, fabric) == tree_seconds(1e3, 1024, INFINIBAND)
    assert all_reduce_seconds(1e9, 4, 4, fabric) == ring_seconds(1e9, 4, INFINIBAND)


@pytest.mark.parametrize("algorithm", ["ring", "tree", "fastest"])
def test_links_are_found_again_in_the_times_they_cause(algorithm):
    fabric = Fabric(NVLINK, INFINIBAND, algorithm)
    times = [
        AllReduceTime(workers, nodes, nbytes, all_reduce_seconds(nbytes, workers, nodes, fabric))
        for workers, nodes in ((8, 1), (16, 2), (32, 4))
        for nbytes in (1_000, 1_000_000, 100_000_000)
    ]
    fitted = fit_fabric(times, algorithm)
    assert fitted.within.latency_s == pytest.approx(NVLINK.latency_s)
    assert fitted.within.s_per_byte == pytest.approx(NVLINK.s_per_byte)
    assert fitted.between.latency_s == pytest.approx(INFINIBAND.latency_s)
    assert fitted.between.s_per_byte == pytest.approx(INFINIBAND.s_per_byte)
    assert fitted.error == pytest.approx(0, abs=1e-9)
    assert all_reduce_seconds(5e7, 256, 32, fitted) == pytest.approx(all_reduce_seconds(5e7, 256, 32, fabric))


def test_measured_on_one_node_the_link_between_nodes_is_taken_for_as_good():
    times = [AllReduceTime(4, 1, nbytes, ring_seconds(nbytes, 4, NVLINK)) for nbytes in (1_000, 100_000_000)]
    fitted = fit_fabric(times)
    assert fitted.between is None
    assert all_reduce_seconds(1e6, 8, 2, fitted) == pytest.approx(
        ring_seconds(1e6, 4, NVLINK) + ring_seconds(1e6, 2, NVLINK)
    )


def test_measured_on_several_nodes_alone_everything_counts_as_between():
    fabric = Fabric(NVLINK, INFINIBAND)
    times = [AllReduceTime(16, 2, nbytes, all_reduce_seconds(nbytes, 16, 2, fabric)) for nbytes in (1_000, 100_000_000)]
    fitted = fit_fabric(times)
    assert fitted.within is None
    for time in times:
        assert all_reduce_seconds(time.nbytes, 16, 2, fitted) == pytest.approx(time.seconds)


def test_without_a_fleet_there_is_nothing_to_fit():
    assert fit_fabric([AllReduceTime(1, 1, 1000, 1e-6)]) == Fabric(None, None)
    assert all_reduce_seconds(1e6, 8, 2, Fabric(None, None)) == 0


@pytest.mark.parametrize(
    ("workers", "nodes", "nbytes", "seconds"),
    [(2, 0, 1000, 0.1), (2, 3, 1000, 0.1), (2, 1, 0, 0.1), (2, 1, 1000, 0.0), (2, 1, 1000, float("nan"))],
)
def test_what_takes_no_time_or_has_no_place_was_never_measured(workers, nodes, nbytes, seconds):
    with pytest.raises(PlanError, match=f"{workers} workers on {nodes} nodes in .* s was never measured: calibrate"):
        AllReduceTime(workers, nodes, nbytes, seconds)


def test_noise_of_5_percent_is_told_as_such():
    exact = [(nbytes, ring_seconds(nbytes, 2, INFINIBAND)) for nbytes in (1_000, 1_000_000, 100_000_000)]
    times = [AllReduceTime(2, 1, nbytes, seconds * f) for (nbytes, seconds), f in zip(exact, (1, 1.05, 1), strict=True)]
    assert 0.005 < fit_fabric(times).error < 0.05


def test_no_coefficient_is_ever_negative():
    # the straight line through these would start at -1
    assert fit_nonnegative([[1.0, 1.0], [1.0, 2.0]], [1.0, 3.0])[0] == 0


def test_columns_that_cannot_be_told_apart_are_fitted_by_one():
    solution = fit_nonnegative([[1.0, 2.0], [2.0, 4.0]], [3.0, 6.0])
    assert solution == pytest.approx([3.0, 0.0])
