"""A command whose configuration is read again: when its file changes, and on SIGHUP."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from fasttunnel.control.config import ClientConfig, Secret, ServerConfig
from fasttunnel.control.notify import READY, notify, reloading
from fasttunnel.control.watch import FileWatch
from fasttunnel.errors import FasttunnelError

C = TypeVar("C", ServerConfig, ClientConfig)


class Reloader(Generic[C]):
    """`read` gathers all sources anew. `config_file` and the token's own file are watched."""

    def __init__(self, config_file: str | None, read: Callable[[], C]) -> None:
        self._config_files = [config_file] if config_file is not None else []
        self._read: Callable[[], C] = read
        self._settings: C | None = None
        self._asked = asyncio.Event()
        self._watch = FileWatch(
            self._config_files, self.ask, lambda text: None, at_once=False
        )  # from before it is read

    def read(self) -> C:
        """What the command starts with. Raises ConfigError."""
        settings = self._settings = self._read()
        self._follow()
        return settings

    def ask(self) -> None:
        """Have it read again."""
        self._asked.set()

    async def run(self, apply: Callable[[C], Awaitable[None]], warn: Callable[[str], None]) -> None:
        """For ever: `apply` what has been read. A newer one overtakes one that is not in force yet."""
        applying: asyncio.Task[None] | None = None
        try:
            self._heed()
            while True:
                await self._asked.wait()
                self._asked.clear()
                if applying is not None:
                    applying.cancel()
                    await asyncio.gather(applying, return_exceptions=True)
                applying = asyncio.ensure_future(self._reload(apply, warn))
        finally:
            self._watch.stop()
            if applying is not None:
                applying.cancel()
                await asyncio.gather(applying, return_exceptions=True)

    async def _reload(self, apply: Callable[[C], Awaitable[None]], warn: Callable[[str], None]) -> None:
        notify(reloading())
        self._watch.forget()
        try:
            settings = self._read()
            await apply(settings)
            self._settings = settings
        except FasttunnelError as error:
            named = any(file in error.message for file in self._config_files)
            where = "" if named or not self._config_files else f"{self._config_files[0]}: "
            warn(f"{where}{error}; what was before stays in use")
        finally:
            self._follow()
            self._heed()
            notify(READY)

    def _follow(self) -> None:
        secret: Secret | None = self._settings.token if self._settings is not None else None
        self._watch.follow([*self._config_files, *([secret.path] if secret is not None and secret.path else [])])

    def _heed(self) -> None:
        if self._settings is not None and self._settings.watch_config:
            self._watch.start()
        else:
            self._watch.stop()
