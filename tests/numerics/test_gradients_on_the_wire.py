"""What travels between workers: once an update whatever the accumulation, half as much as float16, and never in an
order that depends on timing.

Bytes are counted on the loopback of a network that the workers have to themselves.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch

from tests.launching import DISTRIBUTED_LAUNCHERS, REPOSITORY, launch_prefix, worker_environment
from tests.numerics.wire_worker import CYCLE_S, GRADIENT_BYTES

pytestmark = pytest.mark.numerics

WORKER = str(Path(__file__).with_name("wire_worker.py"))
OWN_NETWORK = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
ONCE, FOUR_TIMES, HALVED, APART = "float32:1", "float32:4", "float16:1", "float32:1:apart"


@cache
def can_have_a_network() -> bool:
    try:
        return os.geteuid() == 0 and subprocess.run([*OWN_NETWORK, "true"], check=False).returncode == 0
    except FileNotFoundError:
        return False


@pytest.fixture(scope="module", params=DISTRIBUTED_LAUNCHERS)
def found(request, tmp_path_factory):
    """What workers in a network of their own found: by rank and case, "state" and "sent". Three under Horovod, since
    two have one order of adding up only."""
    prefix = tmp_path_factory.mktemp(request.param) / "rank"
    workers, library = (3, "horovod") if request.param == "horovodrun" else (2, "ddp")
    launcher = launch_prefix("horovodrun", workers)
    if library == "ddp":
        # By name this host is not to be found in there.
        launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--local-addr=127.0.0.1"]
    finished = subprocess.run(
        [*OWN_NETWORK * can_have_a_network(), *launcher, WORKER, library, str(prefix), ONCE, FOUR_TIMES, HALVED, APART],
        env=worker_environment() | {"GLOO_SOCKET_IFNAME": "lo", "HOROVOD_CYCLE_TIME": f"{1000 * CYCLE_S:g}"},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return [torch.load(f"{prefix}{rank}.pt", weights_only=True) for rank in range(workers)]


def gradients_sent(found, case):
    """By all workers in an update, in sizes of the gradients."""
    if not can_have_a_network():
        pytest.skip("a network of one's own needs root, unshare and ip")
    return statistics.median(found[0][case]["sent"]) / GRADIENT_BYTES


def test_gradients_travel_once_an_update_however_many_micro_batches_it_has(found):
    # A ring: each worker sends all parts of its gradients but one, then all parts of the sum but one. Headers are the
    # rest, and votes.
    assert gradients_sent(found, ONCE) == pytest.approx(2 * (len(found) - 1), rel=0.03)
    assert gradients_sent(found, FOUR_TIMES) == pytest.approx(gradients_sent(found, ONCE), rel=0.02)


def test_as_float16_half_the_bytes_travel(found):
    assert gradients_sent(found, HALVED) == pytest.approx(len(found) - 1, rel=0.03)


@pytest.mark.parametrize("case", [ONCE, FOUR_TIMES, HALVED])
def test_all_workers_hold_the_same_parameters_to_the_bit(found, case):
    first, *others = (worker[case]["state"] for worker in found)
    for other in others:
        for name, tensor in first.items():
            assert torch.equal(other[name], tensor), name


@pytest.mark.parametrize("case", [ONCE, FOUR_TIMES, HALVED])
def test_every_worker_probes_its_own_micro_batches_and_all_hold_the_same_noise_to_the_bit(found, case):
    for worker in found:
        # float32
        assert worker[case]["probed"] == pytest.approx(worker[case]["probed_by_autograd"], rel=1e-5)
        assert worker[case]["noise"] == found[0][case]["noise"]
    assert found[0][case]["probed"] != pytest.approx(found[1][case]["probed"], rel=1e-3)
    assert found[0][case]["noise"]["weight"] > 0


def test_float16_on_the_wire_trains_the_same_to_its_rounding(found):
    moved = 0
    for name, tensor in found[0][ONCE]["state"].items():
        rounded = found[0][HALVED]["state"][name]
        # lr 0.1, three updates whose gradients are at most about 0.1: 2^-11 of what the weights have moved
        torch.testing.assert_close(rounded, tensor, rtol=0, atol=1e-4)
        moved += int((rounded != tensor).sum())
    assert moved > 0, "it did not travel as float16"


def test_what_float16_can_carry_is_what_the_collective_says(found):
    assert [worker["arrives"] for worker in found] == [[True, False]] * len(found)


def test_sums_do_not_depend_on_which_gradients_are_ready_at_the_same_time(found):
    """In a cycle Horovod finds both buckets ready, or one and later the other."""
    for name, tensor in found[0][ONCE]["state"].items():
        assert torch.equal(found[0][APART]["state"][name], tensor), name
