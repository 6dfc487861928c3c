"""curl, over HTTP/1.1 and over HTTP/2 with prior knowledge."""

import asyncio
import json
import random
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.support import programs
from tests.support.raw import start_raw
from tests.support.site import content, start_site
from tests.support.tunnel import Tunnel, start_tunnel


@pytest.fixture(params=["--http1.1", "--http2-prior-knowledge"])
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def tunnel(stack: AsyncExitStack) -> Tunnel:
    return await start_tunnel(stack, await start_site(stack))


async def curl(version: str, *arguments: str, stdin: bytes = b"") -> programs.Output:
    """A run that has to succeed."""
    done = await programs.run(programs.need("curl"), "-sS", "-q", "--max-time", "50", version, *arguments, stdin=stdin)
    assert done.code == 0, done.err
    return done


async def test_get(tunnel: Tunnel, version: str) -> None:
    done = await curl(version, "-w", "\n%{http_code} %{http_version}", tunnel.url + "/bytes/1000")
    body, _, rest = done.out.rpartition(b"\n")
    assert body == content(1000)
    assert rest == (b"200 1.1" if version == "--http1.1" else b"200 2")


async def test_headers(tunnel: Tunnel, version: str) -> None:
    done = await curl(version, "-H", "X-One: 1", "-H", "Cookie: a=1; b=2", "-A", "t", tunnel.url + "/fields?q")
    fields = json.loads(done.out)
    assert (fields["x-one"], fields["cookie"], fields["user-agent"]) == ("1", "a=1; b=2", "t")
    assert (fields["host"], fields["x-forwarded-host"]) == (tunnel.authority, tunnel.authority)
    assert (fields["x-forwarded-for"], fields["x-forwarded-proto"]) == ("127.0.0.1", "http")


async def test_upload_with_expect(tunnel: Tunnel, version: str, tmp_path: Path) -> None:
    """100-continue of a real peer; curl waits a second before it sends without one."""
    body = random.Random(1).randbytes(3_000_000)
    (tmp_path / "body").write_bytes(body)
    done = await curl(
        version,
        "-H",
        "Expect: 100-continue",
        "--expect100-timeout",
        "40",
        "-T",
        str(tmp_path / "body"),
        tunnel.url + "/echo",
    )
    assert done.out == body


async def test_upload_of_unknown_length(tunnel: Tunnel, version: str) -> None:
    body = random.Random(2).randbytes(500_000)
    done = await curl(version, "-X", "POST", "-T", "-", "-H", "Expect:", tunnel.url + "/echo", stdin=body)
    assert done.out == body


async def test_head(tunnel: Tunnel, version: str) -> None:
    done = await curl(version, "--head", tunnel.url + "/bytes/12345")
    assert b"content-length: 12345" in done.out.lower()


async def test_several_requests_on_one_connection(tunnel: Tunnel) -> None:
    """HTTP/1.1 only: with prior knowledge curl 7.88 fails at its second request, whatever the server is."""
    urls = [f"{tunnel.url}/bytes/{size}" for size in (1, 70_000, 0, 5)]
    done = await curl("--http1.1", *urls, "-w", "%{stderr}%{num_connects} ")
    assert done.out == b"".join(content(size) for size in (1, 70_000, 0, 5))
    assert done.err == "1 0 0 0 "


async def test_errors(tunnel: Tunnel, stack: AsyncExitStack, version: str) -> None:
    other = await start_tunnel(stack, "up.example=http://127.0.0.1:1")
    for host, status in (("up.example", b"502"), ("nobody.example", b"404")):
        done = await curl(version, "-H", f"Host: {host}", "-o", "/dev/null", "-w", "%{http_code}", other.url)
        assert done.out == status


async def test_a_body_that_breaks_off_is_noticed(stack: AsyncExitStack, version: str) -> None:
    """An incomplete answer must not look complete."""
    backend = await start_raw(stack)
    tunnel = await start_tunnel(stack, backend.url)
    for framing in ("Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", "Content-Length: 8\r\n\r\nhalf"):

        async def serve(framing: str = framing) -> None:
            peer = await backend.accept()
            await peer.head()
            await peer.send("HTTP/1.1 200 OK\r\n" + framing)
            await peer.close()

        serving = asyncio.ensure_future(serve())
        done = await programs.run(programs.need("curl"), "-sS", "-q", "--max-time", "50", version, tunnel.url)
        await serving
        assert done.code in (18, 56, 92), done  # partial file, receive error, HTTP/2 stream error
        assert done.out in (b"half", b"")  # a reset of an HTTP/2 stream may overtake what was queued
