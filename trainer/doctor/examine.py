"""The whole examination: asks all libraries at once, looks at the machine, and lists the findings in reading order."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from trainer.doctor.ask import ask
from trainer.doctor.finding import Finding
from trainer.doctor.libraries import (
    dali_findings,
    gpu_finding,
    horovod_finding,
    mlflow_finding,
    nccl_finding,
    python_finding,
    torch_finding,
)
from trainer.doctor.machine import machine_findings


def examine(output: Path) -> list[Finding]:
    """All findings; output is the folder that runs are written to. Takes seconds: libraries are really imported."""
    with ThreadPoolExecutor() as pool:
        torch, horovod, dali, mlflow = pool.map(ask, ("torch", "horovod", "dali", "mlflow"))
    return [
        python_finding(sys.version_info[:3]),
        torch_finding(torch),
        gpu_finding(torch),
        nccl_finding(torch),
        horovod_finding(horovod, torch),
        *dali_findings(dali, torch),
        mlflow_finding(mlflow),
        *machine_findings(output),
    ]
