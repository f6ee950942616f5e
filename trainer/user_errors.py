"""Which errors are the user's to read."""

from __future__ import annotations


def is_users(error: BaseException) -> bool:
    """Whether the error was raised for the user: a ValueError whose class stands in this project, not in a library."""
    return isinstance(error, ValueError) and type(error).__module__.split(".")[0] in ("trainer", "dali_pipelines")
