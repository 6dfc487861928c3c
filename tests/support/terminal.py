"""The commands on a terminal of their own, as a person sees them."""

import asyncio
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from types import TracebackType
from typing import Self

from tests.support.command import WAIT_S, with_engine

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()=>][A-Z0-9]?")


class Terminal:
    """`fasttunnel ...` on a pseudo terminal; `raw` is all that it has written there so far."""

    def __init__(self, *arguments: str, columns: int = 100, rows: int = 30, **environment: str) -> None:
        self._arguments = with_engine(arguments)
        self._size = (rows, columns)
        self._environment = environment
        self._news = asyncio.Event()
        self.raw = ""
        self.writes: list[tuple[float, int]] = []  # when, and how long

    @property
    def text(self) -> str:
        """Without what moves the cursor or colours."""
        return _CONTROL.sub("", self.raw).replace("\r", "")

    @property
    def lines(self) -> list[str]:
        """As they were drawn, one after another."""
        return re.split(r"[\r\n]+", _CONTROL.sub("", self.raw))

    async def __aenter__(self) -> Self:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", *self._size, 0, 0))
        environment = {**os.environ, "TERM": "xterm-256color", "FASTTUNNEL_TOKEN": "", **self._environment}
        self._process = subprocess.Popen(  # noqa: ASYNC220 (see tests.support.child)
            [sys.executable, "-m", "fasttunnel", *self._arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment,
            start_new_session=True,
        )
        os.close(slave)
        os.set_blocking(self._master, False)
        asyncio.get_running_loop().add_reader(self._master, self._read)
        return self

    def _read(self) -> None:
        try:
            data = os.read(self._master, 65536)
        except BlockingIOError:
            return
        except OSError:  # nobody has the other side any more
            data = b""
        if data:
            self.raw += data.decode("utf-8", "replace")
            self.writes.append((asyncio.get_running_loop().time(), len(data)))
        else:
            asyncio.get_running_loop().remove_reader(self._master)
        self._news.set()

    async def until(self, pattern: str, behind: int = 0) -> re.Match[str]:
        """Wait for it to show `pattern`, beyond the first `behind` characters of `text`."""
        try:
            async with asyncio.timeout(WAIT_S):
                while (found := re.search(pattern, self.text[behind:])) is None:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"no {pattern!r} in:\n{self.text}") from None
        return found

    def enter(self, text: str) -> None:
        os.write(self._master, text.encode())

    async def end(self) -> int:
        async with asyncio.timeout(WAIT_S):
            return await asyncio.to_thread(self._process.wait)

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        await asyncio.to_thread(self._process.wait)
        asyncio.get_running_loop().remove_reader(self._master)
        os.close(self._master)
