"""How tests of arbitrary input run: a share in every test run, always the same; many times that by `make fuzz`."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, settings

_TIMES = int(os.environ.get("FUZZ_TIMES", "1"))


def fuzz(examples: int) -> Callable[[Any], Any]:
    """For a test with @given: this many examples, times FUZZ_TIMES.

    No deadlines of wall time: they depend on who else uses the machine; pytest's own ends a test that hangs.
    """
    return settings(
        max_examples=examples * _TIMES,
        derandomize=_TIMES == 1,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
    )
