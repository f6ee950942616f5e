"""What MLflow's pages show, read off the pages themselves; of MLflow 3.17."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

from tests.chromium import Page

Charts = dict[str, dict[str, int]]

_BUTTON = "[...document.querySelectorAll('button')].find(b => b.innerText.trim() === {text})"
_ROW = "[...document.querySelectorAll('[role=row]')].find(r => r.innerText.includes({text}))"
# The table of metrics holds those rows alone that are in sight. Names and values are grids side by side; a row's cells
# have one distance from the top.
_METRICS = """(async () => {
  const first = [...document.querySelectorAll('a')].find(a => a.innerText.trim() === 'batch/accumulation_steps');
  let table = first;
  while (table.querySelectorAll('[role=grid]').length < 2) table = table.parentElement;
  const grids = [...table.querySelectorAll('[role=grid]')];
  const rows = {};
  for (let top = 0; top < 3000; top += 150) {
    grids.forEach(grid => { grid.scrollTop = top });
    await new Promise(done => setTimeout(done, 100));
    grids.forEach((grid, number) => grid.querySelectorAll('[role=rowgroup] > *').forEach(cell => {
      (rows[cell.style.top] ??= {})[1e6 * number + parseFloat(cell.style.left)] = cell.innerText.trim();
    }));
  }
  return Object.values(rows).map(row => Object.keys(row).map(Number).sort((a, b) => a - b).map(key => row[key]));
})()"""
_CHARTS = """Object.fromEntries([...document.querySelectorAll('[data-testid=experiment-view-compare-runs-card]')].map(
  card => [card.querySelector('h4').title, {
    lines: new Set([...card.querySelectorAll('.scatterlayer .trace path.js-line')].map(p => p.getAttribute('d'))).size,
    bars: card.querySelectorAll('.barlayer .point path').length,
  }]))"""


def tick_and_compare(page: Page, names: Sequence[str]) -> None:
    """From an experiment's table to the page that compares the runs of these names."""
    for name in names:
        page.click(f"{_ROW.format(text=json.dumps(name))}?.querySelector('.ag-checkbox-input')")
    page.click(_BUTTON.format(text="'Compare'"))
    page.wait_for(f"document.body.innerText.includes('Comparing {len(names)} Runs')")


def shown_metrics(page: Page) -> dict[str, list[float]]:
    """On the page that compares: each metric's values, run by run."""
    page.wait_for("document.body.innerText.includes('batch/accumulation_steps')")
    return {name: [float(value) for value in values] for name, *values in page.value(_METRICS)}


def shown_charts(page: Page, pattern: str, expected: Charts, limit_s: float = 60) -> Charts:
    """In an experiment's chart view, the charts whose metrics match: how many different curves and bars each has. They
    are drawn one after the other, so it looks until they are as expected, or the limit is over."""
    page.type("[...document.querySelectorAll('input')].find(i => i.placeholder === 'Search metric charts')", pattern)
    deadline = time.monotonic() + limit_s
    while (charts := page.value(_CHARTS)) != expected and time.monotonic() < deadline:
        time.sleep(0.5)
    return dict(charts)
