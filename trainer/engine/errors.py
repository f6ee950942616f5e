"""What ends a run in the middle."""

from __future__ import annotations


class TrainingError(RuntimeError):
    """The run cannot go on, on any rank; the message says where it stands and what to try."""


class CheckpointError(ValueError):
    """Weights or a checkpoint that cannot be written or read; the message says where and why."""
