"""Those who are not attacked: requests of every kind that go on, on the same server and through the same tunnel."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any

from tests.support.frames import BINARY, MASK, ask_upgrade, expect_upgrade, frame, read_frame
from tests.support.grpc_peers import Note, open_channel
from tests.support.raw import connect, request
from tests.support.tunnel import WAIT_S

WEB = "web.example"
CALLS = "calls.example"
PAUSE_S = 0.02  # between two rounds: others live here, they do not load the machine
BODY = bytes(range(256))


class Others:
    """An HTTP/1.1 connection, a WebSocket and a gRPC channel of the public, each with one request after the other."""

    def __init__(self, host: str, port: int) -> None:
        self.rounds = 0
        self._host, self._port = host, port
        self._stack = AsyncExitStack()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        authority = [("grpc.default_authority", CALLS)]
        self._stub: Any = await open_channel(self._stack, f"{self._host}:{self._port}", authority)
        self._http = await connect(self._stack, self._host, self._port)
        self._socket = await connect(self._stack, self._host, self._port)
        await ask_upgrade(self._socket, "/websocket", host=WEB)
        await expect_upgrade(self._socket)
        await self.round()

    async def round(self) -> None:
        """One request of each kind, all right, each in bounded time."""
        answer = await self._http.ask(request("POST", "/echo", host=WEB, body=BODY), "POST")
        assert (answer.status, answer.body) == (200, BODY)
        await self._socket.send(frame(BINARY, BODY, mask=MASK))
        assert (await read_frame(self._socket)).payload == BODY[::-1]
        note = await self._stub.Unary(Note(number=7, data=BODY), timeout=WAIT_S)
        assert (note.number, note.data) == (7, BODY)
        self.rounds += 1

    def go_on(self) -> None:
        """Round after round, until `stop`."""

        async def run() -> None:
            while not self._enough:
                await self.round()
                await asyncio.sleep(PAUSE_S)

        self.rounds = 0
        self._enough = False
        self._task = asyncio.create_task(run())

    async def stop(self) -> None:
        """All that went on until here went well; one more round begins now."""
        assert self._task is not None
        self._enough = True
        await self._task
        await self.round()

    async def close(self) -> None:
        await self._stack.aclose()
