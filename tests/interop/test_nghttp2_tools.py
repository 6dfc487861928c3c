"""nghttp and h2load, the tools of the library that our HTTP/2 stands on: they see each frame, and put it under load."""

import random
import re
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.support import programs
from tests.support.site import content, start_site
from tests.support.tunnel import Tunnel, start_tunnel


@pytest.fixture
async def tunnel(stack: AsyncExitStack) -> Tunnel:
    return await start_tunnel(stack, await start_site(stack))


async def nghttp(*arguments: str) -> programs.Output:
    done = await programs.run(programs.need("nghttp"), *arguments)
    assert done.code == 0, done.err
    return done


async def test_nghttp_get(tunnel: Tunnel) -> None:
    assert (await nghttp(tunnel.url + "/bytes/300000")).out == content(300_000)


async def test_nghttp_upload_with_trailers_and_padding(tunnel: Tunnel, tmp_path: Path) -> None:
    body = random.Random(1).randbytes(700_000)
    (tmp_path / "body").write_bytes(body)
    done = await nghttp("-d", str(tmp_path / "body"), "--trailer", "x-sum: 1", "--padding=200", tunnel.url + "/echo")
    assert done.out == body


async def test_nghttp_small_windows_and_frames(tunnel: Tunnel) -> None:
    done = await nghttp("--window-bits=4", "--connection-window-bits=5", tunnel.url + "/bytes/20000")
    assert done.out == content(20_000)


async def test_nghttp_many_streams(tunnel: Tunnel) -> None:
    done = await nghttp("-n", "-m", "100", "-s", tunnel.url + "/bytes/1000")
    assert len(re.findall(r" 200 ", done.out.decode())) == 100, done.out.decode()


async def h2load(*arguments: str) -> str:
    """A load whose answers all have to be 2xx; what it prints."""
    done = await programs.run(programs.need("h2load"), *arguments)
    assert done.code == 0, done.err
    return done.out.decode()


def check(text: str, requests: int) -> None:
    names = ("total", "started", "done", "succeeded", "failed", "errored", "timeout")
    counts = re.search("requests: " + ", ".join(rf"(\d+) {name}" for name in names), text)
    assert counts, text
    assert [int(count) for count in counts.groups()] == [requests] * 4 + [0] * 3, text
    assert f"status codes: {requests} 2xx, 0 3xx, 0 4xx, 0 5xx" in text, text


@pytest.mark.parametrize("protocol", [[], ["--h1"]], ids=["h2c", "http1"])
async def test_h2load_get(tunnel: Tunnel, protocol: list[str]) -> None:
    text = await h2load("-n", "3000", "-c", "10", "-m", "20", *protocol, tunnel.url + "/bytes/2000")
    check(text, 3000)
    assert f"({3000 * 2000}) data" in text, text
    await tunnel.events.until(lambda: len(tunnel.events.records) == 3000)
    assert {record.status for record in tunnel.events.records} == {200}


@pytest.mark.parametrize("protocol", [[], ["--h1"]], ids=["h2c", "http1"])
async def test_h2load_post(tunnel: Tunnel, protocol: list[str], tmp_path: Path) -> None:
    (tmp_path / "body").write_bytes(content(30_000))
    body = ["-d", str(tmp_path / "body")]
    check(await h2load("-n", "1000", "-c", "5", "-m", "10", *body, *protocol, tunnel.url + "/upload"), 1000)
    await tunnel.events.until(lambda: len(tunnel.events.records) == 1000)
    assert {record.bytes_in for record in tunnel.events.records} == {30_000}
