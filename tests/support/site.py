"""A site for programs: it echoes, counts, streams, and says what it was asked."""

import hashlib
from contextlib import AsyncExitStack

from aiohttp import web

from tests.support.web import start_web

BLOCK = bytes(range(251)) * 261  # 65,511 bytes: no power of two, so that a block out of place shows


def content(size: int) -> bytes:
    """What /bytes/SIZE answers."""
    return (BLOCK * (size // len(BLOCK) + 1))[:size]


async def echo(request: web.Request) -> web.StreamResponse:
    """The body comes back as it comes, with the method and the target in fields."""
    response = web.StreamResponse(headers={"X-Method": request.method, "X-Target": request.raw_path})
    await response.prepare(request)
    async for piece in request.content.iter_any():
        await response.write(piece)
    return response


async def upload(request: web.Request) -> web.Response:
    """Length and digest of the body."""
    size, digest = 0, hashlib.sha256()
    async for piece in request.content.iter_any():
        size += len(piece)
        digest.update(piece)
    return web.json_response({"bytes": size, "sha256": digest.hexdigest()})


async def download(request: web.Request) -> web.Response:
    return web.Response(body=content(int(request.match_info["size"])))


async def fields(request: web.Request) -> web.Response:
    """The request's fields as JSON, names in lower case."""
    return web.json_response({name.lower(): value for name, value in request.headers.items()})


async def websocket(request: web.Request) -> web.WebSocketResponse:
    """Texts come back in upper case, binaries reversed, "close" closes with 4001."""
    connection = web.WebSocketResponse(protocols=["echo"], max_msg_size=0)
    await connection.prepare(request)
    async for message in connection:
        if message.data == "close":
            await connection.close(code=4001, message=b"as you wish")
        elif isinstance(message.data, str):
            await connection.send_str(message.data.upper())
        else:
            await connection.send_bytes(message.data[::-1])
    return connection


async def start_site(stack: AsyncExitStack) -> str:
    """The URL of a running site."""
    return await start_web(
        stack,
        web.route("*", "/echo", echo),
        web.route("*", "/upload", upload),
        web.get("/bytes/{size}", download),
        web.get("/fields", fields),
        web.get("/websocket", websocket),
    )
