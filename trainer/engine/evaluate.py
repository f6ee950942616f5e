"""Evaluation: every validation image once over all workers, counted in integers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dali_pipelines.unreadable import UNREADABLE
from trainer.collective.agreement import together
from trainer.collective.collective import Collective
from trainer.engine.guarded_input import GuardedInput
from trainer.engine.update import autocast

Batches = Iterator[tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Over the whole validation set: mean cross-entropy, and the shares (0 to 1) of images whose label is the first, or
    among the first five, of the network's guesses. Images that cannot be read count as guessed wrong, and are left out
    of the loss."""

    images: int
    loss: float
    top1: float
    top5: float


def evaluate(
    model: nn.Module,
    images: GuardedInput,
    collective: Collective,
    device: torch.device,
    autocast_to: torch.dtype | None = None,
    paced: Callable[[Batches], Batches] = iter,
) -> Evaluation:
    """Evaluates the model on this worker's share of the images (possibly none) and adds up over workers.

    paced: what the batches go through, and what may end the evaluation by raising. Raises WorkerError on every rank
    where an image could not be decoded on any.
    """
    average_running_statistics(model, collective)
    images_seen = 0
    # images that were read, first guess right, among the first five
    counts = torch.zeros(3, dtype=torch.int64, device=device)
    loss = torch.zeros((), dtype=torch.float64, device=device)
    model.eval()
    try:
        with torch.inference_mode():
            for batch, labels in paced(images.for_evaluation()):
                with autocast(device, autocast_to):
                    logits = model(batch)
                images_seen += len(labels)
                loss += F.cross_entropy(logits.float(), labels, ignore_index=UNREADABLE, reduction="sum")
                guesses = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
                counts += torch.stack([(labels != UNREADABLE).sum(), guesses[:, 0].sum(), guesses.sum()])
    finally:
        model.train()
    together(collective, images.raise_failure)
    # The one place that waits for the device: numbers that were put there or read from it batch by batch would too.
    totals = torch.tensor([images_seen, *counts.tolist()])
    images_seen, images_read, top1, top5 = collective.all_reduce(totals).tolist()
    total_loss = float(collective.all_reduce(loss.cpu()))
    assert images_read > 0, "a validation set has images, and where none can be read the input has failed"
    return Evaluation(images_seen, total_loss / images_read, top1 / images_seen, top5 / images_seen)


def average_running_statistics(model: nn.Module, collective: Collective) -> None:
    """Makes the running statistics of every kind of batch norm the mean over workers, before they are used."""
    for name, mean in mean_running_statistics(model, collective).items():
        model.get_buffer(name).copy_(mean)


def mean_running_statistics(model: nn.Module, collective: Collective) -> dict[str, Tensor]:
    """The running statistics of every kind of batch norm, by name: their mean over workers."""
    buffers = {name: each for name, each in model.named_buffers() if name.endswith(("running_mean", "running_var"))}
    if not buffers or collective.world_size == 1:
        return {name: buffer.clone() for name, buffer in buffers.items()}
    flat = collective.all_reduce(torch.cat([each.reshape(-1) for each in buffers.values()])) / collective.world_size
    means = flat.split([each.numel() for each in buffers.values()])
    return {name: mean.view_as(each) for (name, each), mean in zip(buffers.items(), means, strict=True)}
