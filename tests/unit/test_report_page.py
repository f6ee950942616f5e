"""The page of a comparison as a browser would read it, and the files beside it."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.recorded_runs import record_run, record_two_recipes
from trainer.report.page import page
from trainer.report.report import compare_runs, write_report
from trainer.report.runs import RunRecord, load_runs
from trainer.tracking import FINISHED, Journal, RunStart, TrackingError

pytestmark = pytest.mark.unit


@pytest.fixture
def runs(tmp_path: Path) -> tuple[RunRecord, ...]:
    return record_two_recipes(tmp_path)


class PageReader(HTMLParser):
    """Collects what a browser would fetch, and the text that it would show."""

    def __init__(self) -> None:
        super().__init__()
        self.resources: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("link", "script", "iframe"):
            self.resources.append(tag)
        self.resources += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_shows_everything_and_fetches_nothing(runs: tuple[RunRecord, ...], tmp_path: Path) -> None:
    report = compare_runs(runs)
    written, *pictures = write_report(report, tmp_path / "out" / "deep")
    assert written.name == "report.html"
    names = ["summary.png", "schedule.png", "accuracy.png", "loss.png", "time.png"]
    assert [picture.name for picture in pictures] == names
    assert all(picture.read_bytes().startswith(b"\x89PNG") for picture in pictures)
    html = written.read_text("utf-8")
    reader = PageReader()
    reader.feed(html)
    assert len(reader.resources) == 5
    assert all(resource.startswith("data:image/png;base64,") for resource in reader.resources)
    assert not re.search(r"url\(|@import|https?:", html)
    text = reader.text.replace("\N{NO-BREAK SPACE}", " ").replace("\N{NON-BREAKING HYPHEN}", "-")
    assert all(finding in text for finding in report.findings)
    assert report.agreement is not None
    assert report.agreement_note in text
    rows = (*report.table.rows, *report.agreement.rows)
    cells = [part for row in rows for cell in row for part in cell.split(" (")]
    assert all(cell in text for cell in cells)
    for expected in ("policy", "batch", "32 x 16 x 2", "1,024", "reference", *(run.run_uid for run in runs)):
        assert expected in text


def test_the_page_shows_the_drops_of_a_curve_in_words_and_a_schedule_in_a_row(tmp_path: Path) -> None:
    for name, lever in (("a", "lr"), ("b", "batch")):
        drops = [{"epoch": 3, "divide_by": 5.0, "by": lever}, {"epoch": 6, "divide_by": 2.0, "by": lever}]
        record_run(tmp_path, name, 0, [0.5], **{"schedule.curve.drops": json.dumps(drops)})
    html = page(compare_runs(load_runs([str(tmp_path)], None, None)), ())
    row = "<tr><td>b</td><td>epoch 3, divide_by 5.0, by batch; epoch 6, divide_by 2.0, by batch</td></tr>"
    assert row in html


@pytest.mark.parametrize(("policy", "says"), [("measured", "No batch was larger"), ("adascale", "more slowly")])
def test_the_plan_of_a_run_that_listened_is_not_shown_as_the_run(tmp_path: Path, policy: str, says: str) -> None:
    record_run(tmp_path, "listened", 0, [0.5], **{"schedule.policy": policy})
    record_run(tmp_path, "planned", 0, [0.5])
    html = page(compare_runs(load_runs([str(tmp_path)], None, None)), ())
    listened, planned = html.partition("<h2>Plans</h2>")[2].partition("<h2>Runs</h2>")[0].split("<h3>")[1:]
    assert "Not the run but its plan, as far as the schedule goes: the policy decided otherwise" in listened
    assert "trainer plan --replay RUN" in listened
    assert says in listened
    assert "Not the run" not in planned


def test_names_are_text_on_the_page_whatever_they_hold(tmp_path: Path) -> None:
    record_run(tmp_path, "<script>alert(1)</script>".replace("/", ""), 0, [0.5], note="<b>&amp;")
    record_run(tmp_path, "other", 0, [0.5], note="x")
    html = page(compare_runs(load_runs([str(tmp_path)], None, None)), ())
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert "&lt;b&gt;&amp;amp;" in html


def test_a_folder_that_cannot_be_written_is_refused(runs: tuple[RunRecord, ...], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(TrackingError, match=r"cannot write the report .* give --output DIR"):
        write_report(compare_runs(runs), tmp_path / "file")


def test_a_run_that_logs_little_is_compared_as_far_as_it_goes(tmp_path: Path) -> None:
    for number, metrics in enumerate([{"other": 1.0}, {"val/top1": math.nan}, {"val/top1": 0.5, "updates": 0}]):
        journal = Journal(tmp_path / str(number) / "journal.jsonl")
        journal.start(RunStart(f"u{number}", f"n{number}", "e", {}, {}, {"plan.json": "[1, {"}))
        journal.log(1, metrics)
        journal.close(FINISHED, {})
    report = compare_runs(load_runs([str(tmp_path)], None, None))
    assert report.table.rows[0][2:] == ("-", "-", "-", "-")
    written = [path.name for path in write_report(report, tmp_path / "out")]
    assert written == ["report.html", "summary.png", "accuracy.png"]  # no figure without anything in it
