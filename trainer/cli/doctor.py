"""`trainer doctor`: what is installed and built, what is missing, and what to do."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from trainer.cli.exit_codes import FAILED
from trainer.doctor.finding import Finding, can_train

_SIGNS = {"ok": "[green]ok[/]", "warn": "[yellow]warn[/]", "missing": "[red]missing[/]"}


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "doctor",
        help="show what is installed and built, what is missing, and what to do",
        description="Examines this machine. Exit code 0 if training is possible, 1 if something essential is missing.",
    )
    parser.add_argument("--output", type=Path, default=Path("runs"), metavar="DIR", help="where runs go (default runs)")
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from trainer.doctor.examine import examine  # starts one process a library: only for this command

    findings = examine(args.output)
    if args.json:
        document = {"can_train": can_train(findings), "findings": [asdict(finding) for finding in findings]}
        json.dump(document, sys.stdout, indent=2)
        print()
    else:
        print_findings(findings)
    return 0 if can_train(findings) else FAILED


def print_findings(findings: Sequence[Finding]) -> None:
    """A table of the findings, then what to do about those that are not ok, then the verdict."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("", "what", "seen"):
        table.add_column(column, overflow="fold")
    for finding in findings:
        table.add_row(_SIGNS[finding.verdict], escape(finding.name), escape(finding.seen))
    console.print(table)
    for finding in findings:
        if finding.verdict != "ok":
            console.print(f"{_SIGNS[finding.verdict]} {escape(finding.name)}: {escape(finding.advice)}")
    console.print("Training is possible." if can_train(findings) else "Training is not possible yet.")
