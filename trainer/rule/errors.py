"""What the rule says when a plan cannot be made."""

from __future__ import annotations


class PlanError(ValueError):
    """A schedule, a limit or a fleet that cannot be planned; the message says what to change."""
