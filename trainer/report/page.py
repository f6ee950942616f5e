"""The comparison as one HTML page that needs nothing else: mailed, printed or opened in ten years, it is all there."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import Any, Final

from trainer.report.figures.gallery import Picture
from trainer.report.figures.style import styles_of
from trainer.report.groups import Group, recipe_differences
from trainer.report.outcome import Outcome, Spread, change
from trainer.report.prediction import INDENT, PREDICTION_NOTE
from trainer.report.report import Report
from trainer.report.table import Table
from trainer.report.units import UNKNOWN, accuracy, count, duration, signed_percent, unit_of

_CSS = """
:root { --ink: #1c1f23; --soft: #5c6470; --line: #e2e5ea; --tint: #f6f7f9; }
* { box-sizing: border-box; }
body { margin: 0; color: var(--ink); background: #fff;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 36px 28px 60px; }
h1 { font-size: 27px; margin: 0 0 2px; }
h2 { font-size: 18px; margin: 44px 0 10px; padding-top: 14px; border-top: 1px solid var(--line); }
h3 { font-size: 15px; margin: 22px 0 6px; }
p.when, figcaption, .note { color: var(--soft); font-size: 13px; }
p.when { margin: 0 0 22px; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(240px, 340px)); gap: 14px; margin: 0 0 18px; }
.card { border: 1px solid var(--line); border-radius: 8px; padding: 14px 16px; }
.card b { display: block; margin-bottom: 6px; overflow-wrap: anywhere; }
.card b i { display: inline-block; width: 11px; height: 11px; border-radius: 3px; margin-right: 7px;
  print-color-adjust: exact; }
.card dl { display: grid; grid-template-columns: auto 1fr; gap: 1px 12px; margin: 0; }
.card dt { color: var(--soft); }
.card dd { margin: 0; text-align: right; font-variant-numeric: tabular-nums; }
.card dd em { font-style: normal; font-weight: 650; color: var(--soft); }
.card dd em.less { color: #00714f; }
.card dd em.more { color: #a33a00; }
p.finding { margin: 0 0 10px; max-width: 100ch; }
.cards + p.finding { font-size: 17px; max-width: none; border-left: 4px solid var(--ink); padding-left: 14px; }
figure { margin: 18px 0 26px; break-inside: avoid; }
figure img { width: 100%; height: auto; display: block; }
figcaption { margin-top: 4px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { padding: 6px 7px; text-align: right; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 600; color: var(--soft); background: var(--tint); vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; }
td:first-child { font-weight: 600; }
tr.part td:first-child { font-weight: 400; }
table.numbers td + td { white-space: nowrap; }
table.numbers td:first-child { overflow-wrap: anywhere; min-width: 11em; }
table.words td, table.words th { text-align: left; }
table.words td:last-child { overflow-wrap: anywhere; }
tr { break-inside: avoid; }
@media print { main { max-width: none; padding: 0; } body { font-size: 11px; } .scroll { overflow: visible; }
  .cards { grid-template-columns: repeat(auto-fit, minmax(150px, 240px)); } p.finding { font-size: 12px; }
  h2 { break-after: avoid; } table { font-size: 9.5px; } th, td { padding: 3px 5px; } }
"""

_PHASE_COLUMNS: Final[Mapping[str, Callable[[Mapping[str, Any]], str]]] = {
    "epochs": lambda phase: f"{_number(phase, 'first_epoch')} - {_number(phase, 'last_epoch')}",
    "global batch": lambda phase: _number(phase, "global_batch"),
    "micro-batch x steps x workers": lambda phase: " x ".join(
        _number(phase, key) for key in ("micro_batch", "accumulation_steps", "world_size")
    ),
    "lr": lambda phase: _number(phase, "lr"),
    "momentum": lambda phase: _number(phase, "momentum"),
    "SGD noise scale": lambda phase: _number(phase, "sgd_noise_scale"),
    "updates": lambda phase: _number(phase, "updates"),
    "limited by": lambda phase: str(phase.get("limited_by", UNKNOWN)),
}
# Said of a plan where the run listened to its gradient noise: by policy, how the run may have gone.
_NOT_THE_RUN: Final[Mapping[str, str]] = {
    policy: "Not the run but its plan, as far as the schedule goes: the policy decided otherwise where the gradient "
    f"noise that it heard asked for it. {otherwise} What it decided, and from what: trainer plan --replay RUN."
    for policy, otherwise in {
        "measured": "No batch was larger than this, and where it was smaller so was lr.",
        "adascale": "lr was at most what the schedule has there; where it was lower, an update counted for less, and "
        "the run went along the schedule more slowly.",
    }.items()
}


def page(report: Report, pictures: Sequence[Picture]) -> str:
    """The whole page as HTML text; the pictures are embedded."""
    runs = [run for group in report.groups for run in (*group.runs, *group.left_out)]
    what = f"{_plural(len(runs), 'run')} of {_plural(len(report.groups), 'schedule')}"
    sections = [
        f"<h1>{escape(report.title)}</h1>",
        f'<p class="when">{what}, {time.strftime("%Y-%m-%d %H:%M")}</p>',
        _cards(report.outcomes),
        *_paragraphs(report.findings[:1]),
        *(_figure(picture) for picture in pictures if picture.says_the_most),
        *(("<h2>In words</h2>", *_paragraphs(report.findings[1:])) if report.findings[1:] else ()),
        "<h2>In numbers</h2>",
        _table(report.table).replace(" (", "<br>("),  # speed-ups under their costs
        f'<p class="note">{_text(report.table.note)}</p>',
        *_agreement(report),
        *_prediction(report),
        "<h2>Curves</h2>",
        *(_figure(picture) for picture in pictures if not picture.says_the_most),
        "<h2>What differs between the schedules</h2>",
        _differences(report.groups),
        "<h2>Plans</h2>",
        *(_plan(group) for group in report.groups),
        "<h2>Runs</h2>",
        _runs(report.groups),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(report.title)}</title><style>{_CSS}</style></head>\n<body><main>\n"
        + "\n".join(sections)
        + "\n</main></body></html>\n"
    )


def _paragraphs(findings: Sequence[str]) -> list[str]:
    return [f'<p class="finding">{_text(finding)}</p>' for finding in findings]


def _cards(outcomes: Sequence[Outcome]) -> str:
    """A card for each recipe: what it reached and what that took, for a reader with ten seconds."""
    first, unit = outcomes[0].whole_run, unit_of(*(outcome.whole_run.time_s for outcome in outcomes))
    cards = []
    styles = styles_of([outcome.group for outcome in outcomes])
    for outcome, style in zip(outcomes, styles, strict=True):
        cost = outcome.whole_run
        rows = (
            ("final top-1", accuracy(outcome.final_top1), ""),
            ("updates", count(cost.updates), _saved(cost.updates, first.updates)),
            ("time", duration(cost.time_s, unit), _saved(cost.time_s, first.time_s)),
        )
        lines = "".join(f"<dt>{_text(name)}</dt><dd>{_text(text)}{saved}</dd>" for name, text, saved in rows)
        name = f'<b><i style="background:{style.colour}"></i>{escape(outcome.group.label)}</b>'
        cards.append(f'<div class="card">{name}<dl>{lines}</dl></div>')
    return f'<div class="cards">{"".join(cards)}</div>'


def _saved(cost: Spread | None, baseline: Spread | None) -> str:
    difference = change(cost, baseline) if cost is not baseline else None
    if difference is None:
        return ""
    text = signed_percent(difference)
    kind = "" if text == "same" or not difference.is_clear else "less" if difference.fraction < 0 else "more"
    return f' <em class="{kind}">{_text(text)}</em>'


def _agreement(report: Report) -> tuple[str, ...]:
    if report.agreement is None:
        return ()
    note = f'<p class="note">{_text(report.agreement_note)}</p>'
    return ("<h2>Within the spread of the seeds?</h2>", _table(report.agreement), note)


def _prediction(report: Report) -> tuple[str, ...]:
    if report.prediction is None:
        return ()
    note = f'<p class="note">{_text(PREDICTION_NOTE)}</p>'
    return ("<h2>As predicted?</h2>", _table(report.prediction), note)


def _figure(picture: Picture) -> str:
    data = base64.b64encode(picture.png).decode()
    caption = escape(picture.caption)
    return (
        f'<figure><img alt="{caption}" src="data:image/png;base64,{data}"><figcaption>{caption}</figcaption></figure>'
    )


def _differences(groups: Sequence[Group]) -> str:
    differences = recipe_differences(groups)
    if not differences:
        return (
            '<p class="note">Nothing but their names.</p>' if len(groups) > 1 else '<p class="note">One schedule.</p>'
        )
    keys = sorted(differences)
    columns = ([group.label for group in groups], *(map(_setting, differences[key]) for key in keys))
    by_schedule = [("schedule", *keys), *zip(*columns, strict=True)]
    headers, *rows = by_schedule if len(keys) < len(groups) else zip(*by_schedule, strict=True)
    return _table(Table(headers, tuple(rows)), "words")


def _setting(value: str) -> str:
    """A setting as it was recorded; the drops of a curve, recorded as JSON, without its quotes and brackets."""
    try:
        drops = json.loads(value)
        return "; ".join(", ".join(f"{key} {part}" for key, part in drop.items()) for drop in drops)
    except (ValueError, TypeError, AttributeError):  # not JSON, no list, or not of objects
        return value


def _plan(group: Group) -> str:
    phases = group.runs[0].phases
    if not phases:
        return f'<h3>{escape(group.label)}</h3><p class="note">No plan was recorded with this run.</p>'
    rows = tuple(tuple(cell(phase) for cell in _PHASE_COLUMNS.values()) for phase in phases)
    listened = _NOT_THE_RUN.get(group.runs[0].recipe["schedule.policy"])
    note = f'<p class="note">{escape(listened)}</p>' if listened else ""
    return f"<h3>{escape(group.label)}</h3>{note}{_table(Table(tuple(_PHASE_COLUMNS), rows))}"


def _runs(groups: Sequence[Group]) -> str:
    headers = ("run", "schedule", "seed", "status", "started", "read from")
    rows = tuple(
        (
            run.run_uid,
            group.label,
            run.seed,
            run.status + (f": {run.error}" if run.error else ""),
            time.strftime("%Y-%m-%d %H:%M", time.localtime(run.start_time_s)),
            run.source,
        )
        for group in groups
        for run in (*group.runs, *group.left_out)
    )
    return _table(Table(headers, rows), "words")


def _table(table: Table, kind: str = "numbers") -> str:
    head = _row("th", table.headers)
    body = "".join(_row("td", row) for row in table.rows)
    return f'<div class="scroll"><table class="{kind}"><thead>{head}</thead><tbody>{body}</tbody></table></div>'


def _row(tag: str, cells: Iterable[str]) -> str:
    first, *others = cells
    kind = ' class="part"' if first.startswith(INDENT) else ""
    return f"<tr{kind}>" + "".join(f"<{tag}>{_text(cell)}</{tag}>" for cell in (first, *others)) + "</tr>"


def _text(text: str) -> str:
    """Text for the page, with what belongs together kept on one line."""
    return escape(text).replace(" %", "&nbsp;%").replace(" ± ", "&nbsp;±&nbsp;").replace("top-1", "top&#8209;1")


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _number(phase: Mapping[str, Any], key: str) -> str:
    value = phase.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return UNKNOWN
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
