"""What holds for all tests."""

from __future__ import annotations

from hypothesis import settings

# No deadlines of wall time: they depend on who else uses the machine; pytest's own ends a test that hangs.
settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")
