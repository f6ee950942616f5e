"""The value that every examination ends in, and the question they answer together: can one train here?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "warn", "missing"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at: what was seen, whether it is enough, and what to do where it is not.

    essential: without it no training is possible at all.
    """

    name: str
    verdict: Verdict
    seen: str
    advice: str = ""
    essential: bool = False

    def __post_init__(self) -> None:
        assert self.verdict == "ok" or self.advice, f"{self.name}: whoever is told of a lack must be told what to do"


def can_train(findings: Iterable[Finding]) -> bool:
    """True unless something essential is missing."""
    return not any(finding.essential and finding.verdict == "missing" for finding in findings)
