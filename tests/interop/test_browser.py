"""A headless Chromium: it loads a page through the tunnel, whose script talks over every way that a page has."""

import asyncio
import os
import subprocess
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.support.child import Child, start_child
from tests.support.chromium import chromium
from tests.support.site import fields, websocket
from tests.support.tunnel import start_tunnel
from tests.support.web import start_web

PAGE = """<!doctype html><meta charset="utf-8"><title>waiting</title>
<img src="/image.svg" id="image">
<script type="module">
const seen = {};
const post = await fetch("/reverse", { method: "POST", body: "abc" });
seen.fetched = await post.text();
seen.fields = await (await fetch("/fields")).json();

seen.events = await new Promise((resolve, reject) => {
  const source = new EventSource("/events"), events = [];
  source.onmessage = ({ data }) => {
    events.push(data);
    if (events.length === 3) { source.close(); resolve(events); }
  };
  source.onerror = reject;
});

seen.socket = await new Promise((resolve, reject) => {
  const socket = new WebSocket(`ws://${location.host}/websocket`, ["echo"]), messages = [];
  socket.binaryType = "arraybuffer";
  socket.onopen = () => {
    for (const data of ["gr\\u00fc\\u00dfe", new Uint8Array(200000).fill(7), "close"]) socket.send(data);
  };
  socket.onmessage = ({ data }) => messages.push(typeof data === "string" ? data : data.byteLength);
  socket.onclose = ({ code, reason, wasClean }) =>
    resolve({ messages, code, reason, wasClean, protocol: socket.protocol, extensions: socket.extensions });
  socket.onerror = reject;
});

const image = document.getElementById("image");
await image.decode();
seen.image = image.naturalWidth;
document.title = "done";
document.body.append(Object.assign(document.createElement("pre"), { id: "seen", textContent: JSON.stringify(seen) }));
await fetch("/done", { method: "POST", body: JSON.stringify(seen) });
</script>
"""
IMAGE = '<svg xmlns="http://www.w3.org/2000/svg" width="123" height="45"></svg>'


class Site:
    """The page and what it asks for; `seen` is what its script reports."""

    def __init__(self) -> None:
        self.seen: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.over = asyncio.Event()

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/", self.page),
            web.get("/image.svg", self.image),
            web.get("/fields", fields),
            web.get("/events", self.events),
            web.get("/websocket", websocket),
            web.post("/reverse", self.reverse),
            web.post("/done", self.done),
        ]

    async def page(self, request: web.Request) -> web.Response:
        return web.Response(text=PAGE, content_type="text/html")

    async def image(self, request: web.Request) -> web.Response:
        return web.Response(text=IMAGE, content_type="image/svg+xml")

    async def reverse(self, request: web.Request) -> web.Response:
        return web.Response(body=(await request.read())[::-1])

    async def events(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for number in range(3):
            await response.write(f"data: event {number}\n\n".encode())
        await self.over.wait()  # the page has closed it meanwhile
        return response

    async def done(self, request: web.Request) -> web.Response:
        self.seen.set_result(await request.json())
        self.over.set()
        return web.Response()


@pytest.mark.timeout(180)
async def test_a_page_with_a_websocket(stack: AsyncExitStack, tmp_path: Path) -> None:
    command = chromium(f"--user-data-dir={tmp_path}/profile")
    site = Site()
    tunnel = await start_tunnel(stack, await start_web(stack, *site.routes()))
    log = stack.enter_context((tmp_path / "log").open("wb"))
    browser = await start_child(
        [*command, tunnel.url + "/"],
        stdout=subprocess.DEVNULL,
        stderr=log,
        start_new_session=True,
        env={**os.environ, "HOME": str(tmp_path)},
    )
    stack.push_async_callback(end, browser)
    try:
        async with asyncio.timeout(90):
            seen = await site.seen
    except TimeoutError:
        raise AssertionError(
            "the page has reported nothing: " + (tmp_path / "log").read_text(errors="replace")
        ) from None
    assert seen["fetched"] == "cba"
    assert seen["fields"]["host"] == tunnel.authority
    assert seen["fields"]["x-forwarded-for"] == "127.0.0.1"
    assert "Chrome" in seen["fields"]["user-agent"]
    assert seen["events"] == ["event 0", "event 1", "event 2"]
    assert seen["socket"] == {
        "messages": ["GRÜSSE", 200_000],
        "code": 4001,
        "reason": "as you wish",
        "wasClean": True,
        "protocol": "echo",
        "extensions": "permessage-deflate",
    }
    assert seen["image"] == 123


async def end(browser: Child) -> None:
    """End the browser and all its processes, which are a group of their own."""
    if browser.returncode is None:
        os.killpg(browser.pid, 9)
        await browser.wait()
