"""Passwords and tokens are not shown, not written down, and not asked for twice where they are known."""

from __future__ import annotations

import sys
from pathlib import Path
from urllib.parse import quote

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

import build_horovod
from tests.fuzzing import fuzz
from trainer.passwords import fit_to_print, without_password, without_secrets
from trainer.sweep.child import StopRequests, run_child
from trainer.tracking import Journal, RunStart, TrackingError, read_journal, resolve_tracking_uri
from trainer.tracking.mlflow_store import reason_of

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://me:a/b@host/db", "postgresql://***@host/db"),
        ("http:/me:secret@host", "http:/***@host"),  # taken for a path
        (
            "postgresql://host/db?user=me&password=secret&sslmode=on",
            "postgresql://host/db?user=me&password=***&sslmode=on",
        ),
        ("https://host/?API_KEY=secret#top", "https://host/?API_KEY=***#top"),
        ("mssql+pyodbc:///?odbc_connect=DRIVER%3Dx%3BPWD%3Dsecret", "mssql+pyodbc:///?odbc_connect=***"),
        ("http://host:5000/a and me@host", "http://host:5000/a and me@host"),
        ("sqlite:////runs/a@b.db", "sqlite:////runs/a@b.db"),
    ],
)
def test_passwords_are_blotted_out_wherever_an_address_has_them(text, shown):
    assert without_password(text) == shown


@fuzz(150)
@given(
    password=st.text(min_size=4, max_size=20).map(lambda text: quote(text, safe="!$&'()*+,;=-._~")),
    before=st.text(max_size=10),
    after=st.text(max_size=10),
)
def test_no_password_in_percent_code_is_shown_whatever_stands_around_it(password, before, after):
    shown = without_password(f"{before}://me:{password}@host/{after}")
    assert f":{password}@" not in shown
    assert without_password(shown) == shown
    assert fit_to_print(shown).isprintable()


def test_what_moves_a_cursor_is_written_out():
    assert fit_to_print("a\x1b[2J\nb\udcff") == r"a\x1b[2J\nb\udcff"


def test_a_token_that_no_header_can_carry_is_not_shown(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "topsecret\n")
    try:
        requests.Request("GET", "http://host", headers={"Authorization": "Bearer topsecret\n"}).prepare()
    except requests.RequestException as failure:
        error = failure
    assert "topsecret" in str(error)
    assert "topsecret" not in reason_of(error)
    assert without_secrets("Basic dXNlcjpwYXNz", {}) == "Basic ***"
    assert without_secrets("a topsecret b", {"MY_TOKEN": "topsecret", "PATH": "b", "PASSWORD": "a"}) == "a *** b"


def test_the_journal_holds_no_password_in_whatever_field(tmp_path):
    uri = "http://me:secret@host"
    journal = Journal(tmp_path / "journal.jsonl")
    journal.start(RunStart("u", "n", uri, {"a": uri}, {"command": f"trainer x={uri}"}, {"config.yaml": f"m: {uri}\n"}))
    journal.event("point", {"labels": [uri], uri: {"deep": (uri,)}})
    journal.close("FAILED", {}, f"cannot reach {uri}")
    assert "secret" not in (tmp_path / "journal.jsonl").read_text()
    assert read_journal(tmp_path / "journal.jsonl").run.tags["command"] == "trainer x=http://***@host"


def test_a_blotted_out_address_is_that_of_the_environment_where_it_is_the_same():
    whole, blotted = "http://me:secret@host:5000", "http://***@host:5000"
    assert resolve_tracking_uri(blotted, Path("runs"), whole) == whole
    for environment in (None, "http://me:secret@elsewhere:5000"):
        with pytest.raises(TrackingError, match="its password was not written down: set MLFLOW_TRACKING_URI"):
            resolve_tracking_uri(blotted, Path("runs"), environment)


@pytest.mark.parametrize("uri", ["http://me:se/cret@host", "postgresql://me:se cret@host", "http://me:secret@host:x"])
def test_an_address_whose_password_could_be_taken_for_something_else_is_refused(uri):
    with pytest.raises(TrackingError, match="percent code") as refused:
        resolve_tracking_uri(uri, Path("runs"), None)
    assert "cret" not in str(refused.value)


def test_a_journal_is_not_written_through_a_link(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("a half line")
    (tmp_path / "journal.jsonl").symlink_to(elsewhere)
    with pytest.raises(TrackingError, match=r"cannot write the journal of the run \(.*symbolic links\)"):
        Journal(tmp_path / "journal.jsonl")
    assert elsewhere.read_text() == "a half line"


def test_what_a_sweeps_run_says_is_not_written_through_a_link(tmp_path):
    elsewhere, log = tmp_path / "elsewhere", tmp_path / "running.log"
    elsewhere.write_text("precious")
    log.symlink_to(elsewhere)
    assert run_child([sys.executable, "-c", "print('said')"], log, StopRequests(), lambda: None) == 0
    assert (elsewhere.read_text(), log.read_text()) == ("precious", "said\n")


@pytest.mark.parametrize("mode", [0o757, 0o777])
def test_a_wheel_from_where_anybody_may_write_is_not_installed(tmp_path, mode):
    tmp_path.chmod(mode)
    with pytest.raises(build_horovod.BuildError, match="anybody may write to it"):
        build_horovod.require_own(tmp_path)
    tmp_path.chmod(0o775)
    build_horovod.require_own(tmp_path)


def test_no_command_goes_through_a_shell_and_nothing_is_unpickled():
    root = Path(__file__).resolve().parents[2]
    sources = [path for name in ("trainer", "dali_pipelines", "scripts") for path in (root / name).rglob("*.py")]
    assert len(sources) > 100
    forbidden = ("shell=True", "os.system(", "os.popen(", "import pickle\n", "allow_pickle=True", "weights_only=False")
    found = [(path, word) for path in sources for word in forbidden if word in path.read_text()]
    assert found == []
