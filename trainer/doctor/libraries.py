"""What the answers of the libraries mean for training. Pure: answers in, findings out."""

from __future__ import annotations

from trainer.doctor.ask import Answer
from trainer.doctor.finding import Finding

OLDEST_PYTHON = (3, 10)


def python_finding(version: tuple[int, int, int]) -> Finding:
    seen = ".".join(map(str, version))
    if version[:2] < OLDEST_PYTHON:
        return Finding("Python", "missing", seen, "install Python 3.10 or newer", essential=True)
    return Finding("Python", "ok", seen, essential=True)


def torch_finding(answer: Answer) -> Finding:
    if answer.failure:
        return Finding("torch", "missing", answer.failure, "pip install torch, or make setup", essential=True)
    cuda = answer.facts["cuda"]
    return Finding("torch", "ok", f"{answer.facts['version']}, {f'CUDA {cuda}' if cuda else 'CPU'}", essential=True)


def gpu_finding(torch: Answer) -> Finding:
    """torch: what the probe of torch answered."""
    if torch.failure:
        return Finding("GPUs", "warn", "not known without torch", "see torch")
    if gpus := torch.facts["gpus"]:
        return Finding("GPUs", "ok", ", ".join(f"{name} ({memory_gib:g} GiB)" for name, memory_gib in gpus))
    if torch.facts["cuda"]:
        advice = "training runs on the CPU; where there is a GPU, check its driver: nvidia-smi"
        return Finding("GPUs", "warn", "none that torch can use", advice)
    return Finding("GPUs", "warn", "torch is a CPU build", "training runs on the CPU; for GPUs install a CUDA torch")


def nccl_finding(torch: Answer) -> Finding:
    """torch: what the probe of torch answered."""
    if torch.failure:
        return Finding("NCCL", "warn", "not known without torch", "see torch")
    if nccl := torch.facts["nccl"]:
        return Finding("NCCL", "ok", f"{nccl}, in torch")
    if torch.facts["gpus"]:
        advice = "DDP would average gradients over the CPU: install a torch built with NCCL"
        return Finding("NCCL", "warn", "torch is built without it", advice)
    return Finding("NCCL", "ok", "not needed: no GPU, workers average through Gloo")


def horovod_finding(answer: Answer, torch: Answer) -> Finding:
    """Is there a Horovod, is it mended, and can it reach the GPUs that torch sees?"""
    if answer.failure:
        advice = "use torchrun (DDP) instead, or build it: make setup (needs a C++ compiler: apt-get install g++ make)"
        return Finding("Horovod", "missing", answer.failure, advice)
    version, operations = answer.facts["version"], answer.facts["operations"]
    mended = "+mended" in version
    seen = f"{version} ({'mended' if mended else 'stock'} build), operations: {', '.join(operations) or 'none'}"
    if not mended:
        advice = "a stalled worker hangs a Gloo job for ever, and SIGKILL follows SIGTERM by 5 s: make setup mends it"
        return Finding("Horovod", "warn", seen, advice)
    if torch.facts.get("gpus") and "NCCL" not in operations:
        advice = "it cannot average on GPUs: use torchrun, or install the CUDA toolkit and NCCL, then make setup"
        return Finding("Horovod", "warn", seen, advice)
    return Finding("Horovod", "ok", seen)


def dali_findings(answer: Answer, torch: Answer) -> list[Finding]:
    """DALI itself, and what decodes JPEG files with it."""
    if answer.failure:
        advice = "pip install nvidia-dali-cuda130 (it decodes without a GPU too), or make setup"
        return [Finding("DALI", "missing", answer.failure, advice, essential=True)]
    found = [Finding("DALI", "ok", str(answer.facts["version"]), essential=True)]
    if failure := answer.facts["cpu"]:
        advice = "reinstall DALI: make clean setup"
        found.append(Finding("JPEG on the CPU", "missing", failure, advice, essential=True))
    else:
        found.append(Finding("JPEG on the CPU", "ok", "decodes", essential=True))
    if not torch.facts.get("gpus"):
        return found
    if failure := answer.facts["gpu"]:
        advice = "set data.decoder=cpu; to decode on the GPU install the DALI that fits the driver's CUDA"
        return [*found, Finding("JPEG on the GPU", "warn", failure, advice)]
    engine = "without" if answer.facts["jpeg_engine"] else "with"
    return [*found, Finding("JPEG on the GPU", "ok", f"decodes, {engine} a JPEG engine")]


def mlflow_finding(answer: Answer) -> Finding:
    if answer.failure:
        advice = "runs are kept in their journals alone; pip install mlflow, then trainer sync sends them"
        return Finding("MLflow", "missing", answer.failure, advice)
    return Finding("MLflow", "ok", str(answer.facts["version"]))
