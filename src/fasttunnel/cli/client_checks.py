"""What a client finds out about itself while it runs: whether its URLs lead to it, and whether its backends listen."""

import asyncio
from collections.abc import Sequence
from typing import Protocol

from fasttunnel.api import Client

FIRST_PAUSE_S = 5.0  # before a URL that does not lead here is tried again; each pause is twice the one before
LONGEST_PAUSE_S = 60.0
AT_ONCE = 8


class UrlScreen(Protocol):
    """Where it is told."""

    urls: list[str]
    has_urls: asyncio.Event

    def route(self, index: int, problem: str | None) -> None: ...


async def check_urls(end: Client, screen: UrlScreen) -> None:
    """Each time that the server has named others than before."""
    known: Sequence[str] = []
    checking: asyncio.Task[None] | None = None
    try:
        while True:
            await screen.has_urls.wait()
            screen.has_urls.clear()
            if screen.urls == known:
                continue
            known = screen.urls
            if checking is not None:
                checking.cancel()
            checking = asyncio.ensure_future(_check_all(end, screen, len(known)))
    finally:
        if checking is not None:
            checking.cancel()


async def _check_all(end: Client, screen: UrlScreen, count: int) -> None:
    turns = asyncio.Semaphore(AT_ONCE)

    async def problem_of(index: int) -> str | None:
        async with turns:
            return await end.problem_of(index) if len(end.urls) == count else None

    def tell(index: int, problem: str | None) -> None:
        if len(end.urls) == count:  # else there was a reload: others are looked at, and this will be cancelled
            screen.route(index, problem)

    async def follow(index: int, told: str) -> None:
        """Until it leads here."""
        pause_s = FIRST_PAUSE_S
        while True:
            await asyncio.sleep(pause_s)
            problem = await problem_of(index)
            if problem != told:
                tell(index, problem)
            if problem is None:
                return
            told, pause_s = problem, min(2 * pause_s, LONGEST_PAUSE_S)

    async with asyncio.TaskGroup() as group:
        first = [group.create_task(problem_of(index)) for index in range(count)]
        for index, task in enumerate(first):  # told in the order of the routes
            problem = await task
            tell(index, problem)
            if problem is not None:
                group.create_task(follow(index, problem))
