"""A real headless Chromium for tests, by its debugging protocol: what a person would see, press and be sent."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import aiohttp

CHROMIUM = shutil.which("chromium")
FLAGS = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-sync"
FLAGS += " --disable-component-update --disable-default-apps --remote-debugging-port=0 --hide-scrollbars"


_axe = find_spec("axe_core_python")  # axe-core as a file; of what is in Python there, nothing is used
AXE = Path(_axe.submodule_search_locations[0], "axe.min.js") if _axe and _axe.submodule_search_locations else Path()


class Browser:
    """One tab. What happens while a command is awaited is kept in `events`, as (method, parameters)."""

    def __init__(self, profile: Path, *, width: int = 1200, height: int = 900):
        assert CHROMIUM
        command = [
            CHROMIUM,
            *FLAGS.split(),
            f"--user-data-dir={profile}",
            f"--window-size={width},{height}",
            "about:blank",
        ]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.loop = asyncio.new_event_loop()
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.number = 0
        try:
            port = int(self._wait_for(profile / "DevToolsActivePort").split("\n")[0])
            self.loop.run_until_complete(self._connect(port))
            for domain in ("Page", "Runtime", "Network", "Log"):
                self.do(f"{domain}.enable")
        except BaseException:
            self.close()
            raise

    def _wait_for(self, path: Path) -> str:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if path.exists() and "\n" in (text := path.read_text()):
                return text
            time.sleep(0.05)
        raise TimeoutError("chromium did not start")

    async def _connect(self, port: int) -> None:
        self.session = aiohttp.ClientSession()
        async with self.session.get(f"http://127.0.0.1:{port}/json/list") as response:
            targets = await response.json()
        page = next(target for target in targets if target["type"] == "page")
        self.socket = await self.session.ws_connect(page["webSocketDebuggerUrl"], max_msg_size=0)

    def close(self) -> None:
        async def end() -> None:
            if hasattr(self, "session"):
                await self.session.close()

        self.loop.run_until_complete(end())
        self.loop.close()
        self.process.kill()
        self.process.wait(timeout=30)

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def do(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command of the protocol; its result. Raises RuntimeError with what the browser says is wrong."""
        self.number += 1
        number = self.number

        async def ask() -> dict[str, Any]:
            await self.socket.send_json({"id": number, "method": method, "params": parameters})
            while True:
                said = json.loads(await asyncio.wait_for(self.socket.receive_str(), timeout=60))
                if said.get("id") == number:
                    return said
                if said.get("params", {}).get("type") == "beforeunload":  # "leave this page?": yes
                    leave = {"id": 0, "method": "Page.handleJavaScriptDialog", "params": {"accept": True}}
                    await self.socket.send_json(leave)
                elif "method" in said:
                    self.events.append((said["method"], said["params"]))

        said = self.loop.run_until_complete(ask())
        if "error" in said:
            raise RuntimeError(said["error"]["message"])
        return said["result"]

    def open(self, url: str) -> None:
        """Go to a page and wait until it is there. What the page before it still had to tell is forgotten."""
        self.do("Page.navigate", url="about:blank")
        self.wait_until("location.href === 'about:blank'")
        self.events.clear()
        self.do("Page.navigate", url=url)
        self.wait_until("document.readyState === 'complete' && location.href !== 'about:blank'")

    def js(self, expression: str) -> Any:
        """The value of an expression, asked from outside of the page's own policy."""
        said = self.do("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in said:
            raise RuntimeError(said["exceptionDetails"]["exception"]["description"])
        return said["result"].get("value")

    def wait_until(self, expression: str, seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.js(expression):
                return
            time.sleep(0.02)
        raise TimeoutError(expression)

    def press(self, *keys: str) -> None:
        """Real key events: one character, or a name such as Escape and ArrowRight."""
        for key in keys:
            self.key(key)

    def key(self, key: str, code: str | None = None, *, repeats: int = 0, modifiers: int = 0) -> None:
        """One key. code: its place on the keyboard (KeyA), else that of a US one; modifiers: 1 Alt, 2 Ctrl, 8 Shift."""
        if code is None:
            code = f"Key{key.upper()}" if len(key) == 1 and key.isalpha() else f"Digit{key}" if key.isdigit() else ""
        text = {"text": key} if len(key) == 1 and not modifiers & 3 else {"text": "\r"} if key == "Enter" else {}
        about = {"key": key, "code": code, "modifiers": modifiers}
        for again in range(repeats + 1):
            self.do("Input.dispatchKeyEvent", type="keyDown", autoRepeat=again > 0, **about, **text)
        self.do("Input.dispatchKeyEvent", type="keyUp", **about)

    def write(self, text: str) -> None:
        self.do("Input.insertText", text=text)

    def picture(self, path: Path, *, whole: bool = False) -> None:
        """whole: the page from its top to its end, not only what is in view."""
        shot = self.do("Page.captureScreenshot", captureBeyondViewport=whole, **(self._whole() if whole else {}))
        path.write_bytes(base64.b64decode(shot["data"]))

    def _whole(self) -> dict[str, Any]:
        size = self.do("Page.getLayoutMetrics")["cssContentSize"]
        return {"clip": {**size, "scale": 1}}

    @contextmanager
    def seen(self, *, width: int, height: int = 900, dark: bool = False) -> Iterator[None]:
        """Pages as on a screen of that size, by a person whose system is light or dark."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        calm = {"name": "prefers-reduced-motion", "value": "reduce"}
        self.do("Emulation.setDeviceMetricsOverride", **size)
        self.do("Emulation.setEmulatedMedia", features=[scheme, calm])
        try:
            yield
        finally:
            self.do("Emulation.clearDeviceMetricsOverride")
            self.do("Emulation.setEmulatedMedia", features=[])

    def violations(self) -> list[str]:
        """What axe-core finds against the accessibility guidelines on the open page: rule, help, and where."""
        if not self.js("typeof window.axe === 'object'"):
            self.js(AXE.read_text(encoding="utf-8"))
        found = self.js("axe.run(document, {resultTypes: ['violations']}).then(r => r.violations)")
        return [
            f"{each['id']} ({each['impact']}): {each['help']}: {node['html'][:160]}"
            for each in found
            for node in each["nodes"][:3]
        ]

    @property
    def requests(self) -> list[str]:
        """Every address that was asked for since the page was opened."""
        self.js("0")  # what has happened by now has been told by then
        return [told["request"]["url"] for method, told in self.events if method == "Network.requestWillBeSent"]

    @property
    def complaints(self) -> list[str]:
        """Dialogs, errors and refusals by policy since the page was opened."""
        self.js("0")
        found = []
        for method, told in self.events:
            if method == "Page.javascriptDialogOpening":
                found.append(f"dialog: {told['message']}")
            elif method == "Runtime.exceptionThrown":
                found.append(f"exception: {told['exceptionDetails']['text']}")
            elif method == "Log.entryAdded" and told["entry"]["level"] == "error":
                found.append(f"error: {told['entry']['text']}")
        return found
