"""Node.js: its HTTP/1.1 and HTTP/2 clients and its WebSocket."""

import hashlib
import json
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support import programs
from tests.support.site import content, start_site
from tests.support.tunnel import Tunnel, start_tunnel

FOLDER = Path(__file__).parent / "node"


@pytest.fixture
async def tunnel(stack: AsyncExitStack) -> Tunnel:
    return await start_tunnel(stack, await start_site(stack))


async def node(kind: str, tunnel: Tunnel) -> Any:
    """What the client saw."""
    done = await programs.run(programs.need("node", "nodejs"), str(FOLDER / "client.mjs"), kind, tunnel.url)
    assert done.code == 0, done.err
    return json.loads(done.out)


async def test_http(tunnel: Tunnel) -> None:
    seen = await node("http", tunnel)
    sizes = (0, 1, 100_000, 5)
    assert seen["bodies"] == [[200, hashlib.sha256(content(size)).hexdigest()] for size in sizes]
    assert len(set(seen["ports"])) == 1, "one connection for all"
    assert seen["continued"]
    assert seen["echoed"]


async def test_http2(tunnel: Tunnel) -> None:
    seen = await node("http2", tunnel)
    assert seen["streams"] == [[200, f"/echo?{number}", True] for number in range(50)]


async def test_websocket(tunnel: Tunnel) -> None:
    """With compression: Node's own and ws both offer permessage-deflate, and the backend takes it."""
    program = programs.need("node", "nodejs")
    found = await programs.run(program, "-p", "typeof WebSocket")
    if b"function" not in found.out and not (FOLDER / "node_modules" / "ws").exists():
        pytest.skip("Node.js has no WebSocket before version 22, and the package ws is not installed (npm)")
    seen = await node("websocket", tunnel)
    assert (seen["text"], seen["binary"], seen["protocol"]) == ("HELLO, GRÜSSE", True, "echo")
    assert "permessage-deflate" in seen["extensions"]
    assert (seen["code"], seen["reason"], seen["wasClean"]) == (4001, "as you wish", True)
