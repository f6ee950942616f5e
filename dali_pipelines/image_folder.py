"""A data set as a folder: training images in one part of it, validation images in another, the same classes in both."""

from __future__ import annotations

from pathlib import Path

from dali_pipelines.dataset_index import DatasetIndex, Progress
from dali_pipelines.errors import DataError
from dali_pipelines.index_file import open_index

_VALIDATION_NAMES = ("val", "validation", "test")


def open_folder(
    root: Path | str,
    validation_path: Path | str | None = None,
    validation_labels: Path | str | None = None,
    *,
    cache: Path | None = None,
    progress: Progress | None = None,
    rebuild: bool = False,
) -> tuple[DatasetIndex, DatasetIndex]:
    """The indexes of training and validation images that agree on their classes; arguments as in open_dataset.

    rebuild: make them again even if they are up to date. Raises DataError.
    """
    train_root, validation_root = _split_folders(Path(root), validation_path)
    train = open_index(train_root, cache=cache, progress=progress, rebuild=rebuild)
    validation = open_index(validation_root, validation_labels, train.class_names, cache, progress, rebuild)
    return train, validation


def _split_folders(root: Path, validation_path: Path | str | None) -> tuple[Path, Path]:
    train = root / "train"
    if not train.is_dir():
        if validation_path is None:
            raise DataError(f"{root}: there is no folder train in it: sort the images into {train}/<class>/")
        train = root
    if validation_path is not None:
        return train, Path(validation_path)
    validation = next((root / name for name in _VALIDATION_NAMES if (root / name).is_dir()), None)
    if validation is None:
        raise DataError(
            f"{root}: there is no folder {', '.join(_VALIDATION_NAMES[:-1])} or {_VALIDATION_NAMES[-1]} in it: "
            "add one with images to validate on, or name one elsewhere"
        )
    return train, validation
