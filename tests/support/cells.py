"""Tunnels of every pair of engines, kept for many conversations, each of which goes the same way in all of them."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any

import uvloop

from tests.support.leaks import exchanges
from tests.support.tunnel import Tunnel, eventually, start_tunnel
from tests.support.wires import Listener, News

Cell = tuple[str, str]
ALIKE: list[Cell] = [("cython", "cython"), ("asyncio", "asyncio")]
MIXED: list[Cell] = [("cython", "asyncio"), ("asyncio", "cython")]


class Stage:
    """One tunnel, with a listener for its HTTP backend and one for its gRPC backend."""

    def __init__(self, stack: AsyncExitStack, tunnel: Tunnel, web: Listener, grpc: Listener) -> None:
        self.stack = stack
        self.tunnel = tunnel
        self.news = web.news
        self.web = web
        self.grpc = grpc

    async def settle(self, alive: tuple[int, set[Any]]) -> None:
        """Nothing of a conversation is left at either end."""
        tunnel = self.tunnel
        await tunnel.until_idle()
        before, tasks = alive
        await eventually(lambda: exchanges() <= before, lambda: f"{exchanges()} exchanges are left")
        await eventually(lambda: len(asyncio.all_tasks()) <= len(tasks), lambda: f"left: {asyncio.all_tasks() - tasks}")
        assert tunnel.events.warnings == tunnel.client_events.warnings == []
        assert tunnel.client.status()["reconnects"] == 0


async def _start(cell: Cell) -> Stage:
    stack = AsyncExitStack()
    news = News()
    web, grpc = Listener(news), Listener(news)
    stack.push_async_callback(web.stop)
    stack.push_async_callback(grpc.stop)
    server, client = ({"engine": engine} for engine in cell)
    routes = (f"http://{web.address}", f"grpc://{grpc.address}")
    return Stage(stack, await start_tunnel(stack, *routes, server=server, client=client, records=False), web, grpc)


def differences(where: str, one: Any, other: Any) -> list[str]:
    """Where exactly two outcomes differ, for a person."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return [line for key in one for line in differences(f"{where} {key}", one[key], other[key])]
    if isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        return [line for key, (a, b) in pairs for line in differences(f"{where} {key}", a, b)]
    return [] if one == other else [f"{where}: {str(one)[:1000]}", f"{where}: {str(other)[:1000]}"]


class Complaints(logging.Handler):
    """What engines and libraries log as an error is a finding."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(self.format(record))


class Cells:
    """A loop of its own, on which tunnels live from one conversation to the next."""

    def __init__(self) -> None:
        self._loop = uvloop.new_event_loop()
        self._loop.set_exception_handler(lambda _, context: self._complaints.texts.append(repr(context)))
        self._complaints = Complaints()
        self._stages: dict[Cell, Stage] = {}
        logging.getLogger().addHandler(self._complaints)

    def close(self) -> None:
        for cell in list(self._stages):
            self._run(self._leave(cell))
        logging.getLogger().removeHandler(self._complaints)
        self._loop.close()

    def play(self, cell: Cell, play: Callable[[Stage], Coroutine[Any, Any, Any]]) -> Any:
        """Have one conversation in one cell; what the far sides have seen."""
        return self._run(self._play(cell, play))

    def compare(self, play: Callable[[Stage], Coroutine[Any, Any, Any]], *mixed: Cell) -> Any:
        """Have the conversation `play` in cells with the same engine at both ends, and in the `mixed` ones.

        It returns what the far sides have seen, which is to be the same everywhere, and is returned.
        """
        outcomes = {cell: self.play(cell, play) for cell in [*ALIKE, *mixed]}
        expected = outcomes[ALIKE[0]]
        for cell, outcome in outcomes.items():
            assert outcome == expected, "\n".join(differences(f"{ALIKE[0]} / {cell}", expected, outcome))
        return expected

    async def _play(self, cell: Cell, play: Callable[[Stage], Awaitable[Any]]) -> Any:
        if cell not in self._stages:
            self._stages[cell] = await _start(cell)
        self._complaints.texts.clear()
        alive = exchanges(), asyncio.all_tasks()
        try:
            outcome = await play(self._stages[cell])
            await self._stages[cell].settle(alive)
            assert self._complaints.texts == []
            return outcome
        except BaseException as error:
            error.add_note(f"in the cell {cell}")
            await self._leave(cell)  # it may be in any state
            raise

    async def _leave(self, cell: Cell) -> None:
        stage = self._stages.pop(cell)
        try:
            async with asyncio.timeout(10):
                for wire in list(stage.news.wires):
                    await wire.cut()
                await stage.stack.aclose()
        except (AssertionError, TimeoutError):  # has been told, or will be by those who look at what is left
            pass

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self._loop.run_until_complete(work)
