"""Networks of model libraries by their names there: timm/NAME and pytorchcv/NAME, never with pretrained weights.

The libraries are not among this project's requirements. timm needs torchvision, which has no build for CPU builds of
torch. pytorchcv works without, but for the module that gathers its networks, so that one is read, not imported.
"""

from __future__ import annotations

import ast
import difflib
import importlib
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

from trainer.models.errors import ModelError

# What to do where it cannot be imported.
LIBRARIES = {
    "timm": "install timm and the torchvision that belongs to this torch",
    "pytorchcv": "pip install --no-deps pytorchcv (with its dependencies pip may replace torch)",
}


def library_network(name: str, num_classes: int) -> nn.Module:
    """The network LIBRARY/NAME with num_classes outputs and fresh weights. Raises ModelError where there is none."""
    library, _, network = name.partition("/")
    if library == "timm":
        timm = _import("timm", name)
        _refuse_unless_known(network, timm.list_models(), name)
        build, arguments = timm.create_model, (network,)
    else:
        modules = _pytorchcv_modules(name)
        _refuse_unless_known(network, modules, name)
        build, arguments = getattr(_import(modules[network], name), network), ()
    try:
        return build(*arguments, pretrained=False, num_classes=num_classes)
    except Exception as error:  # whatever a library says of its own networks
        raise ModelError(f"model.name {name!r} cannot be built for {num_classes} classes ({_line(error)})") from error


def refuse_unless_it_takes(model: nn.Module, name: str, num_classes: int, image_size: int) -> None:
    """Gives the model one blank image. Raises ModelError where it does not answer with num_classes logits."""
    model.eval()
    try:
        with torch.no_grad():
            logits = model(torch.zeros(1, 3, image_size, image_size))
    except Exception as error:  # many say it with an error from deep inside torch
        raise ModelError(
            f"model.name {name!r} takes no images of {image_size} pixels a side ({_line(error)}): set data.image_size "
            f"to the size that it was made for"
        ) from error
    if not isinstance(logits, Tensor) or logits.shape != (1, num_classes):
        raise ModelError(f"model.name {name!r} gives something else than {num_classes} logits: take a classifier")
    model.train()


def _pytorchcv_modules(name: str) -> dict[str, str]:
    """Every network of pytorchcv -> the module that defines it, by the imports in pytorchcv/model_provider.py."""
    package = _import("pytorchcv", name)
    source = Path(package.__path__[0], "model_provider.py").read_text(encoding="utf-8")
    return {
        alias.name: f"pytorchcv.{statement.module}"
        for statement in ast.parse(source).body
        if isinstance(statement, ast.ImportFrom) and statement.level == 1
        for alias in statement.names
    }


def _import(module: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except Exception as error:  # a library that was built for another torch fails in its own ways
        library = module.partition(".")[0]
        raise ModelError(
            f"model.name {name!r}: {module} cannot be imported ({_line(error)}): {LIBRARIES[library]}, or take another "
            f"network"
        ) from error


def _refuse_unless_known(network: str, known: Iterable[str], name: str) -> None:
    known = sorted(known)
    if network not in known:
        close = difflib.get_close_matches(network, known, n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else f"it has {len(known)}, such as {known[0]}"
        raise ModelError(f"model.name {name!r} is no network of that library: {hint}")


def _line(error: Exception) -> str:
    """The error as one line of a message."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]
