"""The engines of a client, one after another: at a reload a new one takes over, the old one finishes what it has."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

from fasttunnel import abc, limits
from fasttunnel.control.counts import Counts, together
from fasttunnel.control.log import Events
from fasttunnel.errors import FasttunnelError

ALL_UP_S: Final = 5.0  # for all connections of a new engine, before the old one goes

# What status() has of each engine, and what is still true when one has ended.
_SUMMED: Final = (
    "tunnels",
    "connections",
    "timers",
    "tasks",
    "reads",
    "writes",
    "buffered_bytes",
    "active_requests",
    "requests",
    "reconnects",
)
_LASTING: Final = ("requests", "reconnects")


class Heir:
    """The events of an engine that is to take over: what it meets before it is connected is no news of the client's.

    `take_over` is called when its first tunnel is up, before anything else is told. After `leave` nothing is told.
    """

    def __init__(self, events: Events, connections: int, take_over: Callable[[], None]) -> None:
        self._events = events
        self._missing = connections
        self._take_over = take_over
        self._told: set[str] = set()
        self._leaves = False
        self.is_there = False
        self.all_up = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._events, name)

    def leave(self) -> None:
        """It is not to take over any more. The server may know it already, and have given it requests."""
        self._leaves = True

    def connected(self, server: str, urls: Sequence[str]) -> None:
        if self._leaves:
            return
        if not self.is_there:
            self.is_there = True
            self._take_over()
        self._missing -= 1
        if self._missing == 0:
            self.all_up.set()
        self._events.connected(server, urls)

    def disconnected(self, server: str, reason: str, retry_in_s: float | None) -> None:
        if self.is_there:
            self._events.disconnected(server, reason, retry_in_s)
        elif not self._leaves and retry_in_s is not None and reason not in self._told:
            self._told.add(reason)
            self._events.warning(f"what has changed waits for {server}: {reason}; what was before stays in use")


class Succession:
    """The engine that is in charge, and those before it that still have requests under way."""

    def __init__(self) -> None:
        self.current: abc.ClientEngine | None = None
        self._heir: tuple[Heir, abc.ClientEngine] | None = None  # until it takes over
        # The oldest first, and who ends each: nobody yet, while the next one's tunnels come up.
        self._before: dict[abc.ClientEngine, list[asyncio.Task[None]]] = {}
        self._stopping = asyncio.Event()
        self._past = Counts()  # of those that have ended
        self._lasting = dict.fromkeys(_LASTING, 0)
        self._changed = asyncio.Event()

    async def replace(
        self,
        make: Callable[[Events, abc.ClientEngine], abc.ClientEngine],
        events: Events,
        connections: int,
        drain_timeout_s: float,
        in_force: Callable[[], None],
    ) -> None:
        """Start another engine; once its tunnels are up it is in charge, and the one before ends with its requests.

        `in_force` is called at the moment at which the new one is in charge. Raises what its start raises; the one
        before goes on then, as if nothing had been.
        """
        before = self.current
        assert before is not None

        def take_over() -> None:
            self._heir = None
            self._before[before] = []
            self.current = engine
            self._changed.set()
            self._changed = asyncio.Event()
            in_force()

        heir = Heir(events, connections, take_over)
        engine = make(cast(Events, heir), before)
        self._heir = heir, engine
        try:
            await engine.start()
            if not heir.is_there:
                raise FasttunnelError("the client has been stopped")
            await self._all_up(heir)
        except asyncio.CancelledError:
            self._give_up(drain_timeout_s)
            raise
        except Exception:
            if self._heir is not None:  # nobody has sent it away
                self._heir = None
                await engine.stop(0)
            raise
        finally:
            if heir.is_there:
                self._retire(before, drain_timeout_s)

    async def _all_up(self, heir: Heir) -> None:
        waiting = [asyncio.ensure_future(event.wait()) for event in (heir.all_up, self._stopping)]
        try:
            await asyncio.wait(waiting, timeout=ALL_UP_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()

    def _give_up(self, drain_timeout_s: float) -> None:
        """The heir is not wanted any more. It ends as the one before would have: it may have requests."""
        if (engine := self._send_away()) is not None:
            self._retire(engine, drain_timeout_s)

    def _send_away(self) -> abc.ClientEngine | None:
        if self._heir is None:
            return None
        heir, engine = self._heir
        self._heir = None
        heir.leave()
        self._before[engine] = []
        return engine

    def _retire(self, engine: abc.ClientEngine, drain_timeout_s: float) -> None:
        if self._stopping.is_set():  # that ends it
            return
        self._end(engine, limits.UNHURRIED_S)
        for oldest in list(self._before)[: -limits.REPLACED_TUNNELS]:
            if len(self._before[oldest]) == 1:  # it has not been hurried yet
                self._end(oldest, drain_timeout_s)

    def _end(self, engine: abc.ClientEngine, grace_s: float) -> None:
        self._before[engine].append(asyncio.ensure_future(self._finish(engine, grace_s)))

    async def _finish(self, engine: abc.ClientEngine, grace_s: float) -> None:
        await engine.stop(grace_s)
        with contextlib.suppress(FasttunnelError):
            await engine.wait_closed()  # another stop may have overtaken ours
        if self._before.pop(engine, None) is not None:
            self._past = together([self._past, *_counts_of(engine)])
            status = engine.status()
            for name in _LASTING:
                self._lasting[name] += status.get(name, 0)

    async def stop(self, grace_s: float) -> None:
        self._stopping.set()
        self._send_away()
        for engine in list(self._before):
            self._end(engine, grace_s)
        if self.current is not None:
            await self.current.stop(grace_s)
        finishing = [task for tasks in self._before.values() for task in tasks]
        if finishing:
            await asyncio.wait(finishing)

    async def wait_closed(self) -> None:
        """Returns when the engine in charge has ended; raises what made it give up."""
        while True:
            engine = self.current
            assert engine is not None
            closing = asyncio.ensure_future(engine.wait_closed())
            changing = asyncio.ensure_future(self._changed.wait())
            try:
                await asyncio.wait([closing, changing], return_when=asyncio.FIRST_COMPLETED)
                if self.current is engine:
                    return await closing
            finally:
                changing.cancel()
                closing.cancel()
                await asyncio.gather(closing, return_exceptions=True)

    def status(self) -> dict[str, Any]:
        """Of the engine in charge, with what the others have."""
        assert self.current is not None
        told = self.current.status()
        for engine in self._before:
            other = engine.status()
            for name in _SUMMED:
                if name in told:
                    told[name] += other.get(name, 0)
            if "active" in told:
                told["active"] = {name: n + other["active"].get(name, 0) for name, n in told["active"].items()}
        for name, count in self._lasting.items():
            if name in told:
                told[name] += count
        return told

    def counts(self) -> Counts | None:
        """None where an engine of one's own has none."""
        assert self.current is not None
        now = [counts for engine in (self.current, *self._before) for counts in _counts_of(engine)]
        return together([self._past, *now]) if now else None


def _counts_of(engine: abc.ClientEngine) -> list[Counts]:
    counts = getattr(engine, "counts", None)
    return [counts()] if counts is not None else []
