"""Small networks that have learned a little, and their checkpoints."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from trainer.engine.checkpoint import newest_checkpoint
from trainer.engine.optimizer import build_optimizer
from trainer.engine.run_state import RunState, Standing, TargetReached
from trainer.engine.saving import CheckpointWriter, SavingPlan
from trainer.models import build_model

IDENTITY = {"seed": "1", "data": "digest"}


TARGET = TargetReached(elapsed_s=0.1 + 0.2, train_s=1 / 3, updates=7, epochs=0.7)


STANDING = Standing(RunState(2880, 180, 2, 0.9, 1 / 3, TARGET), {"train": 1.1, "data_wait": 0.1}, 1e-7)


def network_and_optimizer(name="momentum", updates=0, seed=0):
    """A network with batch norm, and an optimizer that has stepped."""
    torch.manual_seed(seed)
    model = build_model("small-convnet", 10, ghost_batch=4)
    optimizer = build_optimizer(name, model, lr=0.1, momentum=0.9, weight_decay=1e-4)
    for _ in range(updates):
        loss = nn.functional.cross_entropy(model(torch.randn(8, 3, 8, 8)), torch.randint(0, 10, (8,)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model, optimizer


def write(folder, standing, model, optimizer, keep=2):
    """A checkpoint in the folder, and the weights beside the folder."""
    weights = folder.parent / f"{folder.name}.weights.pt"
    writer = CheckpointWriter(folder, weights, IDENTITY, SavingPlan(keep=keep))
    writer.save(standing, model, optimizer, {})
    writer.finish()


def newest(folder):
    """The newest checkpoint, of those that are whole without exception."""
    return newest_checkpoint(folder, pytest.fail)


def save(folder, samples_seen=2880, keep=2, top1=None, part=None, **options):
    """A checkpoint, after an epoch that was evaluated so; returns the network and the optimizer that were saved."""
    model, optimizer = network_and_optimizer(updates=2, **options)
    state = RunState(samples_seen=samples_seen, next_epoch=0 if top1 is None else 1, last_top1=top1 or 0.0, part=part)
    standing = Standing(state, {}, 0.0)
    write(folder, standing, model, optimizer, keep)
    return model, optimizer


def assert_equal(saved, restored):
    """Two state dicts, to the bit."""
    if isinstance(saved, torch.Tensor):
        assert torch.equal(saved, restored)
    elif isinstance(saved, dict):
        assert saved.keys() == restored.keys()
        for key in saved:
            assert_equal(saved[key], restored[key])
    elif isinstance(saved, (list, tuple)):
        assert len(saved) == len(restored)
        for one, other in zip(saved, restored, strict=True):
            assert_equal(one, other)
    else:
        assert saved == restored
