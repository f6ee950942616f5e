"""Which store a setting means, and that no password is ever shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer.tracking import TrackingError, resolve_tracking_uri, without_password
from trainer.tracking.tracking_uri import is_there, sqlite_path, sqlite_uri

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("setting", "environment", "uri"),
    [
        ("off", "http://elsewhere:5000", None),
        ("auto", "http://elsewhere:5000", "http://elsewhere:5000"),
        ("auto", None, "sqlite:////data/runs/mlflow.db"),
        ("auto", "", "sqlite:////data/runs/mlflow.db"),
        ("http://given:5000", "http://elsewhere:5000", "http://given:5000"),
        ("sqlite:///some.db", None, "sqlite:///some.db"),
        ("postgresql+psycopg2://u:p@host/db", None, "postgresql+psycopg2://u:p@host/db"),
        ("databricks", None, "databricks"),
    ],
)
def test_the_setting_wins_then_the_environment_then_a_file(
    setting: str, environment: str | None, uri: str | None
) -> None:
    assert resolve_tracking_uri(setting, Path("/data/runs"), environment) == uri


@pytest.mark.parametrize("uri", ["./mlruns", "file:///mlruns", "ftp://host", "localhost:5000", "http:5000", "on"])
def test_an_address_that_mlflow_cannot_open_is_refused_with_advice(uri: str) -> None:
    with pytest.raises(TrackingError, match=r"give a server \(http://HOST:PORT\), a file \(sqlite:///PATH.db\)"):
        resolve_tracking_uri(uri, Path("runs"), None)


def test_a_relative_output_folder_gives_an_absolute_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    uri = resolve_tracking_uri("auto", Path("runs"), None)
    assert uri == sqlite_uri(tmp_path / "runs")
    assert sqlite_path(uri) == tmp_path / "runs" / "mlflow.db"


def test_only_a_missing_file_is_known_to_be_no_store(tmp_path: Path) -> None:
    assert not is_there(sqlite_uri(tmp_path))
    (tmp_path / "mlflow.db").touch()
    assert is_there(sqlite_uri(tmp_path))
    assert is_there("http://127.0.0.1:9")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://user:secret@host:5000/path", "http://***@host:5000/path"),
        ("at postgresql://u:se@cret@db/x, then", "at postgresql://***@db/x, then"),
        ("http://token@a and http://b:c@d", "http://***@a and http://***@d"),
        ("sqlite:////runs/a@b.db", "sqlite:////runs/a@b.db"),
        ("mail me@example.org", "mail me@example.org"),
    ],
)
def test_passwords_are_blotted_out(text: str, shown: str) -> None:
    assert without_password(text) == shown


def test_a_refused_address_does_not_show_its_password() -> None:
    with pytest.raises(TrackingError) as caught:
        resolve_tracking_uri("ftp://me:secret@host", Path("runs"), None)
    assert "secret" not in str(caught.value)
