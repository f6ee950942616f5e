"""`trainer sync`: sends to MLflow what did not get there while the run went on."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "sync",
        help="send journals to MLflow",
        description="Sends to MLflow what it lacks of a run, and the run's status. Nothing is sent twice.",
    )
    parser.add_argument(
        "journals", nargs="+", metavar="JOURNAL", help="a journal, the folder of a run or a sweep, or a folder of runs"
    )
    parser.add_argument(
        "--tracking",
        default="auto",
        metavar="URI",
        help="the MLflow store (default: MLFLOW_TRACKING_URI, else mlflow.db beside the runs' folders)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from trainer.environment import mlflow_tracking_uri
    from trainer.tracking import TrackingError, read_journal, records_in, resolve_tracking_uri, without_password
    from trainer.tracking.mlflow_sender import send_journal

    for journal in [journal for place in args.journals for journal in records_in(Path(place))]:
        log = read_journal(journal)
        if log.torn_line is not None:
            print(f"{journal}: line {log.torn_line} is incomplete and was skipped")
        uri = resolve_tracking_uri(args.tracking, journal.absolute().parent.parent, mlflow_tracking_uri())
        if uri is None:
            raise TrackingError('--tracking off: there is nowhere to send to: give a store, or "auto"')
        points = send_journal(uri, log)
        sent = f"{points} missing points sent" if points else "no point was missing"
        print(
            f"{journal}: {sent}; {log.run.name} is {log.status} in experiment {log.run.experiment} "
            f"at {without_password(uri)}"
        )
    return 0
