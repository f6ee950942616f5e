"""What a worker makes of signals, and of a launcher that ends without one."""

from __future__ import annotations

import signal
import socket
import threading

import pytest

from trainer.cli import signals as module
from trainer.cli.signals import StopSignals

pytestmark = pytest.mark.unit


def hear(signals, number):
    """Returns when it has been heard."""
    speaker, listener = socket.socketpair()
    speaker.sendall(bytes([number]))
    speaker.close()
    thread = threading.Thread(target=signals.listen, args=(listener,))
    thread.start()
    thread.join(10)
    listener.close()


@pytest.fixture
def codes(monkeypatch):
    """With which the process would have ended at once; no two signals are one and the same here."""
    codes = []
    monkeypatch.setattr(module, "_ONE_AND_THE_SAME_S", -1.0)
    monkeypatch.setattr(module.os, "_exit", codes.append)
    return codes


def test_a_launcher_that_is_gone_is_a_wish_to_stop_and_leaves_the_first_signal_its_meaning(codes):
    """A pod whose launcher has ended is told to end while the run is saved."""
    signals = StopSignals()
    signals.launcher_is_gone()
    assert (signals.is_stop_wanted, signals.text) == (True, "the launcher has ended")
    hear(signals, signal.SIGTERM)
    assert codes == []
    assert (signals.is_stop_wanted, signals.text) == (True, "ended by SIGTERM")
    hear(signals, signal.SIGTERM)
    assert codes == [128 + signal.SIGTERM]


def test_a_signal_before_the_launcher_has_gone_stays_what_stopped_the_worker(codes):
    signals = StopSignals()
    assert (signals.is_stop_wanted, signals.text) == (False, "another worker was stopped")
    hear(signals, signal.SIGINT)
    signals.launcher_is_gone()
    assert (signals.text, codes) == ("interrupted", [])
