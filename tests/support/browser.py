"""A real browser without a window, driven by the WebDriver protocol over HTTP."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
FLAGS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]


class Browser:
    """One window. Its address is that of a driver's session."""

    def __init__(self, address: str) -> None:
        self._address = address

    def _ask(self, path: str, **body: Any) -> Any:
        return ask(f"{self._address}/{path}", body)

    def open(self, page: Path) -> None:
        """Open a file, and wait until it is loaded."""
        self._ask("url", url=page.resolve().as_uri())

    def run(self, script: str) -> Any:
        """What a function body in JavaScript returns."""
        return self._ask("execute/sync", script=script, args=[])

    def move(self, x: int, y: int, *, dragging_to: int | None = None) -> None:
        """Move the mouse; drag it to another x from there, if that is given."""

        def to(x: int) -> dict[str, Any]:
            return {"type": "pointerMove", "duration": 50, "x": x, "y": y}

        actions = [to(x)]
        if dragging_to is not None:
            down, up = ({"type": kind, "button": 0} for kind in ("pointerDown", "pointerUp"))
            actions += [down, to(dragging_to), up]
        self._ask("actions", actions=[{"type": "pointer", "id": "mouse", "actions": actions}])

    def console(self) -> list[str]:
        """What was written to the console since the last call, errors of the page included."""
        return [entry["message"] for entry in self._ask("se/log", type="browser")]

    def picture(self) -> bytes:
        """The window as PNG."""
        with urllib.request.urlopen(f"{self._address}/screenshot", timeout=60) as answer:
            return base64.b64decode(json.load(answer)["value"])


def ask(address: str, body: Any) -> Any:
    """The value with which a driver answers."""
    request = urllib.request.Request(
        address, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)["value"]


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """A browser that resolves no name: it works without a network.

    Args:
        folder: for what the browser keeps.
    """
    assert DRIVER and CHROMIUM
    driver = subprocess.Popen([DRIVER, "--port=0"], stdout=subprocess.PIPE, text=True)
    try:
        assert driver.stdout
        port = next(
            m[1] for line in driver.stdout if (m := re.search(r"successfully on port (\d+)", line))
        )
        flags = [*FLAGS, f"--user-data-dir={folder}", "--window-size=1300,900"]
        flags.append("--host-resolver-rules=MAP * ~NOTFOUND")
        wanted = {
            "goog:chromeOptions": {"binary": CHROMIUM, "args": flags},
            "goog:loggingPrefs": {"browser": "ALL"},
        }
        base = f"http://127.0.0.1:{port}/session"
        session = ask(base, {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
        try:
            yield Browser(f"{base}/{session}")
        finally:
            quit_ = urllib.request.Request(f"{base}/{session}", method="DELETE")
            urllib.request.urlopen(quit_, timeout=60).close()
    finally:
        driver.terminate()
        driver.communicate()
