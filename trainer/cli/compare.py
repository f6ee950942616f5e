"""`trainer compare`: which of several runs got how far, with how many updates and in what time."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "compare",
        help="compare runs: table, figures, page",
        description="Compares runs. The others are held against the first; runs that differ in their seed alone are "
        "taken together.",
    )
    parser.add_argument(
        "runs", nargs="*", metavar="RUN", help="a journal, a run's folder, a folder of these, or an MLflow run id"
    )
    parser.add_argument("--experiment", metavar="NAME", help="all runs of this experiment in MLflow")
    parser.add_argument(
        "--tracking",
        default="auto",
        metavar="URI",
        help="the MLflow store (default: MLFLOW_TRACKING_URI, else mlflow.db beside the runs' folders)",
    )
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="where to write (default: comparison beside the runs)"
    )
    parser.add_argument("--no-store", action="store_true", help="do not keep the comparison in MLflow")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from rich.console import Console

    from trainer.environment import mlflow_tracking_uri
    from trainer.report.prediction import PREDICTION_NOTE
    from trainer.report.report import compare_runs, write_report
    from trainer.report.runs import load_runs
    from trainer.report.table import rich_tables
    from trainer.tracking import TrackingError, resolve_tracking_uri
    from trainer.tracking.tracking_uri import is_there

    if bool(args.runs) == (args.experiment is not None):
        raise TrackingError("compare: name runs, or --experiment NAME: one of the two")
    folder = _folder_of_runs(args.runs)
    uri = resolve_tracking_uri(args.tracking, folder, mlflow_tracking_uri())
    uri = uri if uri is not None and is_there(uri) else None
    runs = load_runs(args.runs, args.experiment, uri)
    for record in runs:
        if record.torn_line is not None:
            print(f"{record.source}: line {record.torn_line} is incomplete and was skipped", file=sys.stderr)

    comparison = compare_runs(runs)
    files = write_report(comparison, args.output or folder / "comparison")
    console = Console(highlight=False)
    for table in rich_tables(comparison.table, comparison.title, console.width):
        console.print(table)
    console.print(comparison.table.note)
    for finding in comparison.findings:
        console.print(f"\n{finding}")
    if comparison.agreement is not None:
        for table in rich_tables(comparison.agreement, "\nWithin the spread of the seeds?", console.width):
            console.print(table)
        console.print(comparison.agreement_note)
    if comparison.prediction is not None:
        for table in rich_tables(comparison.prediction, "\nAs predicted?", console.width):
            console.print(table)
        console.print(PREDICTION_NOTE)
    console.print(f"\nPage and figures: {files[0]}", soft_wrap=True)
    if uri is not None and not args.no_store:
        console.print(_store(uri, runs[0].experiment, [record.run_uid for record in runs], files), soft_wrap=True)
    return 0


def _folder_of_runs(sources: list[str]) -> Path:
    """The folder in which the folders of these runs lie: of the first that is on disk, else the default."""
    from trainer.tracking import FILE_NAME

    for path in map(Path, sources):
        if path.is_file():
            return path.absolute().parent.parent
        if path.is_dir():
            return path.absolute().parent if (path / FILE_NAME).exists() else path.absolute()
    return Path("runs")


def _store(uri: str, experiment: str, run_uids: list[str], files: list[Path]) -> str:
    """Keeps the files in MLflow; they are on disk already, so a store that fails is only spoken of."""
    from trainer.tracking import TrackingError, without_password
    from trainer.tracking.mlflow_store import store_comparison

    try:
        run_id = store_comparison(uri, experiment, run_uids, files)
    except TrackingError as error:
        return f"Not kept in MLflow: {error}"
    return f"MLflow: run comparison ({run_id}) in experiment {experiment} at {without_password(uri)}"
