"""Runs that did the same with other seeds, taken together, and what sets one recipe apart from another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trainer.report.runs import RunRecord
from trainer.tracking.tracker import FINISHED

_LONGEST_DIFFERENCE = 40  # characters that a legend has room for


@dataclass(frozen=True, slots=True)
class Group:
    """Runs of one name and recipe, which differ in their seed alone.

    runs: those that statistics are made of: the finished ones where there are any, the newest of each seed, since a run
    that was done again is no further sample; none without a finished epoch. left_out: the others.
    """

    label: str
    runs: tuple[RunRecord, ...]
    left_out: tuple[RunRecord, ...]

    @property
    def is_finished(self) -> bool:
        return all(run.status == FINISHED for run in self.runs)


def group_runs(runs: Sequence[RunRecord]) -> tuple[Group, ...]:
    """Runs by name and recipe, in the order in which each first comes; the first is what the others are held against.

    Groups of one name are told apart by what differs in their recipes. Those of whose runs none finished an epoch have
    nothing to compare: see broken_groups.
    """
    return tuple(group for group in _all_groups(runs) if group.runs)


def broken_groups(runs: Sequence[RunRecord]) -> tuple[Group, ...]:
    """The groups of which no run came to the end of an epoch, as at a learning rate that diverges at once."""
    return tuple(group for group in _all_groups(runs) if not group.runs)


def _all_groups(runs: Sequence[RunRecord]) -> tuple[Group, ...]:
    groups: dict[tuple[str, frozenset[tuple[str, str]]], list[RunRecord]] = {}
    for run in runs:
        groups.setdefault((run.name, frozenset(run.recipe.items())), []).append(run)
    labels = _labels([members[0] for members in groups.values()])
    return tuple(_group(label, members) for label, members in zip(labels, groups.values(), strict=True))


def common_target(groups: Sequence[Group]) -> float | None:
    """The target that all are held to, a fraction: that of the first run that has one."""
    return next((run.target_top1 for group in groups for run in group.runs if run.target_top1 is not None), None)


def recipe_differences(groups: Sequence[Group]) -> dict[str, tuple[str, ...]]:
    """The settings in which the groups differ, with each group's value ("" where it has none)."""
    return _differences([group.runs[0] for group in groups])


def _group(label: str, members: Sequence[RunRecord]) -> Group:
    begun = [run for run in members if run.epochs]
    candidates = [run for run in begun if run.status == FINISHED] or begun
    newest = {run.seed: run for run in sorted(candidates, key=lambda run: run.start_time_s)}.values()
    counted = tuple(run for run in members if run in newest)
    return Group(label, counted, tuple(run for run in members if run not in newest))


def _labels(firsts: Sequence[RunRecord]) -> list[str]:
    labels = []
    for run in firsts:
        namesakes = [other for other in firsts if other.name == run.name]
        differing = ", ".join(
            f"{key.rpartition('.')[2]}={run.recipe.get(key, 'unset')}" for key in _differences(namesakes)
        )
        if len(differing) > _LONGEST_DIFFERENCE:
            differing = f"recipe {namesakes.index(run) + 1}"
        labels.append(f"{run.name} ({differing})" if differing else run.name)
    return labels


def _differences(runs: Sequence[RunRecord]) -> dict[str, tuple[str, ...]]:
    keys = dict.fromkeys(key for run in runs for key in run.recipe)
    rows = {key: tuple(run.recipe.get(key, "") for run in runs) for key in keys}
    return {key: values for key, values in rows.items() if len(set(values)) > 1}
