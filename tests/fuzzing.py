"""How tests of arbitrary input run: a share in every test run, always the same; many times that by `make fuzz`."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

_TIMES = int(os.environ.get("FUZZ_TIMES", "1"))


def fuzz(examples: int) -> Callable[[Any], Any]:
    """For a test with @given: this many examples, times FUZZ_TIMES."""
    return settings(
        max_examples=examples * _TIMES,
        derandomize=_TIMES == 1,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
    )


# Places, lengths and bytes: what `damaged` does to a file.
damage = st.lists(
    st.tuples(
        st.integers(0, 10**6),  # where, of the file's length
        st.integers(0, 12),  # bytes that go
        st.binary(max_size=12)
        | st.sampled_from([b"\xff" * 4, b"\xff" * 8, b"\x7f\xff\xff\xff", bytes(8), b"../", b"/"]),
    ),
    min_size=1,
    max_size=5,
)


def damaged(content: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    """The content after these changes, one after the other."""
    for place, removed, inserted in changes:
        at = place % (len(content) + 1)
        content = content[:at] + inserted + content[at + removed :]
    return content
