"""A page in headless Chromium, for tests of what people see.

Chromium is spoken to in its own protocol over a pipe: no driver, no library, no port that others could reach.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import select
import subprocess
import time
from pathlib import Path
from typing import Any

from tests.waiting import wait_until

CHROMIUM = Path("/usr/bin/chromium")

_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
    "--hide-scrollbars", "--remote-debugging-pipe",
)  # fmt: skip


class Page:
    """One page of a browser of its own; as a context manager it ends the browser."""

    def __init__(self, folder: Path, width: int = 1600, height: int = 1000, resolve: str = "") -> None:
        """folder: new, for the browser's profile. resolve: as --host-resolver-rules takes it, "MAP name address"."""
        folder.mkdir(parents=True)
        self._ids = itertools.count(1)
        self._buffer = b""
        commands, self._commands = os.pipe()
        self._answers, answers = os.pipe()
        flags = [*_FLAGS, f"--window-size={width},{height}", f"--user-data-dir={folder}/profile"]
        flags += [f"--host-resolver-rules={resolve}"] if resolve else []
        # Chromium reads commands from descriptor 3 and answers on 4; the shell puts them there.
        with open(folder / "browser.log", "wb") as log:
            self._process = subprocess.Popen(
                ["bash", "-c", f'exec "$0" "$@" 3<&{commands} 4>&{answers}', str(CHROMIUM), *flags, "about:blank"],
                pass_fds=(commands, answers), stdout=log, stderr=log,
            )  # fmt: skip
        os.close(commands)
        os.close(answers)
        self._session: str | None = None
        try:
            targets = self._call("Target.getTargets")["targetInfos"]
            (target,) = [t["targetId"] for t in targets if t["type"] == "page"]
            self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            self._call("Runtime.enable")
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> Page:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait(10)
        os.close(self._commands)
        os.close(self._answers)

    def open(self, url: str) -> None:
        """Goes to the address; what is there may still be loading."""
        answer = self._call("Page.navigate", url=url)
        assert "errorText" not in answer, f"{url}: {answer['errorText']}"

    def value(self, script: str) -> Any:
        """What a JavaScript expression gives, as JSON."""
        answer = self._call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, f"{script}: {answer['exceptionDetails']}"
        return answer["result"].get("value")

    def wait_for(self, script: str, limit_s: float = 60) -> Any:
        """The first value of the expression that is true; fails with the page's text if there is none in time."""
        shown = f"document.body && ({script})"
        return wait_until(lambda: self.value(shown), limit_s, lambda: f"{script}; the page says:\n{self.text()}", 0.2)

    def click(self, element: str) -> None:
        """On the element that an expression gives, when it is there."""
        self.wait_for(f"({element}) !== undefined")
        self.value(f"({element}).click()")

    def type(self, element: str, text: str) -> None:
        """Into the field that an expression gives, when it is there."""
        self.wait_for(f"({element}) !== undefined")
        self.value(f"({element}).focus()")
        self._call("Input.insertText", text=text)

    def text(self) -> str:
        """What can be read on the page."""
        return str(self.value("document.body.innerText"))

    def screenshot(self, path: Path) -> None:
        """What is seen of the page, as PNG."""
        path.write_bytes(base64.b64decode(self._call("Page.captureScreenshot", format="png")["data"]))

    def _call(self, method: str, **params: object) -> dict[str, Any]:
        number = next(self._ids)
        message = {"id": number, "method": method, "params": params}
        message |= {"sessionId": self._session} if self._session else {}
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + 60
        while True:
            answer = self._next_message(deadline)
            if answer.get("id") == number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return dict(answer["result"])

    def _next_message(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._answers], [], [], max(0, deadline - time.monotonic()))
            assert ready, "Chromium does not answer"
            part = os.read(self._answers, 1 << 20)
            assert part, f"Chromium ended with code {self._process.wait(10)}"
            self._buffer += part
        message, _, self._buffer = self._buffer.partition(b"\0")
        return dict(json.loads(message))
