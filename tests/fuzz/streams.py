"""Whole connections: the public and backends in HTTP/1.1, HTTP/2 and WebSocket, each with a stream that is hostile."""

import asyncio
import random
from typing import Any, ClassVar

import h2.config
import h2.connection
import h2.settings

from tests.fuzz.kernels import FIELDS, LINE_TOKENS, AnswerHead, RequestHead
from tests.fuzz.mutate import (
    PREFACE,
    cut,
    http2_frames,
    lines,
    mend_http2_frame,
    mend_websocket_frame,
    websocket_frames,
)
from tests.fuzz.stage import GRPC_MESSAGES, Line, Stage, sound_answers, sound_http2
from tests.fuzz.target import Target
from tests.support.frames import MASK, UPGRADE, accept_key, close_payload, frame
from tests.support.http2_wires import message
from tests.support.leaks import exchanges
from tests.support.raw import answer, request
from tests.support.wires import parse_requests

GRPC_FIELDS = [("te", "trailers"), ("content-type", "application/grpc"), ("grpc-timeout", "5S")]
HANDSHAKE = request("GET", "/chat", *UPGRADE)
H2_TOKENS = [
    bytes.fromhex(text)
    for text in (
        "000000040100000000",  # SETTINGS ACK
        "000004080000000000000186a0",  # WINDOW_UPDATE
        "0000040800000000017fffffff",
        "000004030000000001" + "00000008",  # RST_STREAM
        "000008060000000000" + "0102030405060708",  # PING
        "000008070000000000" + "0000000100000000",  # GOAWAY
        "000000000100000001",  # DATA, END_STREAM
        "000005020000000001" + "0000000010",  # PRIORITY
        "000000090400000001",  # CONTINUATION
        "000006040000000000" + "000400000000",  # a window of 0
        "000006040000000000" + "000500004000",
    )
]


# -- the public


class PublicHttp1(Stage):
    """The public in HTTP/1.1, before a backend that insists on sound requests."""

    name = "public-http1"
    split, tokens = lines, LINE_TOKENS

    def seeds(self) -> list[bytes]:
        get, post = request("GET", "/a?b"), request("POST", "/p", body=b"hello")
        chunked = request("PUT", "/c", "Transfer-Encoding: chunked")
        return [
            get,
            post + get,
            request("HEAD", "/") + request("DELETE", "/", "Connection: close"),
            chunked + b"5;x=y\r\nhello\r\n0\r\nX-T: 1\r\n\r\n" + get,
            chunked + b"12c\r\n" + bytes(300) + b"\r\n0\r\n\r\n",
            request("POST", "/", "Expect: 100-continue", body=b"x"),
            b"GET http://public.example/abs HTTP/1.1\r\nHost: public.example\r\n\r\n",
            b"GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n" + get,
            request(
                "GET", "/", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"
            ),
            HANDSHAKE + frame(1, b"x", mask=MASK),
            *RequestHead().seeds()[::5],
        ]

    async def play(self, chance: random.Random, data: bytes) -> None:
        self.reply = chance.choice(
            (
                answer("200 OK", body=b"hello"),
                b"HTTP/1.1 103 x\r\nLink: a\r\n\r\n"
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX: y\r\n\r\n",
                answer("204 No Content"),
            )
        )
        line = await self.public()
        await line.send_parts(chance, cut(chance, data))
        way = chance.choice((0, 1, 1, 1, 2, 3, 3, 3))
        line.end(way)
        if way in (1, 3):
            await line.until(lambda: False, chance.choice((0.001, 0.01)))
        self.look(data, bytes(line.data))
        self.reply = Stage.reply

    def look(self, sent: bytes, got: bytes) -> None:
        """What has come, and that the tunnel said nothing else."""
        if got and not sent.startswith(b"PRI") and b"HEAD" not in sent:
            sound_answers(got)


class PublicWebSocket(PublicHttp1):
    """A WebSocket of the public, echoed by a backend that insists on sound frames."""

    name = "public-websocket"
    split, mend = websocket_frames, mend_websocket_frame
    tokens: ClassVar[list[bytes]] = [
        b"\x81\x80" + MASK,
        b"\x88\x80" + MASK,
        b"\x89\x80" + MASK,
        b"\x01\x80" + MASK,
    ]

    def seeds(self) -> list[bytes]:
        def some(*each: Any, **how: Any) -> bytes:
            return frame(*each, mask=MASK, **how)

        return [
            HANDSHAKE + some(1, b"text") + some(9, b"p") + some(8, close_payload(1000)),
            HANDSHAKE + some(1, b"a", fin=False) + some(10) + some(0, b"b") + some(2, bytes(1000)),
            request("GET", "/", *UPGRADE, "Sec-WebSocket-Extensions: permessage-deflate") + some(2, b"x" * 300, rsv=4),
            HANDSHAKE + some(2, bytes(5000)) + some(8),
        ]

    def look(self, sent: bytes, got: bytes) -> None:
        if got:
            sound_answers(got)


def http2_client() -> h2.connection.H2Connection:
    config = h2.config.H2Configuration(client_side=True, validate_outbound_headers=False)
    protocol = h2.connection.H2Connection(config)
    protocol.initiate_connection()
    return protocol


def head(method: str, path: str, *fields: tuple[str, str]) -> list[tuple[str, str]]:
    pseudo = [(":method", method), (":scheme", "http"), (":path", path), (":authority", "public.example")]
    return [*pseudo, *fields]


def grpc_call() -> bytes:
    """The public's side of a call, whole."""
    protocol = http2_client()
    protocol.send_headers(1, head("POST", "/pkg.Service/Method", *GRPC_FIELDS))
    protocol.send_data(1, GRPC_MESSAGES, end_stream=True)
    return protocol.data_to_send()


class PublicHttp2(PublicHttp1):
    """The public in HTTP/2, requests and calls."""

    name = "public-http2"
    split, mend, tokens = http2_frames, mend_http2_frame, H2_TOKENS

    def seeds(self) -> list[bytes]:
        get = http2_client()
        get.send_headers(1, head("GET", "/", ("cookie", "a"), ("cookie", "b")), end_stream=True)
        get.ping(bytes(8))
        get.send_headers(3, head("HEAD", "/x"), end_stream=True)
        post = http2_client()
        post.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 3})
        post.send_headers(1, head("POST", "/p", ("content-length", "10")))
        post.send_data(1, b"hello")
        post.send_headers(3, head("PUT", "/q", ("expect", "100-continue")), priority_weight=5)
        post.send_data(1, b"world", pad_length=3)
        post.send_headers(1, [("x-t", "1")], end_stream=True)
        post.send_data(3, b"", end_stream=True)
        post.increment_flow_control_window(1000, 1)
        resets = http2_client()
        for number in range(1, 9, 2):
            resets.send_headers(number, head("POST", "/pkg.Service/Method", *GRPC_FIELDS))
            resets.send_data(number, GRPC_MESSAGES[:7])
            resets.reset_stream(number, 8)
        long = http2_client()
        long.send_headers(1, head("GET", "/" + "long" * 5000, ("x" * 300, "y" * 3000)), end_stream=True)
        bye = http2_client()
        bye.send_headers(1, head("GET", "/"), end_stream=True)
        bye.close_connection()
        return [grpc_call(), *(each.data_to_send() for each in (get, post, resets, long, bye))]

    def look(self, sent: bytes, got: bytes) -> None:
        if sent.startswith(PREFACE):
            sound_http2(got)


# -- backends


class Hostile(Line):
    """A backend's connection: once it is asked, it does as the input says."""

    answering: "asyncio.Task[None] | None" = None

    def came(self) -> None:
        stage = self._stage
        assert isinstance(stage, Backend)
        if self.answering is None and stage.asked(self):
            self.answering = asyncio.ensure_future(stage.reply_to(self))
            stage.answers.append(self.answering)


class Backend(Stage):
    """A backend that answers with the input; the public asks what is right."""

    parts: list[bytes]
    dice: random.Random
    way: int
    answers: "list[asyncio.Task[None]]"

    async def routes(self) -> list[str]:
        return [f"http://{await self.listen(Hostile)}"]

    def asked(self, line: Line) -> bool:
        """Whether it is time to answer."""
        return b"\r\n\r\n" in line.data

    async def reply_to(self, line: Line) -> None:
        await line.send_parts(self.dice, self.parts)
        line.end(self.way)

    def question(self, chance: random.Random) -> tuple[bytes, list[str]]:
        """What the public sends, and the methods of its requests."""
        ways = [
            (request("GET", "/"), ["GET"]),
            (request("HEAD", "/"), ["HEAD"]),
            (request("POST", "/", body=b"hello" * 100), ["POST"]),
            (request("GET", "/1") + request("GET", "/2"), ["GET", "GET"]),
            (request("POST", "/", "Transfer-Encoding: chunked") + b"5\r\nhello\r\n", ["POST"]),
            (request("GET", "/", "Connection: close"), ["GET"]),
            (HANDSHAKE, ["GET"]),
            (b"GET / HTTP/1.0\r\nHost: public.example\r\n\r\n", ["GET"]),
        ]
        return chance.choice(ways)

    async def play(self, chance: random.Random, data: bytes) -> None:
        self.answers, self.dice = [], chance
        self.parts, self.way = cut(chance, data), chance.choice((0, 0, 1, 2, 3))
        question, methods = self.question(chance)
        line = await self.public()
        line.send(question)
        await self.eventually(lambda: bool(self.answers), lambda: "the backend was never asked")
        await self.answers[0]
        if self.way == 3:
            await line.until(lambda: False, 0.002)
        else:
            # A backend that has gone ends its requests, whatever it has said.
            await self.eventually(lambda: self.over(line), lambda: f"the public waits on, behind {bytes(line.data)!r}")
        self.look(bytes(line.data), methods)
        for task in self.answers:
            task.cancel()
        await asyncio.gather(*self.answers, return_exceptions=True)

    def over(self, line: Line) -> bool:
        return line.closed or exchanges() <= self.before

    def look(self, got: bytes, methods: list[str]) -> None:
        sound_answers(got, methods)

    def keeps(self, line: Line) -> bool:
        return super().keeps(line) and not isinstance(line, Hostile)


class BackendHttp1(Backend):
    """Answers in HTTP/1.1."""

    name = "backend-http1"
    split, tokens = lines, LINE_TOKENS

    def seeds(self) -> list[bytes]:
        chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        return [
            answer("200 OK", "X-A: b", body=b"hello"),
            answer("200 OK", "Connection: close", body=b"hello"),
            chunked + b"5;x\r\nhello\r\n12c\r\n" + bytes(300) + b"\r\n0\r\nX-T: 1\r\n\r\n",
            b"HTTP/1.1 103 x\r\nLink: a\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + answer("404 x", body=b"no"),
            answer("204 No Content") + answer("200 OK", body=b"next"),
            b"HTTP/1.1 200 OK\r\n\r\nuntil the end",
            b"HTTP/1.0 200 OK\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n\r\nuntil the end",
            b"HTTP/1.1 304 x\r\nContent-Length: 77\r\n\r\n",
            answer("403 Forbidden", body=b"no"),
            *(seed for seed in AnswerHead().seeds()[::4]),
            b"HTTP/1.1 200 OK\r\n" + b"".join(FIELDS) + b"\r\n",
        ]


class BackendWebSocket(Backend):
    """Handshakes and frames; <accept> stands for what answers the key."""

    name = "backend-websocket"
    split, mend = websocket_frames, mend_websocket_frame
    tokens: ClassVar[list[bytes]] = [
        b"\x81\0",
        b"\x88\0",
        b"\x88\x02\x03\xe8",
        b"\x01\0",
        b"\x80\0",
        b"\x89\0",
        b"\r\n",
        b"Sec-WebSocket-Extensions: x\r\n",
    ]

    def seeds(self) -> list[bytes]:
        accepted = (
            b"HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: <accept>\r\n\r\n"
        )
        return [
            accepted + frame(1, b"text") + frame(9, b"p") + frame(8, close_payload(1000)),
            accepted + frame(1, b"a", fin=False) + frame(10) + frame(0, b"b") + frame(2, bytes(1000)),
            accepted + frame(2, bytes(5000)) + frame(2, b"x" * 300),
            accepted.replace(b"\r\n\r\n", b"\r\nSec-WebSocket-Extensions: x\r\n\r\n") + frame(2, b"x" * 300, rsv=4),
            answer("403 Forbidden", body=b"no"),
        ]

    def question(self, chance: random.Random) -> tuple[bytes, list[str]]:
        fields = chance.choice(([], ["Sec-WebSocket-Extensions: x"], ["Sec-WebSocket-Protocol: a, b"]))
        talk = frame(1, b"hello", mask=MASK) + chance.choice((b"", frame(8, mask=MASK)))
        return request("GET", "/chat", *UPGRADE, *fields) + talk, ["GET"]

    async def reply_to(self, line: Line) -> None:
        [asked, *_] = parse_requests(bytes(line.data))
        key = accept_key(asked.get("sec-websocket-key") or "").encode()
        self.parts = cut(self.dice, b"".join(self.parts).replace(b"<accept>", key))
        await super().reply_to(line)


class BackendHttp2(Backend):
    """A gRPC backend: SETTINGS, answers and trailers of the call on stream 1."""

    name = "backend-http2"
    split, mend, tokens = http2_frames, mend_http2_frame, H2_TOKENS
    call = grpc_call()

    async def routes(self) -> list[str]:
        return [f"grpc://{await self.listen(Hostile)}"]

    def asked(self, line: Line) -> bool:
        """With or without the head of the call."""
        return self.dice.random() < 0.1 or any(each[3:4] == b"\x01" for each in http2_frames(bytes(line.data)))

    def seeds(self) -> list[bytes]:
        answers: list[list[Any]] = [
            [head_of(200), message(b"one") + message(b"two" * 200), [("grpc-status", "0"), ("x-t", "1")]],
            [[*head_of(200), ("grpc-status", "5"), ("grpc-message", "no%20such")]],
            [head_of(200), message(b"", 1), [("grpc-status", "13"), ("grpc-status-details-bin", "CAcSAm5v")]],
            [[(":status", "103"), ("link", "a")], head_of(503), b"not gRPC"],
            [head_of(200), GRPC_MESSAGES[:9]],
        ]
        return [grpc_answer(steps) for steps in answers]

    def question(self, chance: random.Random) -> tuple[bytes, list[str]]:
        return self.call, []

    def look(self, got: bytes, methods: list[str]) -> None:
        sound_http2(got)


def head_of(status: int) -> list[tuple[str, str]]:
    return [(":status", str(status)), ("content-type", "application/grpc")]


def grpc_answer(steps: list[Any]) -> bytes:
    """What a backend sends on stream 1: fields and bytes, the last of them ends it."""
    config = h2.config.H2Configuration(client_side=False, validate_outbound_headers=False)
    protocol = h2.connection.H2Connection(config)
    protocol.receive_data(grpc_call())
    for number, step in enumerate(steps, 1):
        end = number == len(steps)
        if isinstance(step, bytes):
            protocol.send_data(1, step, end_stream=end)
        else:
            protocol.send_headers(1, step, end_stream=end and len(steps) != 2)
    return protocol.data_to_send()


STREAMS: list[type[Target]] = [PublicHttp1, PublicWebSocket, PublicHttp2, BackendHttp1, BackendWebSocket, BackendHttp2]
