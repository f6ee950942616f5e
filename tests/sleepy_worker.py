"""`python sleepy_worker.py -m trainer ...`: the trainer, whose rank 1 waits NAP_S seconds for images, twice, and then
for ever."""

from __future__ import annotations

import os
import sys
import time

from trainer.cli.main import command
from trainer.engine.guarded_input import GuardedInput

NAPS, LAST_UPDATE = (20, 40), 60

_read = GuardedInput.for_training


def _read_sleepily(*arguments):
    for update, batch in enumerate(_read(*arguments)):
        if update in NAPS:
            time.sleep(float(os.environ["NAP_S"]))
        if update == LAST_UPDATE:
            print("asleep", flush=True)
            time.sleep(1000)
        yield batch


if __name__ == "__main__":
    if os.environ.get("RANK", os.environ.get("HOROVOD_RANK")) == "1":
        GuardedInput.for_training = _read_sleepily
    del sys.argv[1:3]  # -m trainer
    command()
