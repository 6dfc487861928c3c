"""Whether the backends listen: those that do not are asked again until they do."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable

from fasttunnel.control.config import Backend
from fasttunnel.errors import describe

PAUSE_S = 1.0  # between two looks at one that does not listen; one that does is left alone


class BackendWatch:
    """Tells of each backend when it is found not to listen (`reason`), and when it listens again (None)."""

    def __init__(
        self, backends: Iterable[Backend], connect_timeout_s: float, tell: Callable[[Backend, str | None], None]
    ) -> None:
        self._backends = {str(backend): backend for backend in backends}
        self._timeout_s = connect_timeout_s
        self._tell = tell
        self._suspects: set[str] = set(self._backends)
        self._news = asyncio.Event()
        self.down: set[str] = set()

    def follow(self, backends: Iterable[Backend], connect_timeout_s: float) -> None:
        """These are the backends now. Those that are new are looked at."""
        before = self._backends
        self._backends = {str(backend): backend for backend in backends}
        self._timeout_s = connect_timeout_s
        self.down &= self._backends.keys()
        self._suspects |= self._backends.keys() - before.keys()
        self._news.set()

    def suspect(self, name: str) -> bool:
        """A connection to it could not be made. Whether that has been told already."""
        if name in self.down or name not in self._backends:
            return name in self.down
        self._suspects.add(name)
        self._news.set()
        return False

    async def run(self) -> None:
        """For ever."""
        while True:
            self._news.clear()
            looked_at, self._suspects = self._suspects | self.down, set()
            await asyncio.gather(
                *(self._look(self._backends[name]) for name in sorted(looked_at & self._backends.keys()))
            )
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PAUSE_S if self.down else None):
                    await self._news.wait()

    async def _look(self, backend: Backend) -> None:
        name, reason = str(backend), await self._try(backend)
        if name not in self._backends:
            return  # meanwhile
        if reason is not None and name not in self.down:
            self.down.add(name)
            self._tell(backend, reason)
        elif reason is None and name in self.down:
            self.down.remove(name)
            self._tell(backend, None)

    async def _try(self, backend: Backend) -> str | None:
        try:
            async with asyncio.timeout(self._timeout_s):
                _, writer = await asyncio.open_connection(backend.host, backend.port)
        except TimeoutError:
            return "it does not answer"
        except OSError as error:
            return describe(error)
        writer.close()
        return None
