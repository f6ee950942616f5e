"""Which MLflow store a run is sent to, and how its address is shown."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

from trainer.passwords import BLOTTED, without_password
from trainer.tracking.errors import TrackingError
from trainer.tracking.journal_reader import SWEEP_FILE_NAME

DATABASE_NAME = "mlflow.db"
_SQLITE = "sqlite:///"
_SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql", "databricks")


def resolve_tracking_uri(setting: str, output_folder: Path, environment_uri: str | None) -> str | None:
    """The MLflow tracking URI that a setting means; None where there is to be no store.

    setting: "off"; "auto", which is environment_uri (the value of MLFLOW_TRACKING_URI) where that is set, else an
    SQLite file in output_folder; or a tracking URI. One whose password is blotted out, as in the record of a run that
    is resumed, means environment_uri where that is the same address. Raises TrackingError for what MLflow cannot be
    asked to open, and where the password is not known.
    """
    if setting == "off":
        return None
    if BLOTTED in setting and setting == without_password(setting):
        if environment_uri and without_password(environment_uri) == setting:
            return _checked(environment_uri, "MLFLOW_TRACKING_URI")
        raise TrackingError(
            f"tracking URI {setting!r}: its password was not written down: set MLFLOW_TRACKING_URI to the whole "
            "address, or give tracking.mlflow again (off, auto or a URI)"
        )
    if setting == "auto":
        return _checked(environment_uri, "MLFLOW_TRACKING_URI") if environment_uri else sqlite_uri(output_folder)
    return _checked(setting, "tracking URI")


def sqlite_uri(output_folder: Path) -> str:
    """The store that a folder of runs brings along; a sweep's runs are kept in that of the folder the sweep is in."""
    folder = output_folder.absolute()
    return f"{_SQLITE}{(folder.parent if (folder / SWEEP_FILE_NAME).exists() else folder) / DATABASE_NAME}"


def sqlite_path(uri: str) -> Path | None:
    """The file behind an SQLite store's URI; None for every other store."""
    return Path(uri.removeprefix(_SQLITE).partition("?")[0]) if uri.startswith(_SQLITE) else None


def is_there(uri: str) -> bool:
    """Whether there is a store to ask; only an SQLite file's absence is known without asking."""
    path = sqlite_path(uri)
    return path is None or path.exists()


def _checked(uri: str, what: str) -> str:
    scheme = re.split(r"[:+]", uri, maxsplit=1)[0]
    if scheme not in _SCHEMES or ("://" not in uri and uri != "databricks"):
        raise TrackingError(
            f"{what} {without_password(uri)!r}: is none that MLflow can use here: give a server (http://HOST:PORT), "
            f'a file (sqlite:///PATH.db), "auto" or "off"'
        )
    # Else a part of the password would be taken for the host or the port, and be shown.
    if not uri.startswith(_SQLITE) and (re.search(r"\s", uri) or not _port_is_a_number(uri)):
        raise TrackingError(
            f"{what}: its {scheme} address has blanks, or a port that is no number: write the special characters of a "
            "password in percent code (%2F for /)"
        )
    return uri


def _port_is_a_number(uri: str) -> bool:
    try:
        _ = urlsplit(uri).port
    except ValueError:
        return False
    return True
