"""What the door to networks says when it cannot build one."""

from __future__ import annotations


class ModelError(ValueError):
    """A network that cannot be built; the message names what can."""
