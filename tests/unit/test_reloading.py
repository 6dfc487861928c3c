"""A configuration is read again when its file changes, whoever changes it in whatever way."""

import asyncio
import functools
import socket
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from fasttunnel import limits
from fasttunnel.cli.lines import LogLines
from fasttunnel.cli.reloading import Reloader
from fasttunnel.cli.server_screen import ServerScreen
from fasttunnel.control.changes import compare
from fasttunnel.control.config import Secret, ServerConfig
from fasttunnel.control.sources import configure, from_file, server_config
from fasttunnel.control.watch import FileWatch
from tests.support.tunnel import eventually


class Running:
    """A command that would run, and what it was told."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.reloader = Reloader(str(file), lambda: configure(ServerConfig, from_file(file)))
        self.config = self.reloader.read()
        self.applied: list[int] = []
        self.warnings: list[str] = []

    async def apply(self, config: ServerConfig) -> None:
        self.applied.append(config.max_requests)

    def has(self, *numbers: int, warnings: int = 0) -> Callable[[], bool]:
        return lambda: self.applied == list(numbers) and len(self.warnings) == warnings


class Looks:
    """How often a FileWatch has looked at its files. What is in `then` happens after the next looks, one after each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self.then: deque[Callable[[], object]] = deque()
        look = FileWatch._look

        def counted(watch: FileWatch) -> dict[str, Any]:
            self.count += 1
            found = look(watch)
            if self.then:
                self.then.popleft()()
            return found

        monkeypatch.setattr(FileWatch, "_look", counted)

    async def more(self, count: int) -> None:
        wanted = self.count + count
        await eventually(lambda: self.count >= wanted)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Looks:
    return Looks(monkeypatch)


def watches(end: Running) -> bool:
    return end.reloader._watch._timer is not None


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "RELOAD_INTERVAL_S", 0.01)
    monkeypatch.setattr(limits, "SETTLE_S", 0.01)


@asynccontextmanager
async def running(file: Path) -> AsyncIterator[Running]:
    end = Running(file)
    task = asyncio.ensure_future(end.reloader.run(lambda config: end.apply(config), end.warnings.append))
    try:
        yield end
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def replace(file: Path, text: str) -> None:
    """As careful editors do."""
    file.with_suffix(".new").write_text(text)
    file.with_suffix(".new").rename(file)


async def test_a_file_that_changes_in_place_or_is_replaced(tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    file.write_text("max_requests = 1")
    async with running(file) as end:
        file.write_text("max_requests = 2")
        await eventually(end.has(2))
        replace(file, "max_requests = 3")
        await eventually(end.has(2, 3))
        file.unlink()
        await eventually(end.has(2, 3, warnings=1))
        assert end.warnings == [f"cannot read {file}: No such file or directory; what was before stays in use"]
        file.write_text("max_requests = 4")
        await eventually(end.has(2, 3, 4, warnings=1))


async def test_links_that_lead_elsewhere(tmp_path: Path) -> None:
    """A ConfigMap: the file is a link through a link, and only that one changes."""
    for number in ("1", "2"):
        (tmp_path / number).mkdir()
        (tmp_path / number / "server.toml").write_text(f"max_requests = {number}")
    (tmp_path / "data").symlink_to("1")
    (tmp_path / "server.toml").symlink_to("data/server.toml")
    async with running(tmp_path / "server.toml") as end:
        (tmp_path / "next").symlink_to("2")
        (tmp_path / "next").rename(tmp_path / "data")
        await eventually(end.has(2))


async def test_a_mistake_is_told_once_with_its_place(tmp_path: Path, looks: Looks) -> None:
    file = tmp_path / "server.toml"
    file.write_text("max_requests = 1")
    async with running(file) as end:
        for text, where in (
            ("max_requests = 2\nhead_timeout_s = 'soon'", f"{file}: head_timeout_s cannot be 'soon'"),
            ("max_requests = 2\nlisten = ", f"{file} is not TOML"),
            ("max_requests = 2\nlisten = 'a:b'", f"{file}: 'a:b' has no port"),
        ):
            end.warnings.clear()
            file.write_text(text)
            await eventually(end.has(warnings=1))
            assert end.warnings[0].startswith(where)
            assert end.warnings[0].endswith("; what was before stays in use")
            await looks.more(3)
            assert end.has(warnings=1)(), "once"
        end.warnings.clear()
        file.write_text("max_requests = 3")
        await eventually(end.has(3))


async def test_a_file_that_is_half_written_is_left_alone(tmp_path: Path, looks: Looks) -> None:
    """The half is TOML as well, and would be another configuration."""
    file = tmp_path / "server.toml"
    file.write_text("max_requests = 1")
    async with running(file) as end:
        with file.open("w", buffering=1) as writer:
            pieces = ("max_requests = 2\n", "body_bytes = 7\n", "max_connections = 7\n")
            looks.then.extend(functools.partial(writer.write, piece) for piece in pieces)
            await eventually(lambda: not looks.then)
        await eventually(end.has(2))
        await looks.more(3)
        assert end.has(2)()


async def test_a_file_that_is_not_watched(tmp_path: Path) -> None:
    """Until it is asked for; then it may say that it is to be watched."""
    file = tmp_path / "server.toml"
    file.write_text("watch_config = false")
    async with running(file) as end:
        await asyncio.sleep(0)  # it has begun
        replace(file, "max_requests = 2")
        assert not watches(end)
        end.reloader.ask()
        await eventually(end.has(2))
        replace(file, "max_requests = 3\nwatch_config = false")
        await eventually(end.has(2, 3))
        await eventually(lambda: not watches(end))
        replace(file, "max_requests = 4")
        assert not watches(end)
        assert end.has(2, 3)()


async def test_the_file_of_the_token_is_watched_too(tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    file.write_text('token_file = "token"')
    (tmp_path / "token").write_text("first")
    async with running(file) as end:
        replace(tmp_path / "token", "second")
        await eventually(end.has(0))


async def test_a_file_that_comes_late(tmp_path: Path) -> None:
    """The option first, then the file that it names: nobody has to ask again. So too where the file has a mistake."""
    file = tmp_path / "server.toml"
    file.write_text("max_requests = 1")
    async with running(file) as end:
        replace(file, "max_requests = 2\ntoken_file = 'token'")
        await eventually(end.has(warnings=1))
        assert "cannot read the token file" in end.warnings[0]
        (tmp_path / "token").write_text("two words")
        await eventually(end.has(warnings=2))
        (tmp_path / "token").write_text("one-word")
        await eventually(end.has(2, warnings=2))


async def test_another_token_comes_while_the_last_one_waits(tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    file.write_text("max_requests = 1")
    (tmp_path / "token").write_text("first")
    async with running(file) as end:
        begun = asyncio.Event()

        async def apply(config: ServerConfig) -> None:
            if config.token == Secret("first"):
                begun.set()
                await asyncio.Event().wait()
            end.applied.append(config.max_requests)

        end.apply = apply  # type: ignore[method-assign]
        replace(file, "max_requests = 2\ntoken_file = 'token'")
        await begun.wait()
        replace(tmp_path / "token", "second")
        await eventually(end.has(2))


async def test_an_error_that_nobody_foresaw_is_told(tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    file.write_text("max_requests = 1")
    async with running(file) as end:

        async def apply(config: ServerConfig) -> None:
            raise ValueError("embedded null byte")

        end.apply = apply  # type: ignore[method-assign]
        end.reloader.ask()
        await eventually(end.has(warnings=1))
        wanted = f"{file}: cannot be used, ValueError: embedded null byte; what was before stays in use"
        assert end.warnings == [wanted]


async def test_a_newer_one_overtakes_one_that_waits(tmp_path: Path) -> None:
    """A client that finds no server with the new options takes those that come after them."""
    file = tmp_path / "server.toml"
    file.write_text("max_requests = 1")
    async with running(file) as end:
        begun, overtaken = asyncio.Event(), asyncio.Event()

        async def apply(config: ServerConfig) -> None:
            if config.max_requests == 2:
                begun.set()
                try:
                    await asyncio.Event().wait()
                finally:
                    overtaken.set()
            end.applied.append(config.max_requests)

        end.apply = apply  # type: ignore[method-assign]
        file.write_text("max_requests = 2")
        end.reloader.ask()
        await begun.wait()
        file.write_text("max_requests = 3")
        end.reloader.ask()
        await overtaken.wait()
        await eventually(end.has(3))


async def test_a_service_manager_hears_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Type=notify-reload wants it (sd_notify(3)), also where the file has a mistake."""
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    with manager:
        manager.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        file = tmp_path / "server.toml"
        file.write_text("max_requests = 1")
        async with running(file) as end:
            end.reloader.ready()
            assert manager.recv(100) == b"READY=1"
            for text in ("max_requests = 2", "max_requests = "):
                file.write_text(text)
                before = time.monotonic_ns() // 1000
                end.reloader.ask()
                await eventually(lambda: bool(end.applied) and (len(end.warnings) == 1 or text[-1] == "2"))  # noqa: B023
                told, ready = manager.recv(100).decode().split("\n"), manager.recv(100)
                assert told[0] == "RELOADING=1"
                assert before <= int(told[1].removeprefix("MONOTONIC_USEC=")) <= time.monotonic_ns() // 1000
                assert ready == b"READY=1"


def test_secrets_are_not_in_what_is_told() -> None:
    one, two = server_config({"token": "first-s3cret"}), server_config({"token": "second-s3cret"})
    assert compare(one, two).lines() == ["token (changed)"]
    assert compare(one, server_config({})).lines() == ["token (taken away)"]
    assert compare(one, server_config({"token": "first-s3cret"})).changed == ()


def test_a_long_value_is_cut() -> None:
    many = server_config({"trusted_proxies": [f"10.0.{number}.0/24" for number in range(200)]})
    (line,) = compare(server_config({}), many).lines()
    assert len(line) < 300


@pytest.mark.parametrize("kind", ["lines", "screen"])
def test_the_level_of_the_log_changes(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    config = server_config({"log_format": "human"})
    told = LogLines(config) if kind == "lines" else ServerScreen()
    told.reloaded(compare(config, server_config({"log_format": "human", "log_level": "error"})))
    told.warning("not shown any more")
    told.reloaded(compare(config, server_config({"log_format": "human", "max_requests": 5, "domain": "a.test"})))
    out = capsys.readouterr().out
    assert "not shown" not in out
    assert "max_requests 0 -> 5" in out
    assert "needs a restart: domain" in out
