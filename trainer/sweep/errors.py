"""The one error that a sweep shows to a user."""

from __future__ import annotations


class SweepError(ValueError):
    """A grid, a launcher or a run of a sweep that cannot go on; the message names it and says what to do."""
