"""The one error a user of the data stream has to expect."""

from __future__ import annotations


class DataError(ValueError):
    """The data, or what was said about them, cannot be used.

    The text says what was given, what is wrong with it and what to do; it is meant to be shown without a traceback.
    """
