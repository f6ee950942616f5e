"""What is never shown or written down: the passwords in addresses, and the tokens in an error's text."""

from __future__ import annotations

import re
from collections.abc import Mapping

BLOTTED = "***"
# The first form is no URL by its grammar, but databases are given passwords with a slash: everything up to the last @.
# One slash where there were two: an address that was taken for a path.
_USER = re.compile(r"(:/+)(?:[^/\s:@]+:\S*|[^/\s]*)@")
_SECRET = r"(?:password|passwd|passphrase|pwd|token|secret|credential|signature|api_?key|access_?key|odbc_connect)"
_QUERY = re.compile(rf"([?&;][\w.%-]*{_SECRET}[\w.%-]*=)[^&;#\s\"']+", re.IGNORECASE)
_AUTHORISATION = re.compile(r"\b(Bearer|Basic)\s+[^\s'\"]+", re.IGNORECASE)
_SECRET_NAME = re.compile(_SECRET, re.IGNORECASE)
_SHORTEST = 4  # characters; blotting out every "a" of a message would hide the message and give the password away


def without_password(text: str) -> str:
    """The text without the user and password of every URI in it, and without what a URI's query says of passwords."""
    return _QUERY.sub(rf"\1{BLOTTED}", _USER.sub(rf"\1{BLOTTED}@", text))


def fit_to_print(text: str) -> str:
    """As without_password, and what moves a terminal's cursor or is no character at all (in the name of a file, say) is
    written out: \\x1b."""
    clean = without_password(text)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in clean)


def without_secrets(text: str, environment: Mapping[str, str]) -> str:
    """As without_password, for the text of another library's error: also without what it says of an Authorization
    header, and without the values of variables in `environment` with the name of a secret (MLFLOW_TRACKING_TOKEN)."""
    for name, value in environment.items():
        if _SECRET_NAME.search(name) and len(value.strip()) >= _SHORTEST:
            text = text.replace(value.strip(), BLOTTED)
    return without_password(_AUTHORISATION.sub(rf"\1 {BLOTTED}", text))
