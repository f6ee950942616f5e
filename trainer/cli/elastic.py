"""What an elastic launcher asks of a run, so that it goes on when workers come or go.

torchrun ends all workers and starts others. horovodrun starts those that come; those that stay leave the fleet and join
the new one, in the process they run in (join.py). Either way all take the run up from its newest checkpoint.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from trainer.cli.fleet import FleetError
from trainer.cli.resume_arguments import AUTO
from trainer.collective.agreement import broadcast_text, together
from trainer.collective.collective import Collective
from trainer.environment import Launch


def check_elastic(launch: Launch, resume: str | None) -> None:
    """Raises FleetError where an elastic launcher could not go on with the run. resume: what --resume says."""
    if not launch.is_elastic:
        return
    if resume is None:
        raise FleetError(
            f"{launch.launcher} is to go on when workers come or go, and would begin anew each time: add --resume auto"
        )
    if launch.shares_store:
        # The workers that come find the addresses of those before them in it, and are not told where rank 0 listens
        # (torch 2.13).
        raise FleetError(
            f"{launch.launcher} cannot start workers again while it shares its store with them: set "
            f"TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 where it is started"
        )


def check_folder_is_shared(output: str, resume: str, collective: Collective) -> None:
    """Raises WorkerError on every rank where one does not see the folder of the runs that rank 0 sees: any may become
    rank 0, and has to find the checkpoints then."""
    folder = Path(output if resume == AUTO else resume)
    with contextlib.ExitStack() as stack:

        def leave_mark() -> str:
            if collective.rank > 0 or (resume != AUTO and not folder.is_dir()):
                return ""
            return stack.enter_context(_mark(folder))

        name = broadcast_text(collective, together(collective, leave_mark))
        if not name:
            return  # no such run: resume.py says so

        def look() -> None:
            if not (folder / name).exists():
                raise FleetError(
                    f"{folder} is another folder than rank 0's: whoever goes on when rank 0 is lost needs its "
                    f"checkpoints: set output to a folder that all hosts share"
                )

        together(collective, look)


@contextlib.contextmanager
def _mark(folder: Path) -> Iterator[str]:
    """The name of a file that is there for a moment."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = tempfile.NamedTemporaryFile(prefix=".seen-by-all-", dir=folder)  # noqa: SIM115 - closed below
    except OSError as error:
        raise FleetError(f"{folder}: cannot be written ({error.strerror}): choose another output folder") from error
    with file:
        yield Path(file.name).name
