"""The project's stream of photos as the GPU benchmarks open it: the recipe of ImageNet, from a folder of any size."""

from __future__ import annotations

from pathlib import Path

import torch

from dali_pipelines.augmentation import Augmentation
from dali_pipelines.graphs import Decoder
from dali_pipelines.pipeline import InputPipeline, open_dataset, open_pipeline


def open_stream(
    photos: Path,
    device: torch.device,
    batch: int,
    *,
    image_size: int = 224,
    memory_format: torch.memory_format = torch.channels_last,
    decoder: Decoder = "auto",
    hw_decoder_load: float | None = None,
    threads: int,
) -> InputPipeline:
    """See dali_pipelines.pipeline.open_pipeline. The stream has no end: few photos come again and again."""
    return open_pipeline(
        open_dataset("folder", photos),
        seed=1,
        image_size=image_size,
        augmentation=Augmentation(),
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        max_micro_batch=batch,
        device=device,
        memory_format=memory_format,
        decoder=decoder,
        hw_decoder_load=hw_decoder_load,
        threads=threads,
    )
