"""`fasttunnel doctor`: what it finds, what it says to do, and that nobody else notices."""

import asyncio
import datetime
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest

import fasttunnel
from fasttunnel import __version__
from fasttunnel.control.config import ClientConfig
from fasttunnel.control.sources import client_config, server_config
from fasttunnel.control.tokens import digest_of, token_lines
from fasttunnel.doctor import Findings, check_client, check_server
from tests.support.certificates import HERE, authority
from tests.support.raw import start_raw
from tests.support.tunnel import Recorder, engines

TOKEN = "x" * 40
SETTINGS = bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))  # the frame that HTTP/2 begins with


async def start(stack: AsyncExitStack, events: Recorder, **given: Any) -> fasttunnel.Server:
    server = fasttunnel.Server("127.0.0.1:0", "127.0.0.1:0", events=events, engine=engines["server"], **given)
    return await stack.enter_async_context(server)


async def of_client(server: str, routes: Sequence[str] | str, **given: Any) -> dict[str, list[str]]:
    """What the doctor says of a client: the lines of each level, the advice with them."""
    settings: ClientConfig = client_config(
        {"server": server, "routes": [routes] if isinstance(routes, str) else list(routes), **given}
    )
    findings = Findings(lambda finding: None)
    await check_client(findings, settings, engines["client"])
    return sorted_out(findings)


@pytest.mark.cython_only("the server is not started")
@pytest.mark.parametrize(
    ("domain", "name", "problems"),
    [
        ("t.example", "*.t.example", []),
        ("t.example", "t.example", ["no certificate is for *.t.example"]),
        ("nowhere.invalid", "*.nowhere.invalid", [".nowhere.invalid is not found: there is no such host"]),
    ],
)
async def test_a_domain(domain: str, name: str, problems: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = socket.getaddrinfo

    def getaddrinfo(host: str, *arguments: Any, **named: Any) -> Any:
        return asked("127.0.0.9" if host.endswith(".t.example") else host, *arguments, **named)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    pair = authority().issue(f"domain-{name.replace('*', 'any')}", name)
    ports = {"listen": "127.0.0.1:0", "tunnel": "127.0.0.1:0"}
    findings = Findings(lambda finding: None)
    await check_server(findings, server_config({**ports, "domain": domain, "cert": pair.cert, "key": pair.key}))
    told = [(one.level, one.text) for one in findings.all if one.subject == "domain"]
    found = [text for level, text in told if level == "problem"]
    assert len(found) == len(problems)
    assert all(problem in text for problem, text in zip(problems, found, strict=True))
    assert [text for level, text in told if level == "ok"] == [f"*.{domain} leads to 127.0.0.9"] * (
        domain == "t.example"
    )


async def test_a_client_that_runs_keeps_its_name_and_its_ports(stack: AsyncExitStack, tmp_path: Path) -> None:
    """And one that starts afterwards gets them."""
    events = Recorder()
    server = await start(stack, events, domain="t.example")
    options = {"name": "shop", "admin": f"unix:{tmp_path / 'admin'}"}

    async def doctor_finds_it_free() -> None:
        told = await of_client(server.tunnel, "http://127.0.0.1:1", **options)
        assert not any("taken" in text or "listen on" in text for text in told["problem"]), told

    await doctor_finds_it_free()
    client = fasttunnel.Client(server.tunnel, ["http://127.0.0.1:1"], engine=engines["client"], **options)  # type: ignore[arg-type]
    await stack.enter_async_context(client)
    assert client.name == "shop"
    await doctor_finds_it_free()


async def answering(stack: AsyncExitStack, answer: bytes) -> str:
    """The address of something that says this to whoever says anything."""

    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(accepted, "127.0.0.1", 0)
    stack.callback(server.close)
    return f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


def sorted_out(findings: Findings) -> dict[str, list[str]]:
    said: dict[str, list[str]] = {"ok": [], "note": [], "problem": []}
    for one in findings.all:
        said[one.level].append(f"{one.subject}: {one.text}" + f" ({one.advice})" * bool(one.advice))
    return said


async def test_all_is_well_and_nobody_notices(stack: AsyncExitStack) -> None:
    events = Recorder()
    server = await start(stack, events, token=TOKEN)
    backend = await start_raw(stack)
    routes = [f"shop.example.com/api={backend.url}"]
    working = fasttunnel.Client(server.tunnel, routes, TOKEN, client_id="shop", engine=engines["client"])
    await stack.enter_async_context(working)
    said = await of_client(server.tunnel, routes, token=TOKEN, client_id="shop")
    assert said["problem"] == []
    assert "tunnel: the server takes the token, and permits the routes" in said["ok"]
    assert f"versions: {__version__} at both ends" in said["ok"]
    assert any(line.startswith(f"backend: {backend.url} answers") for line in said["ok"])
    # The doctor had a name and a route of its own, and has gone; the client of the same configuration stays.
    lines = await events.until_line("link up", 2)
    assert "shop.example.com/api/fasttunnel-doctor-" in lines
    assert " shop from" not in lines
    await events.until_line("link down")
    assert [str(route) for route in server.routes] == ["shop.example.com/api"]
    assert working.status()["reconnects"] == 0


async def test_clocks_that_differ(stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    server = await start(stack, Recorder())
    backend = await start_raw(stack)
    right = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: right() - 120 * 10**9)  # the server's, as it tells it
    (line,) = (await of_client(server.tunnel, backend.url))["problem"]
    assert line.startswith("clocks: the server's clock is 120 s behind the one here")


async def test_a_token_that_is_wrong(stack: AsyncExitStack) -> None:
    server = await start(stack, Recorder(), token=TOKEN)
    backend = await start_raw(stack)
    (line,) = (await of_client(server.tunnel, backend.url, token="y" * 40))["problem"]
    assert line.startswith("token: ")
    assert "FASTTUNNEL_TOKEN" in line
    assert "y" * 8 not in line


async def test_a_route_that_is_not_permitted(stack: AsyncExitStack, tmp_path: Path) -> None:
    file = tmp_path / "tokens.toml"
    file.write_text(token_lines("shop", digest_of(TOKEN.encode()), hosts=["shop.example.com"], services=["shop.Cart"]))
    file.chmod(0o600)
    server = await start(stack, Recorder(), tokens_file=str(file))
    backend = await start_raw(stack)
    grpc = f"grpc://{await answering(stack, SETTINGS)}"
    good = [f"shop.example.com={backend.url}", f"shop.example.com/shop.Cart={grpc}"]
    said = await of_client(server.tunnel, good, token=TOKEN)
    assert "tunnel: the server takes the token, and permits the routes" in said["ok"]
    for other in (f"other.example.com={backend.url}", f"shop.example.com/shop.Admin={grpc}"):
        said = await of_client(server.tunnel, other, token=TOKEN)
        (line,) = [line for line in said["problem"] if line.startswith("token")]
        assert "does not permit the route" in line
        assert "file of --tokens" in line


@pytest.mark.cython_only("no engine has a part in it")
async def test_no_server_no_backend_no_host(stack: AsyncExitStack) -> None:
    free = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    address = f"127.0.0.1:{free.sockets[0].getsockname()[1]}"
    free.close()
    said = await of_client(address, f"http://{address}")
    assert [line.partition(":")[0] for line in said["problem"]] == ["server", "backend"]
    assert "connection refused" in said["problem"][0]
    assert "start it" in said["problem"][1]
    (line, _) = (await of_client("no.such.host.invalid:7000", f"http://{address}"))["problem"]
    assert "no.such.host.invalid is not found" in line


@pytest.mark.cython_only("no engine has a part in it")
@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", "it answers in HTTP/1.1"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "it answers in no protocol of a tunnel"),
        (b"\x1b[31m\x00\x00\x00\x00\x00\x00", "it answers in no protocol of a tunnel"),
        (b"", "it closed the connection"),
    ],
)
async def test_a_proxy_that_does_not_pass_http2(stack: AsyncExitStack, answer: bytes, says: str) -> None:
    address = await answering(stack, answer)
    backend = await start_raw(stack)
    (line,) = (await of_client(address, backend.url))["problem"]
    assert line.startswith(f"http/2: {address} begins no HTTP/2: {says}")
    assert "proxy in between" in line


async def test_the_public_port_is_not_the_tunnel_port(stack: AsyncExitStack) -> None:
    server = await start(stack, Recorder())
    backend = await start_raw(stack)
    (line,) = (await of_client("{}:{}".format(*server.address), backend.url))["problem"]
    assert "is it the server's --tunnel port" in line


async def test_tls(stack: AsyncExitStack, tmp_path: Path) -> None:
    ours, other = authority(), authority("other")
    server_files = ours.issue("server", *HERE)
    client_files = ours.issue("alice")
    server = await start(
        stack, Recorder(), cert=server_files.cert, key=server_files.key, client_ca=ours.ca, token=TOKEN
    )
    backend = await start_raw(stack)
    shown = {"cert": client_files.cert, "key": client_files.key, "token": TOKEN}
    said = await of_client(server.tunnel, backend.url, ca=ours.ca, **shown)
    assert said["problem"] == []
    assert any("is trusted, and for 127.0.0.1" in line for line in said["ok"])
    for given, says in (
        ({"ca": other.ca, **shown}, "name its authority with --ca"),
        ({"ca": ours.ca, "server_name": "t.example.com", **shown}, "--server-name"),
        ({"ca": ours.ca, "token": TOKEN}, "--cert and --key"),
        ({"pins": ("sha256//47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",), **shown}, "another key than the pinned"),
        ({"token": TOKEN}, "add --tls"),
    ):
        problems = (await of_client(server.tunnel, backend.url, **given))["problem"]
        assert len(problems) == 1, problems
        assert says in problems[0]


async def test_a_server_that_runs_and_one_that_does_not(stack: AsyncExitStack, tmp_path: Path) -> None:
    old, new = authority().issue("server", *HERE), authority().issue("server", *HERE)
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    shutil.copy(old.cert, chain)
    shutil.copy(old.key, key)
    server = await start(stack, Recorder(), cert=str(chain), key=str(key))
    public, tunnel = "{}:{}".format(*server.address), server.tunnel
    given = {"listen": public, "tunnel": tunnel, "cert": str(chain), "key": str(key)}

    async def look(**options: Any) -> dict[str, list[str]]:
        findings = Findings(lambda finding: None)
        await check_server(findings, server_config(options))
        return sorted_out(findings)

    said = await look(**given)
    assert said["problem"] == []
    assert [line.partition(":")[0] for line in said["ok"] if "shows the certificate of the file" in line] == [
        "tunnel port",
        "public port",
    ]
    shutil.copy(new.cert, chain)
    shutil.copy(new.key, key)
    problems = (await look(**given))["problem"]
    assert len(problems) == 2
    assert all("shows another certificate than the file" in line and "SIGHUP" in line for line in problems)
    await server.stop()
    said = await look(**given)
    assert said["problem"] == []
    assert sum("is free, no server is running" in line for line in said["ok"]) == 2


@pytest.mark.cython_only("no engine has a part in it")
async def test_files_of_a_server_that_expire(tmp_path: Path) -> None:
    file = tmp_path / "tokens.toml"
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=3)
    gone = soon - datetime.timedelta(days=30)
    lines = [token_lines(name, digest_of(name.encode()), expires=at) for name, at in (("a", soon), ("b", gone))]
    file.write_text("\n".join(lines))
    file.chmod(0o600)
    findings = Findings(lambda finding: None)
    await check_server(
        findings, server_config({"tokens_file": str(file), "listen": "127.0.0.1:0", "tunnel": "127.0.0.1:0"})
    )
    said = sorted_out(findings)
    assert said["problem"] == []
    assert "a token of a expires in 3.0 days (fasttunnel token a --append" in said["note"][0]
    assert "a token of b has expired" in said["note"][1]


@pytest.mark.cython_only("a process of its own, as people run it")
async def test_the_command(tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "fasttunnel", "doctor", *arguments]
        environment = {**os.environ, "FASTTUNNEL_TOKEN": ""}
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
        assert "Traceback" not in done.stdout + done.stderr
        return done

    file = tmp_path / "client.toml"
    file.write_text('server = "127.0.0.1:1"\n[[routes]]\nbackend = "http://127.0.0.1:1"\n')
    plain, as_json = await asyncio.gather(
        asyncio.to_thread(run, "client", str(file)), asyncio.to_thread(run, "client", str(file), "--json")
    )
    assert plain.returncode == as_json.returncode == 1
    assert plain.stdout.endswith("2 problems\n")
    assert "is the server running" in plain.stdout
    levels = [one["level"] for one in msgspec.json.decode(as_json.stdout)]
    assert levels.count("problem") == 2
    file.write_text("no_such = 1\n")
    wrong, alone = await asyncio.gather(
        asyncio.to_thread(run, "server", str(file), "--json"), asyncio.to_thread(run, "--json")
    )
    assert wrong.returncode == 1
    assert [one["subject"] for one in json.loads(wrong.stdout) if one["level"] == "problem"] == ["configuration"]
    assert alone.returncode == 0
    assert {"version", "engine", "open files"} <= {one["subject"] for one in json.loads(alone.stdout)}
