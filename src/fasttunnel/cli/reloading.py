"""A command whose configuration is read again: when its file changes, and on SIGHUP."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from fasttunnel.control.config import ClientConfig, Secret, ServerConfig
from fasttunnel.control.notify import READY, notify, reloading
from fasttunnel.control.watch import FileWatch
from fasttunnel.errors import ConfigError, FasttunnelError

C = TypeVar("C", ServerConfig, ClientConfig)


class Reloader(Generic[C]):
    """`read` gathers all sources anew. `config_file` and the token's own file are watched, and one that was missing."""

    def __init__(self, config_file: str | None, read: Callable[[], C]) -> None:
        self._config_files = [config_file] if config_file is not None else []
        self._read: Callable[[], C] = read
        self._settings: C | None = None
        self._asked = asyncio.Event()
        self._ready = self._over = False
        self._applying: asyncio.Task[None] | None = None
        self._watch = FileWatch(
            self._config_files, self.ask, lambda text: None, at_once=False
        )  # from before it is read

    def read(self) -> C:
        """What the command starts with. Raises ConfigError."""
        settings = self._settings = self._read()
        self._follow(settings)
        return settings

    def ready(self) -> None:
        """The command is up: its service manager hears of that, and of what is read again."""
        self._ready = True
        notify(READY)

    async def stop(self) -> None:
        """Nothing is read any more, and a reload that is not in force yet is given up without a word."""
        self._ready = False
        self._over = True
        self._watch.stop()
        if self._applying is not None:
            self._applying.cancel()
            await asyncio.gather(self._applying, return_exceptions=True)

    def ask(self) -> None:
        """Have it read again."""
        self._asked.set()

    async def run(self, apply: Callable[[C], Awaitable[None]], warn: Callable[[str], None]) -> None:
        """For ever: `apply` what has been read. A newer one overtakes one that is not in force yet."""
        try:
            self._heed()
            while not self._over:
                await self._asked.wait()
                self._asked.clear()
                if self._applying is not None:
                    self._applying.cancel()
                    await asyncio.gather(self._applying, return_exceptions=True)
                if not self._over:
                    self._applying = asyncio.ensure_future(self._reload(apply, warn))
        finally:
            await self.stop()

    async def _reload(self, apply: Callable[[C], Awaitable[None]], warn: Callable[[str], None]) -> None:
        if self._ready:
            notify(reloading())
        self._watch.forget()
        try:
            settings = self._read()
            self._follow(settings)
            await apply(settings)
            self._settings = settings
        except FasttunnelError as error:
            if isinstance(error, ConfigError) and error.file:
                self._watch.follow([*self._watch.paths, error.file])
            self._tell(warn, str(error), error.message)
        except Exception as error:
            logging.getLogger("fasttunnel").debug("while the configuration was read again", exc_info=error)
            self._tell(warn, f"cannot be used, {type(error).__name__}: {error}")
        finally:
            if not self._over:
                self._heed()
            if self._ready:
                notify(READY)

    def _tell(self, warn: Callable[[str], None], text: str, message: str = "") -> None:
        if self._over:
            return
        named = any(file in message for file in self._config_files)
        where = "" if named or not self._config_files else f"{self._config_files[0]}: "
        warn(f"{where}{text}; what was before stays in use")

    def _follow(self, settings: C) -> None:
        secret: Secret | None = settings.token
        self._watch.follow([*self._config_files, *([secret.path] if secret is not None and secret.path else [])])

    def _heed(self) -> None:
        if self._settings is not None and self._settings.watch_config:
            self._watch.start()
        else:
            self._watch.stop()
