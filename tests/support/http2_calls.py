"""gRPC backends made of the h2 library: a test says each frame of the answer itself."""

import asyncio
from collections.abc import Iterable

import h2.config
import h2.connection
import h2.events

from tests.support.raw import Peer
from tests.support.tunnel import WAIT_S


class Call:
    """One call as the backend has got it: its connection, and the stream."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        config = h2.config.H2Configuration(
            client_side=False,
            header_encoding=None,
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
        )
        self.protocol = h2.connection.H2Connection(config)
        self.number = 0

    async def arrive(self, *, whole: bool = True) -> None:
        """Read up to the end of the request, or of its head."""
        wanted = h2.events.StreamEnded if whole else h2.events.RequestReceived
        self.protocol.initiate_connection()
        await self.write()
        async with asyncio.timeout(WAIT_S):
            while not self.number:
                for event in self.protocol.receive_data(await self.peer.reader.read(65_536)):
                    if isinstance(event, wanted):
                        self.number = event.stream_id or 0
                await self.write()

    def head(self, *fields: tuple[bytes, bytes]) -> None:
        usual = [(b":status", b"200"), (b"content-type", b"application/grpc"), (b"x-initial", b"i")]
        self.protocol.send_headers(self.number, [*usual, *fields])

    def messages(self, messages: Iterable[bytes]) -> None:
        data = b"".join(b"\0" + len(message).to_bytes(4, "big") + message for message in messages)
        for start in range(0, len(data), 16_384):
            self.protocol.send_data(self.number, data[start : start + 16_384])

    def end(self, status: bytes | None = b"0", *fields: tuple[bytes, bytes]) -> None:
        number = [(b"grpc-status", status)] if status is not None else []
        self.protocol.send_headers(self.number, [*number, *fields, (b"x-trailing", b"t")], end_stream=True)

    def reset(self, code: int) -> None:
        """A frame by hand: the library keeps quiet about streams that have ended."""
        self.peer.writer.write(self.protocol.data_to_send())
        self.peer.writer.write(b"\0\0\4\3\0" + self.number.to_bytes(4, "big") + code.to_bytes(4, "big"))

    async def write(self) -> None:
        await self.peer.send(self.protocol.data_to_send())

    def goaway(self, last: int) -> None:
        """A frame by hand as well: behind one of its own the library sends nothing."""
        self.peer.writer.write(self.protocol.data_to_send())
        self.peer.writer.write(b"\0\0\x08\7\0" + bytes(4) + last.to_bytes(4, "big") + bytes(4))

    async def expect_reset(self) -> None:
        """The stream is reset, or its connection closed."""
        async with asyncio.timeout(WAIT_S):
            while data := await self.peer.reader.read(65_536):
                if any(isinstance(event, h2.events.StreamReset) for event in self.protocol.receive_data(data)):
                    return
                await self.write()
