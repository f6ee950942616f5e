"""What travels between workers: once an update whatever the accumulation, half as much as float16, and never in an
order that depends on timing.

Bytes are counted on the loopback of a network that the two workers have to themselves.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.launching import (
    DISTRIBUTED_LAUNCHERS,
    REPOSITORY,
    launch_prefix,
    needs_horovod,
    run_workers,
    worker_environment,
)
from tests.numerics.wire_worker import GRADIENT_BYTES

pytestmark = pytest.mark.numerics

WORKER = str(Path(__file__).with_name("wire_worker.py"))
OWN_NETWORK = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
ONCE, FOUR_TIMES, HALVED = "float32:1", "float32:4", "float16:1"


def can_have_a_network() -> bool:
    try:
        return os.geteuid() == 0 and subprocess.run([*OWN_NETWORK, "true"], check=False).returncode == 0
    except FileNotFoundError:
        return False


@pytest.fixture(scope="module", params=DISTRIBUTED_LAUNCHERS)
def found(request, tmp_path_factory):
    """What two workers in a network of their own found: by rank and case, "state" and "sent"."""
    if not can_have_a_network():
        pytest.skip("a network of one's own needs root, unshare and ip")
    prefix = tmp_path_factory.mktemp(request.param) / "rank"
    launcher = launch_prefix("horovodrun", 2)
    library = "horovod"
    if request.param == "torchrun":
        # By name this host is not to be found in there.
        launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--local-addr=127.0.0.1"]
        library = "ddp"
    finished = subprocess.run(
        [*OWN_NETWORK, *launcher, WORKER, library, str(prefix), ONCE, FOUR_TIMES, HALVED],
        env=worker_environment() | {"GLOO_SOCKET_IFNAME": "lo"},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return [torch.load(f"{prefix}{rank}.pt", weights_only=True) for rank in range(2)]


def bytes_an_update(found, case):
    return statistics.median(found[0][case]["sent"])


def test_gradients_travel_once_an_update_however_many_micro_batches_it_has(found):
    # A ring of two: each worker sends half of its gradients, then half of the sums. Headers and votes are the rest.
    assert bytes_an_update(found, ONCE) == pytest.approx(2 * GRADIENT_BYTES, rel=0.03)
    assert bytes_an_update(found, FOUR_TIMES) == pytest.approx(bytes_an_update(found, ONCE), rel=0.02)


def test_as_float16_half_the_bytes_travel(found):
    assert bytes_an_update(found, HALVED) == pytest.approx(GRADIENT_BYTES, rel=0.03)


@pytest.mark.parametrize("case", [ONCE, FOUR_TIMES, HALVED])
def test_all_workers_hold_the_same_parameters_to_the_bit(found, case):
    first, second = (worker[case]["state"] for worker in found)
    for name, tensor in first.items():
        assert torch.equal(second[name], tensor), name


def test_float16_on_the_wire_trains_the_same_to_its_rounding(found):
    moved = 0
    for name, tensor in found[0][ONCE]["state"].items():
        rounded = found[0][HALVED]["state"][name]
        # lr 0.1, four updates whose gradients are at most about 0.1: 2^-11 of what the weights have moved
        torch.testing.assert_close(rounded, tensor, rtol=0, atol=1e-4)
        moved += int((rounded != tensor).sum())
    assert moved > 0, "it did not travel as float16"


@needs_horovod
def test_sums_do_not_depend_on_which_gradients_are_ready_at_the_same_time(tmp_path):
    """Of three workers, since two have one order only. In a cycle of 300 ms Horovod finds all buckets ready at once."""
    states = []
    for cycle_ms in ("0.1", "300"):
        prefix = tmp_path / f"{cycle_ms}-"
        arguments = [WORKER, "horovod", str(prefix), ONCE]
        finished = run_workers("horovodrun", 3, arguments, env={"HOROVOD_CYCLE_TIME": cycle_ms})
        assert finished.returncode == 0, finished.stderr
        states.append(torch.load(f"{prefix}0.pt", weights_only=True)[ONCE]["state"])
    for name, tensor in states[0].items():
        assert torch.equal(states[1][name], tensor), name
