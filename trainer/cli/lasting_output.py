"""Output that outlives its reader: a run of days does not end because the `tee` behind it has."""

from __future__ import annotations

import io
from typing import TextIO


class LastingOutput(io.TextIOBase):
    """Another stream; once it cannot be written (a closed pipe, a full disk) what comes is dropped."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._is_lost = False

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    def write(self, text: str) -> int:
        if not self._is_lost:
            try:
                return self._stream.write(text)
            except OSError:
                self._is_lost = True
        return len(text)

    def flush(self) -> None:
        if not self._is_lost:
            try:
                self._stream.flush()
            except OSError:
                self._is_lost = True
