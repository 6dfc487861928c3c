"""Request smuggling: what backends of other people see of each attack in tests/corpus/smuggling.

The public plays the attacker. Behind each attack comes a canary on the same connection, if that stays open, and one on
another: each is answered with itself, and the backend has seen what the case says, the canaries and nothing else.
"""

import asyncio
import contextlib
import json
import tempfile
import traceback
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import uvloop

from tests.support import smuggling
from tests.support.cells import ALIKE, MIXED
from tests.support.http2 import Connection, Stream, connect_http2
from tests.support.raw import Answer, Peer, connect, request
from tests.support.smuggling import SECRET, Case, Expected, Seen
from tests.support.tunnel import WAIT_S, Tunnel, start_tunnel
from tests.support.web_servers import (
    Backend,
    seen_of,
    start_nginx,
    start_node,
    start_strict,
    start_uvicorn,
)

CASES = smuggling.load()
BYTEWISE_BYTES = 4096  # what is longer is not sent byte by byte
CANARY = "/canary/"
Place = tuple[str, str, str, str]  # engines of server and client, the backend, and how the bytes come
# Fields of one connection (RFC 9110 7.6.1): ours may have `te: trailers`, and in a handshake those of the upgrade.
HOP_BY_HOP = ("keep-alive", "proxy-connection")


async def _nginx(stack: AsyncExitStack) -> Backend:
    return await start_nginx(stack, Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nginx-"))))


BACKENDS: dict[str, Callable[[AsyncExitStack], Awaitable[Backend]]] = {
    "strict": start_strict,
    "uvicorn-h11": lambda stack: start_uvicorn(stack, "h11"),
    "uvicorn-httptools": lambda stack: start_uvicorn(stack, "httptools"),
    "nginx": _nginx,
    "node": start_node,
}
PLACES: list[Place] = [
    *((server, client, "strict", "whole") for server, client in MIXED),
    *((server, client, backend, "whole") for server, client in ALIKE for backend in BACKENDS),
    *((server, client, "strict", "bytewise") for server, client in ALIKE),
]


class Scene:
    """One tunnel, its backend, and another one that serves SECRET. `engine` is the server's."""

    def __init__(self, stack: AsyncExitStack, engine: str, tunnel: Tunnel, backend: Backend, secret: Backend) -> None:
        self.stack = stack
        self.engine = engine
        self.tunnel = tunnel
        self.backend = backend
        self.secret = secret
        # What may be begun and not ended, or be seen although it was broken off: it may show late.
        self.begun: set[str] = set()
        self.may_see: set[tuple[str, ...]] = set()
        self._numbers = count()
        self._canaries: list[str] = []  # targets of those that were sent, of one case

    async def play(self, case: Case, *, bytewise: bool) -> None:
        self.may_see |= set(case.may_see)
        self.begun |= {*case.begun, *(f"{method} {target}" for method, target, _ in case.may_see)}
        async with AsyncExitStack() as stack:
            await (self._over_http2 if case.over_http2 else self._over_http1)(stack, case, bytewise)
            other = await connect(stack, self.tunnel.host, self.tunnel.port)
            await self._canary(other)
        await self._check(case)

    async def _over_http1(self, stack: AsyncExitStack, case: Case, bytewise: bool) -> None:
        public = await connect(stack, self.tunnel.host, self.tunnel.port)
        send = public.send_bytewise if bytewise else public.send
        await send(case.send)
        expected = list(case.sees)
        if case.before:
            assert (await public.answer()).status == case.before
        if case.wait == "100":
            assert (await public.head()).status == 100
        elif case.wait:
            await self._answered(public, case, expected.pop(0))
        if case.then:
            await send(case.then)
        for each in expected:
            await self._answered(public, case, each)
        if case.cut:
            public.half_close()
        if case.refused:
            self._check_refusal(await public.answer(), case)
        if case.cut:
            with_errors = await _to_end(public)
            assert not with_errors or int(with_errors.split(b" ")[1]) >= 400, with_errors
        elif not case.is_open:
            assert await public.ended(), "something has come behind the last answer"
        else:
            await self._canary(public)

    async def _answered(self, public: Peer, case: Case, expected: Expected) -> None:
        got = await public.answer(expected.method)
        if own := case.own_answers.get(self.backend.name):
            assert got.status == own, got
            return
        assert got.status == 200, got
        if expected.method != "HEAD":
            _check_request(seen_of(json.loads(got.body)), expected)

    @staticmethod
    def _check_refusal(got: Answer, case: Case) -> None:
        assert got.status == case.refused, got
        assert "close" in ", ".join(got.head.all("connection")), got
        assert got.body.startswith(b"%d: " % case.refused), "it is ours"

    async def _over_http2(self, stack: AsyncExitStack, case: Case, _bytewise: bool) -> None:
        connection = await connect_http2(stack, self.tunnel.host, self.tunnel.port)
        config = connection.protocol.config
        config.validate_outbound_headers = config.normalize_outbound_headers = False
        stream = await _send_stream(connection, case)
        async with asyncio.timeout(WAIT_S):
            while not (stream.ended or stream.reset is not None or connection.closed):
                await connection.changed()
        if case.sees:
            own = case.own_answers.get(self.backend.name)
            assert (stream.status, stream.reset) == (own or 200, None)
            own or _check_request(seen_of(json.loads(stream.body)), case.sees[0])
        elif connection.closed:
            assert case.closed or self.engine == "asyncio", connection.closed
            return
        else:
            assert stream.reset is not None or 400 <= stream.status < 500, stream.fields
        # A stream that was refused costs the connection nothing.
        target = self._next()
        canary = await connection.ask("GET", target, authority="public.example")
        assert json.loads(canary.body)["target"] == target

    def _next(self) -> str:
        self._canaries.append(f"{CANARY}{next(self._numbers)}")
        return self._canaries[-1]

    async def _canary(self, public: Peer) -> None:
        """A request that nothing may have touched."""
        target = self._next()
        got = await public.ask(request("GET", target))
        assert got.status == 200, got
        seen = json.loads(got.body)
        assert (seen["method"], seen["target"], seen["body"]) == ("GET", target, ""), got

    async def _check(self, case: Case) -> None:
        """What the backends themselves say."""
        await self.backend.until_told(self._canaries[-1])
        canaries, self._canaries = self._canaries, []
        seen, begun, garbage = self.backend.take()
        assert [each[:3] for each in seen if each.target.startswith(CANARY)] == [("GET", each, "") for each in canaries]
        secret, secret_begun, secret_garbage = self.secret.take()
        attacked = [each[:3] for each in seen if not each.target.startswith(CANARY) and each[:3] not in self.may_see]
        if self.backend.name in case.own_answers:
            assert attacked == []
        else:
            assert attacked == [each[:3] for each in case.sees if not each.secret]
            assert garbage == []
        assert secret_garbage == []
        assert [each[:3] for each in secret] == [each[:3] for each in case.sees if each.secret]
        known = self.begun | {f"{method} {target}" for method, target, *_ in case.sees}
        assert {head for head in begun + secret_begun if f" {CANARY}" not in head} <= known
        if self.backend.name != "nginx":  # which changes fields on its way to where they are looked at
            for each in seen + secret:
                _check_fields(each.fields)
            if case.backend_sees and attacked:
                _check_seen((seen + secret)[0], case.backend_sees)


async def _to_end(public: Peer) -> bytes:
    try:
        return await public.to_end()
    except ConnectionError:
        return b""


async def _send_stream(connection: Connection, case: Case) -> Stream:
    """Exactly the frames of a case."""
    protocol = connection.protocol
    stream = Stream(connection, protocol.get_next_available_stream_id())
    connection.streams[stream.number] = stream
    protocol.send_headers(stream.number, case.head, end_stream=not (case.data or case.trailers))
    if case.data:
        protocol.send_data(stream.number, case.data, end_stream=not case.trailers)
    if case.trailers:
        protocol.send_headers(stream.number, case.trailers, end_stream=True)
    await connection.flush()
    return stream


def _check_request(seen: Seen, expected: Expected) -> None:
    assert seen[:3] == expected[:3]


def _check_fields(fields: list[tuple[str, str]]) -> None:
    """RFC 9112 3.2, 6.1, 6.3, RFC 9110 7.6.1: what every request of the tunnel keeps to."""
    names = [name for name, _ in fields]
    assert names.count("host") == 1, fields
    assert names.count("content-length") + names.count("transfer-encoding") <= 1, fields
    assert not set(names) & set(HOP_BY_HOP), fields
    values = dict(fields)
    assert values.get("transfer-encoding", "chunked") == "chunked"
    assert values.get("te", "trailers") == "trailers"
    assert values.get("connection", "Upgrade") == "Upgrade"
    assert values.get("upgrade", "websocket") == "websocket"


def _check_seen(seen: Seen, wanted: dict[str, Any]) -> None:
    """Fields that are there exactly once with this value, or (False) not at all."""
    for name, value in wanted.items():
        assert [got for key, got in seen.fields if key == name] == ([] if value is False else [value]), seen.fields


class Scenes:
    """A loop on which the scenes live from one case to the next, so that what one leaves behind meets the other."""

    def __init__(self) -> None:
        self._loop = uvloop.new_event_loop()
        self._errors: list[str] = []
        self._loop.set_exception_handler(lambda _, context: self._errors.append(repr(context)))
        self._scenes: dict[tuple[str, str, str], Scene] = {}  # by the first three of a Place

    def play(self, place: Place, case: Case) -> None:
        self._errors.clear()
        self._loop.run_until_complete(self._play(place[:3], case, place[3] == "bytewise"))
        assert self._errors == []

    def close(self) -> None:
        for scene in self._scenes.values():
            self._loop.run_until_complete(scene.stack.aclose())
        self._loop.close()

    async def _play(self, place: tuple[str, str, str], case: Case, bytewise: bool) -> None:
        scene = self._scenes.get(place) or await self._start(*place)
        self._scenes[place] = scene
        try:
            await scene.play(case, bytewise=bytewise)
        except BaseException:
            del self._scenes[place]  # it may be in any state
            with contextlib.suppress(AssertionError):  # the first failure is the one to tell
                await scene.stack.aclose()
            raise

    @staticmethod
    async def _start(server: str, client: str, name: str) -> Scene:
        stack = AsyncExitStack()
        try:
            backend = await BACKENDS[name](stack)
            secret = await start_strict(stack, SECRET)
            routes = (backend.url, f"{SECRET}={secret.url}")
            ends = {"server": {"engine": server}, "client": {"engine": client}}
            return Scene(stack, server, await start_tunnel(stack, *routes, records=False, **ends), backend, secret)
        except BaseException:
            await stack.aclose()
            raise


@pytest.fixture(scope="module")
def scenes() -> Iterator[Scenes]:
    scenes = Scenes()
    yield scenes
    scenes.close()


def _plays(family: str, way: str) -> list[Case]:
    """The cases of a family that make sense in this way."""
    cases = [case for case in CASES if case.family == family]
    if way == "whole":
        return cases
    # HTTP/2 is frames; and to a connection that ends with an answer not all may still be written.
    return [
        case
        for case in cases
        if not (case.over_http2 or case.closed or len(case.send) + len(case.then) > BYTEWISE_BYTES)
    ]


@pytest.mark.parametrize("family", dict.fromkeys(case.family for case in CASES))
@pytest.mark.parametrize("place", PLACES, ids="-".join)
def test_smuggling(scenes: Scenes, place: Place, family: str) -> None:
    """All cases of a family; those that fail are told by their names. A test for each would cost more than the case."""
    failed = []
    for case in _plays(family, place[3]):
        try:
            scenes.play(place, case.of_engine(place[0]))
        except Exception:
            failed.append(f"{case.id}\n{traceback.format_exc()}")
    assert not failed, "\n".join(failed)


def test_the_corpus_is_large_enough() -> None:
    assert len(CASES) >= 150
