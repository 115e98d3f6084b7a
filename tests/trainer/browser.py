"""A headless Chromium, spoken to in its DevTools protocol: what a page asks for, complains of, and looks like.

python -m tests.trainer.browser PAGE PNG [WIDTH [dark]]      takes a picture of a whole page
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
"""Its path, or None where there is none."""
SECONDS = 60.0


@dataclass
class Seen:
    """A page that was opened."""

    requests: list[str] = field(default_factory=list)
    """Addresses of all that it asked for, itself first."""
    complaints: list[str] = field(default_factory=list)
    """What stands in the console as an error or warning, and errors of scripts."""
    width: int = 0
    """Of its content: more than the window's if it must be scrolled sideways."""
    headings: list[str] = field(default_factory=list)
    pointed: str = ""
    """What the first curve says where the pointer is put on it."""
    picture: bytes = b""
    """All of it, as PNG."""


def look(page: Path, width: int, dark: bool = False) -> Seen:
    """Opens a file in a window of this width."""
    return asyncio.run(asyncio.wait_for(_look(page, width, dark), SECONDS))


async def _look(page: Path, width: int, dark: bool) -> Seen:
    seen = Seen()
    async with _tab() as tab:
        for domain in ("Page", "Runtime", "Log", "Network"):
            await tab.ask(f"{domain}.enable")
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        await tab.ask("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await tab.ask("Emulation.setEmulatedMedia", features=[scheme])
        await tab.ask("Page.navigate", url=page.as_uri())
        while not await tab.evaluate("document.readyState == 'complete' && location.protocol == 'file:'"):
            await asyncio.sleep(0.05)
        seen.headings = await tab.evaluate("[...document.querySelectorAll('h2')].map(found => found.textContent)")
        seen.width = await tab.evaluate("document.documentElement.scrollWidth")
        await tab.evaluate("document.querySelector('.plot svg')?.scrollIntoView({block: 'center'})")
        box = await tab.evaluate(
            "(found => found && (({x, y, width, height}) => [x + width / 2, y + height / 2])(found.getBoundingClientRect()))"
            "(document.querySelector('.plot svg'))"
        )
        if box:
            await tab.ask("Input.dispatchMouseEvent", type="mouseMoved", x=box[0], y=box[1])
            seen.pointed = await tab.evaluate("document.querySelector('.plot output').textContent")
            await tab.ask("Input.dispatchMouseEvent", type="mouseMoved", x=1, y=1)
        await tab.evaluate("scrollTo(0, 0)")
        shot = await tab.ask("Page.captureScreenshot", captureBeyondViewport=True)
        seen.picture = base64.b64decode(shot["data"])
        for event in tab.events:
            match event["method"], event["params"]:
                case "Network.requestWillBeSent", said:
                    seen.requests.append(said["request"]["url"])
                case "Runtime.consoleAPICalled", said if said["type"] in ("error", "warning"):
                    seen.complaints.append(str(said["args"]))
                case "Runtime.exceptionThrown", said:
                    seen.complaints.append(str(said["exceptionDetails"]))
                case "Log.entryAdded", said if said["entry"]["level"] in ("error", "warning"):
                    seen.complaints.append(said["entry"]["text"])
    return seen


@dataclass
class Tab:
    """A page of the browser."""

    socket: aiohttp.ClientWebSocketResponse
    session: str = ""
    events: list[dict[str, Any]] = field(default_factory=list)
    numbers: Any = field(default_factory=lambda: itertools.count(1))

    async def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The answer to one call; events that come before it are kept."""
        number = next(self.numbers)
        call = {"id": number, "method": method, "params": parameters}
        await self.socket.send_json(call | ({"sessionId": self.session} if self.session else {}))
        while True:
            said = await self.socket.receive_json()
            if said.get("id") == number:
                assert "error" not in said, said["error"]
                answer: dict[str, Any] = said["result"]
                return answer
            if "method" in said:
                self.events.append(said)

    async def evaluate(self, expression: str) -> Any:
        """The value of some JavaScript in the page."""
        answer = await self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        return answer["result"].get("value")


@contextlib.asynccontextmanager
async def _tab() -> AsyncIterator[Tab]:
    assert CHROMIUM is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        options += ["--remote-debugging-port=0", f"--user-data-dir={profile}", "--force-device-scale-factor=1"]
        with subprocess.Popen(
            [CHROMIUM, *options, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            try:
                told = Path(profile) / "DevToolsActivePort"
                while not (told.exists() and told.read_text().count("\n")):
                    assert process.poll() is None, "Chromium ended"
                    await asyncio.sleep(0.05)
                port, path = told.read_text().split()
                async with (
                    aiohttp.ClientSession() as client,
                    client.ws_connect(f"http://127.0.0.1:{port}{path}", max_msg_size=0) as socket,
                ):
                    tab = Tab(socket)
                    target = await tab.ask("Target.createTarget", url="about:blank")
                    attached = await tab.ask("Target.attachToTarget", targetId=target["targetId"], flatten=True)
                    tab.session = attached["sessionId"]
                    yield tab
            finally:
                process.terminate()
                process.wait(10)


if __name__ == "__main__":
    _, name, target, *more = sys.argv
    Path(target).write_bytes(look(Path(name).absolute(), int(more[0]) if more else 1280, "dark" in more).picture)
