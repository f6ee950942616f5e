"""How workers leave together."""

from __future__ import annotations

import pytest

from trainer.cli.join import Terminated, interrupts_as_such

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("stop", [KeyboardInterrupt, Terminated])
def test_a_signal_during_a_librarys_import_is_still_a_signal(stop):
    with pytest.raises(stop), interrupts_as_such():
        raise ImportError("initialization failed") from stop()


def test_a_library_that_is_missing_is_still_missing():
    with pytest.raises(ImportError, match="No module named"), interrupts_as_such():
        import no_such_library  # noqa: F401
