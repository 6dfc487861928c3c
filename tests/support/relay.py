"""A TCP relay between the two ends of a tunnel, which tests can make misbehave."""

import asyncio
import contextlib
from contextlib import AsyncExitStack

from tests.support.raw import Peer, connect, start_raw


class Relay:
    """Carries each connection that comes to `address` on to the target."""

    def __init__(self, address: str, delay_s: float = 0) -> None:
        self.address = address
        self.connections = 0
        self.passed = 0  # bytes, both ways
        self.mark = b""  # to be looked for; `marked` is then what had passed before it
        self.marked = 0
        self._delay_s = delay_s
        self._open: list[tuple[Peer, Peer]] = []  # towards the client, towards the target
        self._silent: list[Peer] = []  # towards the target: left open
        self._holding = False
        self._opened = asyncio.Event()
        self._opened.set()
        self.waiting = 0  # connections that have come since shut()
        self._lost: list[tuple[Peer, Peer]] = []  # whose packets vanish
        self._kept: dict[Peer, bytearray] = {}  # for whom

    def hold(self) -> None:
        """Keep what the target sends, until release()."""
        self._holding = True

    def release(self) -> None:
        """Pass on in one piece what was kept."""
        self._holding = False
        for peer, data in self._kept.items():
            with contextlib.suppress(RuntimeError):  # the target has given up meanwhile
                peer.writer.write(bytes(data))
        self._kept.clear()

    def shut(self) -> None:
        """Connections that come are accepted and wait, until open()."""
        self._opened.clear()
        self.waiting = 0

    def open(self) -> None:
        self._opened.set()

    async def admit(self) -> None:
        self.waiting += 1
        await self._opened.wait()

    def black_hole(self) -> None:
        """From now on all packets of the open connections vanish, both ways. New connections are carried."""
        self._lost += self._open

    def cut(self, which: int | None = None) -> None:
        """Break one connection off, by its place among the open ones, or all, on both sides."""
        for pair in self._open if which is None else [self._open[which]]:
            for peer in pair:
                peer.drop()
        self._open = [] if which is None else self._open[:which] + self._open[which + 1 :]

    def forget(self) -> None:
        """Break off towards the clients, while the target sees nothing but silence: as by a NAT that forgets."""
        for near, far in self._open:
            self._silent.append(far)
            near.drop()
        self._open.clear()

    async def carry(self, near: Peer, far: Peer) -> None:
        self._open.append((near, far))
        self.connections += 1
        await asyncio.gather(self._pump(near, far), self._pump(far, near), return_exceptions=True)
        near.drop()
        if far not in self._silent:
            far.drop()

    async def _pump(self, source: Peer, target: Peer) -> None:
        if self._delay_s:
            return await self._pump_late(source, target)
        while data := await source.reader.read(2**20):
            if any(source in pair for pair in self._lost):
                continue
            if self.mark and (at := data.find(self.mark)) >= 0:
                self.marked = self.passed + at
            self.passed += len(data)
            if self._holding and (target, source) in self._open:
                self._kept.setdefault(target, bytearray()).extend(data)
            else:
                target.writer.write(data)
                await target.writer.drain()
        if target not in self._silent and not any(source in pair for pair in self._lost):
            target.writer.write_eof()

    async def _pump_late(self, source: Peer, target: Peer) -> None:
        """A long way: everything arrives later, however much of it there is."""
        loop = asyncio.get_running_loop()
        while data := await source.reader.read(2**20):
            loop.call_later(self._delay_s, target.writer.write, data)
        loop.call_later(self._delay_s, target.writer.write_eof)


async def start_relay(
    stack: AsyncExitStack, target: str, *, delay_s: float = 0, receive_buffer: int | None = None
) -> Relay:
    """A relay to `target` (HOST:PORT). `delay_s` is the time of one way."""
    listener = await start_raw(stack, receive_buffer)
    relay = Relay(listener.address, delay_s)
    host, _, port = target.rpartition(":")
    tasks: set[asyncio.Future[None]] = set()

    async def carry(near: Peer) -> None:
        await relay.admit()
        await relay.carry(near, await connect(stack, host, int(port)))

    async def accept() -> None:
        while True:
            tasks.add(asyncio.ensure_future(carry(await listener.arrived.get())))

    async def stop() -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    tasks.add(asyncio.ensure_future(accept()))
    stack.push_async_callback(stop)
    return relay
