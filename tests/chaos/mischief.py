"""A TCP relay that does to its connections what networks do: it delays, splits, stalls, cuts and loses."""

import asyncio
import contextlib
from random import Random
from typing import NamedTuple

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Odds(NamedTuple):
    """What may happen to a piece of data, and how probable it is."""

    cut: float
    stall: float
    delay: float = 0.05
    split: float = 0.1


STALL_S = 1.5  # at most
DELAY_S = 0.02


class Mischief:
    """Carries each connection that comes to `address` on to `target`; while `calm`, without any harm."""

    def __init__(self, random: Random, target: tuple[str, int], odds: Odds) -> None:
        self.calm = True
        self.harm = 0  # what was done to connections
        self._random = random
        self._target = target
        self._odds = odds
        self._open: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._lost: set[asyncio.StreamWriter] = set()  # towards which everything vanishes
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"

    async def stop(self) -> None:
        self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Break all connections off."""
        self.harm += len(self._open)
        for pair in self._open:
            for writer in pair:
                writer.transport.abort()

    def lose(self) -> None:
        """A black hole: from now on all packets of the open connections vanish, both ways."""
        self.harm += len(self._open)
        for pair in self._open:
            self._lost.update(pair)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._carry(reader, writer)
        except asyncio.CancelledError:
            pass  # by stop()
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target)
        except OSError:
            return
        pair = (writer, far_writer)
        self._open.add(pair)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, far_writer))
                group.create_task(self._pump(far_reader, writer))
        except* (OSError, RuntimeError):  # the latter: uvloop's word for a transport that is closed
            pass
        finally:
            self._open.discard(pair)
            self._lost.difference_update(pair)
            far_writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        random, odds = self._random, self._odds
        while data := await reader.read(random.choice((100, 5_000, 65_536))):
            if writer in self._lost:
                continue
            if not self.calm:
                roll = random.random()
                if roll < odds.cut:
                    self.harm += 1
                    raise ConnectionResetError
                if (roll := roll - odds.cut) < odds.stall:
                    self.harm += 1
                    await asyncio.sleep(random.uniform(0, STALL_S))
                elif (roll := roll - odds.stall) < odds.delay:
                    await asyncio.sleep(random.uniform(0, DELAY_S))
                elif roll - odds.delay < odds.split:
                    at = random.randrange(len(data))
                    writer.write(data[:at])
                    await asyncio.sleep(0)
                    data = data[at:]
            writer.write(data)
            await writer.drain()
        if writer not in self._lost:
            with contextlib.suppress(OSError, RuntimeError):
                writer.write_eof()
