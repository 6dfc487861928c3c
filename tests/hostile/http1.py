"""HTTP/1.1 (RFC 9110, 9112)."""

from tests.hostile.attack import Section
from tests.hostile.site import VICTIM, Attacker
from tests.support.raw import Peer, request

attack = Section("HTTP/1.1").attack
CHUNKED = "Transfer-Encoding: chunked"


async def refused(attacker: Attacker, data: bytes, *statuses: int) -> Peer:
    """`data` gets one answer of ours, the connection ends behind it, and no backend hears of it."""
    peer = await attacker.connect()
    await peer.send(data)
    answer = await peer.answer()
    assert answer.status in statuses, answer
    assert await peer.ended()
    assert attacker.victim.connections == 0
    return peer


def head(*fields: str, body: bytes = b"", target: str = "/", host: str = VICTIM) -> bytes:
    return request("POST", target, *fields, host=host) + body


LENGTHS = {
    "with a coding": ["Content-Length: 3", CHUNKED],
    "behind a coding": [CHUNKED, "Content-Length: 3"],
    "two": ["Content-Length: 3", "Content-Length: 4"],
    "a list": ["Content-Length: 3, 4"],
    "minus": ["Content-Length: -3"],
    "plus": ["Content-Length: +3"],
    "space inside": ["Content-Length: 1 3"],
    "hexadecimal": ["Content-Length: 0x3"],
    "empty": ["Content-Length:"],
    "above 64 bits": ["Content-Length: 18446744073709551617"],
}


@attack("Content-Length beside Transfer-Encoding, two lengths, sign, space or letters in a length", "400, closed")
async def lengths(attacker: Attacker) -> None:
    await refused(attacker, head(*attacker.one_of(list(LENGTHS.values())), body=b"abc"), 400)
