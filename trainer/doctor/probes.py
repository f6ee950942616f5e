"""The questions put to libraries, each in a Python process of its own (see ask.py).

A library built for another version of its neighbour may fail to import, or end the process; the doctor has to outlive
it. `python -m trainer.doctor.probes NAME` prints what probe NAME found as one line of JSON. Libraries are imported by
name here and nowhere else outside the files that work with them: the doctor only looks at them.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from importlib import import_module, metadata
from typing import Any

Facts = dict[str, Any]


def torch_facts() -> Facts:
    """Version; the CUDA that it was built for; GPUs as (name, memory in GiB); NCCL's version."""
    torch = import_module("torch")
    devices = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    has_nccl = torch.distributed.is_available() and torch.distributed.is_nccl_available()
    return {
        "version": torch.__version__,
        "cuda": torch.version.cuda,
        "gpus": [(device.name, round(device.total_memory / 2**30, 1)) for device in devices],
        "nccl": ".".join(map(str, torch.cuda.nccl.version())) if has_nccl else None,
    }


def horovod_facts() -> Facts:
    """Version with the mark of a mended build, and the operations that were compiled in."""
    horovod = import_module("horovod.torch")
    operations = {"Gloo": horovod.gloo_built(), "MPI": horovod.mpi_built(), "NCCL": horovod.nccl_built()}
    return {"version": metadata.version("horovod"), "operations": [name for name, built in operations.items() if built]}


def dali_facts() -> Facts:
    """Version, and what decodes a JPEG here: the CPU, the GPU, the GPU's JPEG engine."""
    dali = import_module("nvidia.dali")
    return {
        "version": dali.__version__,
        "cpu": _failure(lambda: _decode_with_dali("cpu", None)),
        "gpu": _failure(lambda: _decode_with_dali("mixed", 0)),
        "jpeg_engine": _failure(_decode_with_jpeg_engine),
    }


def mlflow_facts() -> Facts:
    """Version, as installed: importing MLflow would start its usage telemetry."""
    return {"version": metadata.version("mlflow")}


def _failure(attempt: Callable[[], None]) -> str:
    """Why the attempt failed, in one line; empty if it did not."""
    try:
        attempt()
    except Exception as error:
        return f"{type(error).__name__}: {error}".strip().splitlines()[0]
    return ""


def _small_jpeg() -> bytes:
    """A red square of 64 x 64 pixels."""
    file = io.BytesIO()
    import_module("PIL.Image").new("RGB", (64, 64), (200, 20, 20)).save(file, "JPEG")
    return file.getvalue()


def _decode_with_dali(device: str, device_id: int | None) -> None:
    dali, fn, numpy = import_module("nvidia.dali"), import_module("nvidia.dali.fn"), import_module("numpy")
    jpeg = numpy.frombuffer(_small_jpeg(), dtype=numpy.uint8)
    pipeline = dali.Pipeline(batch_size=1, num_threads=1, device_id=device_id)
    with pipeline:
        pipeline.set_outputs(fn.decoders.image(fn.external_source(source=lambda: [jpeg]), device=device))
    pipeline.build()
    (images,) = pipeline.run()
    assert images.as_cpu().at(0).shape == (64, 64, 3), "a JPEG of 64 x 64 pixels decodes to 64 x 64 pixels"


def _decode_with_jpeg_engine() -> None:
    nvimgcodec = import_module("nvidia.nvimgcodec")
    decoder = nvimgcodec.Decoder(backends=[nvimgcodec.Backend(nvimgcodec.HW_GPU_ONLY)])
    if decoder.decode(_small_jpeg()) is None:
        raise RuntimeError("this GPU has no JPEG engine")


PROBES: dict[str, Callable[[], Facts]] = {
    "torch": torch_facts,
    "horovod": horovod_facts,
    "dali": dali_facts,
    "mlflow": mlflow_facts,
}

if __name__ == "__main__":
    print(json.dumps(PROBES[sys.argv[1]]()))
