"""Agreeing on more than tensors: a text, a check that all hold the same, a failure that one worker had.

A worker that leaves on its own lets the others wait for ever, or die with the library's words. So whatever can fail on
one rank is done `together`: all ranks hear of it, raise the same error at the same place, and rank 0 can record it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TypeVar

import torch

from trainer.collective.collective import Collective
from trainer.user_errors import is_users

T = TypeVar("T")
_PIECE = 2**26  # bytes that travel at once: libraries count in 32 bits


class WorkerError(ValueError):
    """What one worker found to be wrong, raised on all; the message names its rank unless that is 0."""


def together(collective: Collective, step: Callable[..., T], *arguments: object) -> T:
    """Returns step(*arguments), called on every rank; raises WorkerError on every rank if it failed on any.

    Errors for the user (see trainer.user_errors) count as failures; the lowest failing rank's message is raised.
    """
    failure: ValueError | None = None
    result: T | None = None
    try:
        result = step(*arguments)
    except ValueError as error:
        if not is_users(error):
            raise
        failure = error
    rank = first_rank_where(collective, failure is not None)
    if rank is None:
        return result  # type: ignore[return-value]
    # The name of a file may hold what is no character.
    message = broadcast_text(collective, str(failure).encode(errors="backslashreplace").decode(), rank)
    raise WorkerError(message if rank == 0 else f"rank {rank}: {message}") from failure


def broadcast_text(collective: Collective, text: str, source_rank: int = 0) -> str:
    """The text of source_rank, on every rank."""
    return broadcast_bytes(collective, text.encode(), source_rank).decode()


def broadcast_bytes(collective: Collective, data: bytes, source_rank: int = 0) -> bytes:
    """The bytes of source_rank, on every rank."""
    if collective.world_size == 1:
        return data
    length = int(collective.broadcast(torch.tensor([len(data)]), source_rank))
    pieces = []
    for start in range(0, length, _PIECE):
        piece = torch.empty(min(_PIECE, length - start), dtype=torch.uint8)
        if collective.rank == source_rank:
            piece = torch.frombuffer(bytearray(data[start : start + _PIECE]), dtype=torch.uint8)
        pieces.append(collective.broadcast(piece, source_rank).numpy().tobytes())
    return b"".join(pieces)


def first_rank_where(collective: Collective, condition: bool) -> int | None:
    """The lowest rank on which the condition holds, or None if it holds nowhere; the same answer on every rank."""
    held = torch.zeros(collective.world_size, dtype=torch.int64)
    held[collective.rank] = int(condition)
    ranks = torch.nonzero(collective.all_reduce(held))
    return None if len(ranks) == 0 else int(ranks[0])


def first_rank_that_differs(collective: Collective, text: str) -> int | None:
    """The lowest rank whose text is not rank 0's, or None if all hold the same; the same answer on every rank."""
    digest = hashlib.sha256(text.encode()).hexdigest()
    return first_rank_where(collective, digest != broadcast_text(collective, digest))
