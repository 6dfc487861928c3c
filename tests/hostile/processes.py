"""Processes under attack: what they say, hold and use. They outlive the loop of a test, so nothing here awaits."""

import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

START_S = 30.0


class Use(NamedTuple):
    """Of one process or of several: seconds of the processor, bytes of memory."""

    cpu_s: float
    memory_bytes: int


class Process:
    """A Python program, and its lines (stdout and stderr)."""

    def __init__(self, *arguments: str, token: str = "", max_files: int | None = None) -> None:
        command = [sys.executable, "-m", *arguments]
        if max_files is not None:
            command = ["prlimit", f"--nofile={max_files}", *command]
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "FASTTUNNEL_TOKEN": token},
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._changed:
                self.lines.append(line.decode(errors="replace").rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    def line(self, pattern: str) -> re.Match[str]:
        """The first line in which `pattern` is found, waited for."""
        deadline = time.monotonic() + START_S
        with self._changed:
            while True:
                for line in self.lines:
                    if match := re.search(pattern, line):
                        return match
                left = deadline - time.monotonic()
                if left < 0 or not self._reader.is_alive():
                    raise AssertionError(f"no line with {pattern!r} in:\n" + "\n".join(self.lines))
                self._changed.wait(min(left, 1.0))

    def ended(self) -> int:
        """Its exit code, waited for."""
        code = self._process.wait(START_S)
        self._reader.join()
        return code

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        assert self._process.stdout is not None
        self._process.stdout.close()

    # -- what it holds and uses

    @property
    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def count_peak(self) -> None:
        """The kernel counts the peak of memory anew from here."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    @property
    def resident(self) -> Use:
        return Use(self._cpu_s, self._status("VmRSS"))

    @property
    def peak(self) -> Use:
        return Use(self._cpu_s, self._status("VmHWM"))

    @property
    def _cpu_s(self) -> float:
        threads = Path(f"/proc/{self.pid}/task").iterdir()
        return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9

    def _status(self, name: str) -> int:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(name + ":"):
                return int(line.split()[1]) * 1024
        raise AssertionError(f"no {name} of process {self.pid}")
