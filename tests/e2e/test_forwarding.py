"""What the backend learns about where a request came from, and what belongs to one connection only."""

import pytest

from tests.e2e.conftest import Ends
from tests.support import http2
from tests.support.raw import answer, connect, request, start_raw
from tests.support.tunnel import start_tunnel

FORGED = [
    "X-Forwarded-For: 6.6.6.6",
    "x-forwarded-for: 6.6.6.7",
    "X-FORWARDED-PROTO: https",
    "X-Forwarded-Host: evil.example",
    "X-Forwarded-Port: 666",
    "X-Forwarded-Prefix: /evil",
    "X_Forwarded_For: 6.6.6.8",
    "Forwarded: for=6.6.6.6;proto=https;host=evil.example",
]


async def test_the_visitor_is_named(ends: Ends) -> None:
    _, backend, head = await ends.pass_on(request("GET", "/", host="Shop.example:8080"))
    assert head.get("host") == "Shop.example:8080", "the backend sees what was asked for"
    assert head.get("x-forwarded-for") == "127.0.0.1"
    assert head.get("x-forwarded-proto") == "http"
    assert head.get("x-forwarded-host") == "Shop.example:8080"
    assert head.get("forwarded") == 'for=127.0.0.1;proto=http;host="Shop.example:8080"'
    await backend.send(answer("200 OK"))


@pytest.mark.parametrize("connection", ["keep-alive", "x-forwarded-for, forwarded"])
async def test_what_the_visitor_says_of_itself_proves_nothing(ends: Ends, connection: str) -> None:
    _, backend, head = await ends.pass_on(request("GET", "/", *FORGED, f"Connection: {connection}"))
    assert head.get("x-forwarded-for") == "127.0.0.1"
    assert head.get("x-forwarded-proto") == "http"
    assert head.get("x-forwarded-host") == "public.example"
    assert [name for name, _ in head.fields if name.startswith(("x-forwarded-", "x_"))] == [
        "x-forwarded-for",
        "x-forwarded-proto",
        "x-forwarded-host",
    ]
    assert head.get("forwarded") == 'for=127.0.0.1;proto=http;host="public.example"'
    await backend.send(answer("200 OK"))


async def test_a_websocket_handshake_is_no_way_around(ends: Ends) -> None:
    upgrade = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"]
    key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
    public, backend, head = await ends.pass_on(request("GET", "/", *upgrade, key, *FORGED))
    assert head.get("x-forwarded-for") == "127.0.0.1"
    assert head.get("x-forwarded-host") == "public.example"
    assert head.get("forwarded") == 'for=127.0.0.1;proto=http;host="public.example"'
    await backend.send(answer("403 Forbidden", body=b"no"))
    assert (await public.answer()).status == 403


THROUGH_A_PROXY = {
    "x-forwarded-for": "1.1.1.1, 2.2.2.2, 127.0.0.1",
    "x-forwarded-proto": "https",
    "x-forwarded-host": "public.example",
    "x-forwarded-prefix": "/shop",
}


@pytest.mark.parametrize("kind", ["http", "http2", "websocket"])
async def test_a_proxy_that_is_trusted(ends: Ends, kind: str) -> None:
    backend = await start_raw(ends.stack)
    tunnel = await start_tunnel(ends.stack, backend.url, server={"trusted_proxies": ("::1", "127.0.0.0/8")})
    said = [
        ("x-forwarded-for", "1.1.1.1, 2.2.2.2"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-prefix", "/shop"),
        ("x_forwarded_for", "6.6.6.6"),
    ]
    for fields in (said, []):  # and what it has said of one request is not that of the next
        if kind == "http2":
            connection = await http2.connect_http2(ends.stack, tunnel.host, tunnel.port)
            await connection.open("GET", "/", *fields, authority="public.example")
        else:
            public = await connect(ends.stack, tunnel.host, tunnel.port)
            upgrade = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"]
            key = ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]
            lines = [f"{name}: {value}" for name, value in fields] + (upgrade + key) * (kind == "websocket")
            await public.send(request("GET", "/", *lines))
        peer = await backend.accept()
        head = await peer.head()
        seen = {name: value for name, value in head.fields if "forwarded" in name}
        if fields:
            assert seen == THROUGH_A_PROXY
        else:
            assert seen["x-forwarded-for"] == "127.0.0.1"
            assert seen["forwarded"] == 'for=127.0.0.1;proto=http;host="public.example"'
            assert len(seen) == 4
        await peer.send(answer("403 Forbidden", "Connection: close", body=b"no"))
        await peer.close()


async def test_a_visitor_with_an_ipv6_address(ends: Ends) -> None:
    backend = await start_raw(ends.stack)
    tunnel = await start_tunnel(ends.stack, backend.url, server={"listen": "[::1]:0"})
    public = await connect(ends.stack, tunnel.host, tunnel.port)
    await public.send(request("GET", "/"))
    peer = await backend.accept()
    head = await peer.head()
    assert head.get("x-forwarded-for") == "::1"
    assert head.get("forwarded") == 'for="[::1]";proto=http;host="public.example"'
    await peer.send(answer("200 OK"))
    assert (await public.answer()).status == 200


async def test_fields_of_one_connection_end_there(ends: Ends) -> None:
    """RFC 9110 7.6.1: those that it names, and those that Connection names."""
    public, backend, head = await ends.pass_on(
        request(
            "GET",
            "/",
            "Connection: keep-alive, X-Mine, x-other",
            "X-Mine: 1",
            "X-Other: 2",
            "X-Kept: 3",
            "Keep-Alive: timeout=5",
            "Proxy-Connection: keep-alive",
            "TE: gzip;q=0.5",
            "Upgrade: h2c",
            "Authorization: Basic eDp5",
        )
    )
    names = {name for name, _ in head.fields}
    assert not names & {"connection", "x-mine", "x-other", "keep-alive", "proxy-connection", "te", "upgrade"}
    assert (head.get("x-kept"), head.get("authorization")) == ("3", "Basic eDp5")
    await backend.send(
        answer("200 OK", "Connection: X-Inner", "X-Inner: 1", "Keep-Alive: timeout=9", "X-Outer: 2", body=b"ok")
    )
    got = await public.answer()
    names = {name for name, _ in got.head.fields}
    assert not names & {"connection", "x-inner", "keep-alive"}
    assert (got.head.get("x-outer"), got.body) == ("2", b"ok")


async def test_absolute_form(ends: Ends) -> None:
    """RFC 9112 3.2.2: as sent to a proxy; the backend gets the usual form."""
    public, backend, head = await ends.pass_on(
        b"GET http://public.example/a/b?c HTTP/1.1\r\nHost: public.example\r\n\r\n"
    )
    assert (head.start, head.get("host")) == ("GET /a/b?c HTTP/1.1", "public.example")
    await backend.send(answer("200 OK", body=b"1"))
    assert (await public.answer()).body == b"1"
    await public.send(b"OPTIONS http://public.example HTTP/1.1\r\nHost: public.example\r\n\r\n")
    head = await backend.head()
    assert head.start in ("OPTIONS * HTTP/1.1", "OPTIONS / HTTP/1.1")
    await backend.send(answer("200 OK", body=b"2"))
    assert (await public.answer()).body == b"2"


async def test_options_for_the_whole_server(ends: Ends) -> None:
    public, backend, head = await ends.pass_on(request("OPTIONS", "*"))
    assert head.start == "OPTIONS * HTTP/1.1"
    await backend.send(answer("204 No Content", "Allow: GET"))
    got = await public.answer()
    assert (got.status, got.head.get("allow")) == (204, "GET")
