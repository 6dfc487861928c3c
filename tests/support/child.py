"""Programs that run beside a test, started by `subprocess`.

Not by the loop: uvloop runs Python code in the fork of this process, where grpc's objects would wait for threads that
have not come along.
"""

import asyncio
import signal
import subprocess
from collections.abc import Sequence
from typing import Any


class Child:
    """A running program. `stdout` can be read when it was asked for (`stdout=subprocess.PIPE`)."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        stdout: asyncio.StreamReader | None = None,
        pipe: asyncio.BaseTransport | None = None,
    ) -> None:
        self.stdout = stdout
        self._process = process
        self._pipe = pipe

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    def stop_reading(self) -> None:
        """Close the pipe that it writes to."""
        assert self._pipe is not None
        self._pipe.close()
        self.stdout = None

    def send_signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def wait(self) -> int:
        return await asyncio.to_thread(self._process.wait)

    async def kill(self) -> None:
        """End it if it still runs, and read what it has written."""
        self._process.kill()
        if self.stdout is not None and self._pipe is not None:
            await self.stdout.read()
            self._pipe.close()
        await self.wait()


async def start_child(command: Sequence[str], **options: Any) -> Child:
    """Start a program without input; `options` are those of subprocess.Popen."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, **options)  # noqa: ASYNC220 (see above)
    if process.stdout is None:
        return Child(process)
    reader = asyncio.StreamReader(limit=2**20)
    pipe, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), process.stdout
    )
    return Child(process, reader, pipe)
