"""One update: micro-batches in, one optimizer step out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from trainer.collective.collective import Collective
from trainer.engine.gradient_probe import Probe
from trainer.engine.readings import refuse_not_finite
from trainer.models.ghost_batch_norm import finish_update
from trainer.rule import BatchPlan


def run_update(
    module: nn.Module,
    optimizer: Optimizer,
    collective: Collective,
    micro_batches: Iterator[tuple[Tensor, Tensor]],
    plan: BatchPlan,
    autocast_to: torch.dtype | None = None,
    before_last: Callable[[], None] = lambda: None,
    note: Callable[[Tensor, Sequence[Tensor]], None] = refuse_not_finite,
    probe: Probe | None = None,
) -> Tensor:
    """Takes the plan's accumulation_steps micro-batches from the iterator and steps the optimizer once.

    The loss is the sum over samples divided by the global batch, so that gradients add up over micro-batches and
    workers to those of one big batch. before_last is called when the last micro-batch is there, and note before the
    optimizer steps, with what is returned and the gradients, which are the same on every rank: what it raises stops all
    ranks, or none. Without another note that is TrainingError where a loss or a gradient is not finite on any rank.
    probe: what looks at the gradient of each micro-batch, and may cut a single one in two.
    Returns this worker's share of the mean loss: a scalar on the device. Nothing here waits for the device but note.
    """
    samples_to_loss = collective.gradient_divisor / plan.global_batch
    loss_sum: Tensor | None = None
    steps = plan.accumulation_steps
    if probe is not None:
        micro_batches, steps = probe.in_parts(micro_batches), probe.parts
    with nullcontext() if probe is None else probe.listening():
        for step in range(steps):
            images, labels = next(micro_batches)
            is_last = step == steps - 1
            if is_last:
                before_last()
            with collective.micro_step(last=is_last):
                with autocast(images.device, autocast_to):
                    loss = F.cross_entropy(module(images), labels, reduction="sum")
                seen = loss.detach()
                # Or from nan where the loss is not finite: then no gradient is, also of an infinite loss with a finite
                # slope, and all ranks stop.
                loss.backward(samples_to_loss + (seen - seen))
            loss_sum = seen if loss_sum is None else loss_sum + seen
            if probe is not None:
                probe.end_of_part(len(labels))
    assert loss_sum is not None, "an update has a micro-batch"
    collective.finish_gradients()
    share = loss_sum / plan.global_batch
    parameters = (parameter for group in optimizer.param_groups for parameter in group["params"])
    note(share, [parameter.grad for parameter in parameters if parameter.grad is not None])
    optimizer.step()
    optimizer.zero_grad()
    finish_update(module, plan.global_batch)
    return share


def autocast(device: torch.device, to: torch.dtype | None) -> AbstractContextManager[object]:
    """Mixed precision where a type is given."""
    return nullcontext() if to is None else torch.autocast(device.type, dtype=to)


def seed_update(seed: int, samples_seen: int, rank: int, device: torch.device) -> None:
    """Makes what a network draws in an update (dropout) a function of the seed, the update's position in the stream and
    the worker: a run that is taken up again draws what it would have drawn."""
    digest = hashlib.blake2b(f"{seed} {samples_seen} {rank}".encode(), digest_size=4).digest()
    number = int.from_bytes(digest, "big")
    # torch.manual_seed does both and asks for every other kind of device: 150 us, and that at every update.
    torch.default_generator.manual_seed(number)
    if device.type == "cuda":
        torch.cuda.manual_seed(number)
