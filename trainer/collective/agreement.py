"""Agreeing on more than tensors: a text, a check that all hold the same, a failure that one rank had."""

from __future__ import annotations

import hashlib

import torch

from trainer.collective.collective import Collective


def broadcast_text(collective: Collective, text: str, source_rank: int = 0) -> str:
    """The text of source_rank, on every rank."""
    data = text.encode() if collective.rank == source_rank else b""
    length = int(collective.broadcast(torch.tensor([len(data)]), source_rank))
    if length == 0:
        return ""
    buffer = torch.zeros(length, dtype=torch.uint8)
    if collective.rank == source_rank:
        buffer.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
    return bytes(collective.broadcast(buffer, source_rank).tolist()).decode()


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
