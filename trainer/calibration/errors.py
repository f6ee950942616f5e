"""What goes wrong with a calibration."""

from __future__ import annotations


class CalibrationError(ValueError):
    """A calibration that cannot be made, read or used; the message says why and what to do."""
