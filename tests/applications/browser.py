"""A headless Chromium, driven over the DevTools protocol."""

import asyncio
import base64
import contextlib
import itertools
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

from tests.support.child import start_child
from tests.support.chromium import chromium
from tests.support.tunnel import eventually

WAIT_S = 60.0  # an application that starts, on a busy machine
LOOK_S = 0.05

OPTIONS = [
    "--ignore-certificate-errors",
    "--remote-debugging-port=0",
    "--window-size=1200,800",
]
KEYS = {"Enter": (13, "\r"), "s": (83, "")}
CONTROL, SHIFT = 2, 8


class Page:
    """A tab. `trouble` is what it has complained about, `sockets` the URLs of its open WebSockets by their id."""

    def __init__(self, devtools: "DevTools", session: str) -> None:
        self.trouble: list[str] = []
        self.sockets: dict[str, str] = {}
        self.opened: list[str] = []  # WebSockets that have ever been open
        self.frames: list[tuple[str, str]] = []  # URL and payload of what came over WebSockets
        self.protocols: dict[str, str] = {}  # of answers, by their URL
        self._devtools = devtools
        self._session = session
        self._asked: dict[str, str] = {}
        devtools.listeners[session] = self._take

    async def start(self) -> None:
        for domain in ("Page", "Runtime", "Network", "Log"):
            await self._call(f"{domain}.enable")

    async def open(self, url: str) -> None:
        answer = await self._call("Page.navigate", url=url)
        assert "errorText" not in answer, answer

    async def evaluate(self, expression: str) -> Any:
        """The value of an expression, or of the promise that it is."""
        answer = await self._call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True, userGesture=True
        )
        if "exceptionDetails" in answer:
            raise AssertionError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    async def until(self, expression: str) -> Any:
        """Look until an expression is true; a page that is just being loaded has none of its objects."""
        problem = ""
        try:
            async with asyncio.timeout(WAIT_S):
                while True:
                    try:
                        if value := await self.evaluate(expression):
                            return value
                    except (AssertionError, DevToolsError) as error:
                        problem = str(error)
                    await asyncio.sleep(LOOK_S)
        except TimeoutError:
            text = await self.evaluate("document.body?.innerText.slice(0, 2000)")
            raise AssertionError(f"not true: {expression} {problem}\n{self.trouble}\nThe page: {text}") from None

    async def text(self, selector: str, text: str) -> str:
        """Wait for text in an element; all the text that it has then."""
        find = f"document.querySelector({json.dumps(selector)})?.innerText"
        return str(await self.until(f"((all) => all?.includes({json.dumps(text)}) && all)({find})"))

    async def click(self, selector: str) -> None:
        """Where the element is, as by a mouse."""
        middle = "({x, y, width, height}) => width && [x + width / 2, y + height / 2]"
        at = await self.until(f"({middle})(document.querySelector({json.dumps(selector)}).getBoundingClientRect())")
        for kind in ("mousePressed", "mouseReleased"):
            await self._call("Input.dispatchMouseEvent", type=kind, x=at[0], y=at[1], button="left", clickCount=1)

    async def enter(self, text: str) -> None:
        """Text where the cursor is."""
        await self._call("Input.insertText", text=text)

    async def press(self, key: str, modifiers: int = 0) -> None:
        code, text = KEYS[key]
        common = {"key": key, "code": key if len(key) > 1 else f"Key{key.upper()}", "windowsVirtualKeyCode": code}
        down = {"type": "keyDown", "text": text} if text else {"type": "rawKeyDown"}
        await self._call("Input.dispatchKeyEvent", modifiers=modifiers, **common, **down)
        await self._call("Input.dispatchKeyEvent", modifiers=modifiers, **common, type="keyUp")

    async def picture(self, path: Path) -> None:
        """Write what is seen as PNG."""
        shot = await self._call("Page.captureScreenshot", format="png")
        await asyncio.to_thread(path.write_bytes, base64.b64decode(shot["data"]))

    async def _call(self, method: str, **parameters: Any) -> Any:
        return await self._devtools.call(method, self._session, **parameters)

    def _take(self, method: str, event: dict[str, Any]) -> None:
        match method:
            case "Network.webSocketCreated":
                self._asked[event["requestId"]] = event["url"]
            case "Network.webSocketHandshakeResponseReceived" if event["response"]["status"] == 101:
                url = self._asked[event["requestId"]]
                self.sockets[event["requestId"]] = url
                self.opened.append(url)
            case "Network.webSocketClosed":
                self.sockets.pop(event["requestId"], None)
            case "Network.webSocketFrameReceived":
                self.frames.append((self._asked.get(event["requestId"], ""), event["response"]["payloadData"]))
            case "Network.webSocketFrameError":
                self.trouble.append(f"WebSocket {self._asked.get(event['requestId'])}: {event['errorMessage']}")
            case "Network.responseReceived":
                self.protocols[event["response"]["url"]] = event["response"].get("protocol", "")
            case "Runtime.exceptionThrown":
                self.trouble.append(str(event["exceptionDetails"])[:500])
            case "Log.entryAdded" if event["entry"]["level"] == "error":
                self.trouble.append(f"{event['entry']['text']} {event['entry'].get('url', '')}")


class DevToolsError(Exception):
    """The browser did not do as it was told."""


class DevTools:
    """The connection to a browser; events go to the listener of their session."""

    def __init__(self, connection: ClientConnection) -> None:
        self.listeners: dict[str, Callable[[str, dict[str, Any]], None]] = {}
        self._connection = connection
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Any]] = {}

    async def call(self, method: str, session: str | None = None, **parameters: Any) -> Any:
        number = next(self._numbers)
        self._answers[number] = asyncio.get_running_loop().create_future()
        message = {"id": number, "method": method, "params": parameters}
        await self._connection.send(json.dumps(message | ({"sessionId": session} if session else {})))
        async with asyncio.timeout(WAIT_S):
            answer = await self._answers[number]
        if "error" in answer:
            raise DevToolsError(f"{method}: {answer['error']}")
        return answer["result"]

    async def read(self) -> None:
        async for text in self._connection:
            message = json.loads(text)
            if "id" in message:
                self._answers.pop(message["id"]).set_result(message)
            elif listener := self.listeners.get(message.get("sessionId", "")):
                listener(message["method"], message["params"])


class Browser:
    def __init__(self, devtools: DevTools) -> None:
        self._devtools = devtools

    async def page(self) -> Page:
        target = (await self._devtools.call("Target.createTarget", url="about:blank"))["targetId"]
        session = (await self._devtools.call("Target.attachToTarget", targetId=target, flatten=True))["sessionId"]
        page = Page(self._devtools, session)
        await page.start()
        return page


@contextlib.asynccontextmanager
async def start_browser(folder: Path, domain: str) -> AsyncIterator[Browser]:
    """A browser with a new profile, to which all names under `domain` are this machine."""
    profile = folder / "profile"
    rules = f"--host-resolver-rules=MAP *.{domain} 127.0.0.1"
    command = chromium(*OPTIONS, rules, f"--user-data-dir={profile}")
    with (folder / "browser.log").open("wb") as log:
        process = await start_child(
            command,
            stdout=subprocess.DEVNULL,
            stderr=log,
            start_new_session=True,
            env={**os.environ, "HOME": str(folder)},
        )
    try:
        address = profile / "DevToolsActivePort"
        await eventually(lambda: address.exists() and "/" in address.read_text(), (folder / "browser.log").read_text)
        port, way = await asyncio.to_thread(lambda: address.read_text().split())
        async with connect(f"ws://127.0.0.1:{port}{way}", max_size=None, compression=None, proxy=None) as connection:
            devtools = DevTools(connection)
            reading = asyncio.create_task(devtools.read())
            yield Browser(devtools)
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
    finally:
        if process.returncode is None:
            os.killpg(process.pid, 9)  # it and all its processes
            await process.wait()
        await asyncio.to_thread(shutil.rmtree, profile, ignore_errors=True)
