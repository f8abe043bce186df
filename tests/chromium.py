"""Headless Chromium over the DevTools protocol: pages, keys of the keyboard, and what goes wrong in a page."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

from websockets.sync.client import connect

NAMES = ("chromium", "chromium-browser", "google-chrome")
_KEYS = {"Tab": 9, "Enter": 13, "Space": 32, "End": 35}
_SECONDS = 20.0


def executable() -> str | None:
    """The browser's path; None: it is not installed."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Chromium:
    """One browser with one page."""

    def __init__(self, program: str, folder: Path) -> None:
        self._process = subprocess.Popen(
            [
                *(program, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"),
                *("--disable-background-networking", "--disable-component-update"),
                *("--disable-dev-shm-usage", "--remote-debugging-port=0"),
                *(f"--user-data-dir={folder}", "about:blank"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.problems: list[str] = []
        """Errors of the console, exceptions, refused resources, violations of the content policy."""
        self._number, self._loads = 0, 0
        self._stack = contextlib.ExitStack()
        self._socket = self._stack.enter_context(connect(self._address(folder), max_size=None))
        for domain in ("Page", "Runtime", "Log", "Audits", "Network", "Accessibility"):
            self.call(f"{domain}.enable")

    def close(self) -> None:
        self._stack.close()
        self._process.terminate()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    # -- pages ------------------------------------------------------------------------------------

    def open(self, url: str) -> None:
        before = self._loads
        self.call("Page.navigate", url=url)
        self.loaded(before)

    def loaded(self, before: int) -> None:
        """Wait for a page behind the load with this number."""
        self._until(lambda: self._loads > before, "the page does not load")

    @property
    def loads(self) -> int:
        return self._loads

    def wait(self, condition: str) -> None:
        """Wait until a JavaScript expression is true."""
        self._until(lambda: self.js(condition) is True, f"never true: {condition}")

    def js(self, expression: str) -> Any:
        reply = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in reply, reply
        return reply["result"].get("value")

    @property
    def text(self) -> str:
        return str(self.js("document.body.innerText"))

    def resize(self, width: int, height: int = 900) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )

    def scheme(self, name: str) -> None:
        """Prefer `light` or `dark`."""
        features = [{"name": "prefers-color-scheme", "value": name}]
        self.call("Emulation.setEmulatedMedia", features=features)

    def screenshot(self, path: Path) -> None:
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def unnamed(self) -> list[str]:
        """Controls and links without an accessible name."""
        nodes = self.call("Accessibility.getFullAXTree")["nodes"]
        roles = {"textbox", "searchbox", "button", "link", "combobox", "Date", "img", "table"}
        return [
            node["role"]["value"]
            for node in nodes
            if not node.get("ignored")
            and node["role"]["value"] in roles
            and not node.get("name", {}).get("value", "").strip()
        ]

    # -- keyboard ---------------------------------------------------------------------------------

    def press(self, key: str) -> None:
        given = {"key": " " if key == "Space" else key, "code": key}
        given |= {"windowsVirtualKeyCode": _KEYS[key]}  # type: ignore[dict-item]
        text = {"Enter": {"text": "\r"}, "Space": {"text": " "}}.get(key, {})
        self.call("Input.dispatchKeyEvent", type="keyDown", **given, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **given)

    def type(self, text: str) -> None:
        self.call("Input.insertText", text=text)

    def tab_to(self, selector: str) -> None:
        """Press Tab until the focus is on an element; fails where the keyboard does not reach it."""
        for _ in range(80):
            if self.js(f"document.activeElement.matches({json.dumps(selector)})"):
                return
            self.press("Tab")
        raise AssertionError(f"the keyboard does not reach {selector}")

    def submit(self) -> None:
        """Press Enter and wait for the next page."""
        before = self._loads
        self.press("Enter")
        self.loaded(before)

    # -- protocol ---------------------------------------------------------------------------------

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        number = self._number
        self._socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv(timeout=_SECONDS))
            if message.get("id") == number:
                assert "error" not in message, (method, message)
                result: dict[str, Any] = message["result"]
                return result
            self._note(message)

    def _note(self, message: dict[str, Any]) -> None:
        method, params = message.get("method", ""), message.get("params", {})
        if method == "Page.loadEventFired":
            self._loads += 1
        elif method == "Runtime.exceptionThrown":
            self.problems.append(f"exception: {params['exceptionDetails'].get('text')}")
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            self.problems.append(f"console: {params['args']}")
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.problems.append(f"log: {params['entry']['text']} {params['entry'].get('url')}")
        elif method == "Audits.issueAdded":
            code = params["issue"]["code"]
            if code in ("ContentSecurityPolicyIssue", "CookieIssue", "MixedContentIssue"):
                self.problems.append(f"issue: {json.dumps(params['issue'])[:500]}")

    def _until(self, condition: Any, what: str) -> None:
        end = time.monotonic() + _SECONDS
        while not condition():
            assert time.monotonic() < end, what
            self.call("Runtime.evaluate", expression="0")  # reads events that wait
            time.sleep(0.01)

    def _address(self, folder: Path) -> str:
        port, end = folder / "DevToolsActivePort", time.monotonic() + _SECONDS
        while not (port.exists() and port.read_text().strip()):
            assert self._process.poll() is None, "Chromium does not start"
            assert time.monotonic() < end, "Chromium does not listen"
            time.sleep(0.02)
        number = port.read_text().split()[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{number}/json", timeout=10) as reply:
            pages = json.load(reply)
        page = next(each for each in pages if each["type"] == "page")
        return str(page["webSocketDebuggerUrl"])
