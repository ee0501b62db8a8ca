"""A headless Chromium over its debugging pipe: pages are opened, clicked, typed at and asked."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
#: Seconds that an answer may take on a busy machine.
PATIENCE = 60
#: Of the keys that elements act upon themselves.
_CODES = {"End": 35, "Home": 36, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}
#: The browser reads commands from descriptor 3 and answers on 4: those given are put there, by way of others.
_MOVED = """
import os, sys
for given, wanted in [(os.dup2(int(sys.argv[at]), 90 + at), 2 + at) for at in (1, 2)]:
    os.dup2(given, wanted)
os.execv(sys.argv[3], sys.argv[3:])
"""


def chromium() -> str | None:
    """The browser on this machine; None where there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """One tab of a running browser.

    Attributes:
        problems: errors and warnings of the console, uncaught exceptions, refused policies.
        requests: addresses that were asked for.
    """

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._to, self._from = to_browser, from_browser
        self._read = b""
        self._sent = 0
        self._session: str | None = None
        self.problems: list[str] = []
        self.requests: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command of the DevTools protocol and wait for its result."""
        self._sent += 1
        message = {"id": self._sent, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            told = self._next()
            if told.get("id") == self._sent:
                if "error" in told:
                    raise RuntimeError(f"{method}: {told['error']}")
                return told["result"]

    def _next(self) -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE
        while b"\0" not in self._read:
            if time.monotonic() > deadline:
                raise TimeoutError("the browser does not answer")
            got = os.read(self._from, 1 << 16)
            if not got:
                raise RuntimeError("the browser is gone")
            self._read += got
        line, _, self._read = self._read.partition(b"\0")
        told: dict[str, Any] = json.loads(line)
        self._note(told.get("method"), told.get("params", {}))
        return told

    def _note(self, method: str | None, params: dict[str, Any]) -> None:
        if method == "Runtime.exceptionThrown":
            self.problems.append(json.dumps(params["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.problems.append(json.dumps(params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.problems.append(params["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Page.loadEventFired":
            self._loaded = True

    def open(self, path: Path, place: str = "") -> None:
        """Load a file, at a place in it (``"codes"``), and wait until it is there."""
        self.visit(path.resolve().as_uri() + (place and f"#{place}"))

    def visit(self, address: str) -> None:
        """Load an address and wait until the page is there."""
        self.call("Page.navigate", url="about:blank")
        self.load(lambda: self.call("Page.navigate", url=address))

    def load(self, act: Callable[[], object]) -> None:
        """Do what loads a page, and wait until it is there."""
        self._loaded = False
        act()
        while not self._loaded or self.ask("document.readyState") != "complete":
            self.ask("0")

    def ask(self, expression: str) -> Any:
        """The value of a JavaScript expression."""
        told = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in told:
            raise RuntimeError(f"{expression}: {told['exceptionDetails']}")
        return told["result"].get("value")

    def text(self, selector: str) -> str:
        """The text of the first element of a selector."""
        found: str = self.ask(f"document.querySelector({json.dumps(selector)}).textContent")
        return found

    def click(self, selector: str) -> None:
        """Press the mouse in the middle of an element."""
        at = self.ask(
            f"(() => {{ const one = document.querySelector({json.dumps(selector)});"
            "one.scrollIntoView({block: 'center'}); const box = one.getClientRects()[0];"
            "return [box.x + box.width / 2, box.y + box.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=at[0], y=at[1], button="left", clickCount=1)

    def press(self, key: str) -> None:
        """Press a key: ``"ArrowRight"``, ``"t"``."""
        told = {"key": key, "windowsVirtualKeyCode": _CODES.get(key, 0)}
        text = {"text": key} if len(key) == 1 else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", **told, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **told)

    def type(self, text: str) -> None:
        """Type into what has the focus."""
        self.call("Input.insertText", text=text)

    def size(self, width: int, height: int) -> None:
        """Make the window so many CSS pixels wide and high."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip

    def scheme(self, name: str) -> None:
        """Have the system ask for ``"light"`` or ``"dark"``."""
        wanted = [{"name": "prefers-color-scheme", "value": name}]
        self.call("Emulation.setEmulatedMedia", features=wanted)

    def screenshot(self, path: Path) -> None:
        """What the window shows, as PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """A browser with a profile of its own, closed at the end.

    Raises:
        FileNotFoundError: where there is none; ask :func:`chromium` first.
    """
    found = chromium()
    if found is None:
        raise FileNotFoundError(f"there is no browser here: none of {', '.join(NAMES)}")
    theirs_in, to_browser = os.pipe()
    from_browser, theirs_out = os.pipe()
    options = [
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
        "--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank",
    ]  # fmt: skip
    moved = [sys.executable, "-c", _MOVED, str(theirs_in), str(theirs_out), found, *options]
    process = subprocess.Popen(
        moved, pass_fds=(theirs_in, theirs_out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    os.close(theirs_in)
    os.close(theirs_out)
    try:
        tab = Browser(to_browser, from_browser)
        yield tab
        tab._session = None
        tab.call("Browser.close")
    finally:
        os.close(to_browser)
        os.close(from_browser)
        try:
            process.wait(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
