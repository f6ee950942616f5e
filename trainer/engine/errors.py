"""What ends a run in the middle."""

from __future__ import annotations


class TrainingError(RuntimeError):
    """The run cannot go on, on any rank; the message says where it stands and what to try."""


class CheckpointError(ValueError):
    """Weights that cannot be written; the message says where and why."""
