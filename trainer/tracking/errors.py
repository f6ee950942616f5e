"""The one error that tracking and reports show to a user."""

from __future__ import annotations


class TrackingError(ValueError):
    """A journal, a tracking URI or an MLflow store that cannot be used; the message says what to do."""
