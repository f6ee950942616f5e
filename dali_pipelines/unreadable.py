"""Files that could not be read in mid-run: which, how many are too many, and what a missing image is labelled."""

from __future__ import annotations

from dataclasses import dataclass, field

from dali_pipelines.errors import DataError

UNREADABLE = -1  # the label of a validation image that cannot be read: no guess is right

_NAMED = 10  # at most so many files are named in one message


@dataclass(slots=True)
class UnreadableFiles:
    """Files that could not be read, with what is wrong with each, in the order met; at_most are allowed."""

    at_most: int = 0
    faults: dict[str, str] = field(default_factory=dict)

    @property
    def are_too_many(self) -> bool:
        """Whether there are more than are allowed."""
        return len(self.faults) > self.at_most

    def too_many(self) -> DataError:
        """The error that says so, and names them."""
        named = [f"{path} ({fault})" for path, fault in list(self.faults.items())[:_NAMED]]
        more = f" and {len(self.faults) - _NAMED} more" if len(self.faults) > _NAMED else ""
        bound = f", and data.max_unreadable allows {self.at_most}" if self.at_most else ""
        return DataError(
            f"cannot be decoded: {', '.join(named)}{more}{bound}: repair or remove the files and index them again, or "
            f"set a higher data.max_unreadable to go on without them"
        )
