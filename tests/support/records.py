"""A visitor over TLS that seals records itself, of any kind: what libraries for TLS would never send."""

import hashlib
import hmac
import socket
import ssl
import tempfile
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.support.tunnel import WAIT_S

HANDSHAKE, DATA = 22, 23
KEY_UPDATE = b"\x18\x00\x00\x01\x01"  # the peer is to send one as well (RFC 8446 4.6.3)


class RawTls:
    """`sock` once the handshake is over, over TLS 1.2 or 1.3 with AES-256-GCM. It blocks: use it in a thread."""

    def __init__(self, address: tuple[str, int], context: ssl.SSLContext, version: ssl.TLSVersion) -> None:
        self._modern = version == ssl.TLSVersion.TLSv1_3
        context.minimum_version = context.maximum_version = version
        context.set_ciphers("ECDHE-ECDSA-AES256-GCM-SHA384")
        self.sock = socket.create_connection(address, WAIT_S)
        arrives, leaves = ssl.MemoryBIO(), ssl.MemoryBIO()
        with tempfile.TemporaryDirectory() as folder:
            context.keylog_filename = f"{folder}/keys"
            tls = context.wrap_bio(arrives, leaves, server_hostname="localhost")
            came = b""
            while True:
                try:
                    tls.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    self.sock.sendall(leaves.read())
                    came += (part := self.sock.recv(65536))
                    arrives.write(part)
            self.sock.sendall(leaves.read())
            keys = dict(line.split()[::2] for line in Path(context.keylog_filename).read_text().splitlines()[1:])
            client_random = bytes.fromhex(Path(context.keylog_filename).read_text().splitlines()[1].split()[1])
        if self._modern:
            self._secret = bytes.fromhex(keys["CLIENT_TRAFFIC_SECRET_0"])
            self._take_keys()
        else:
            random = came[11:43] + client_random  # the server's is in its first message
            block = _expand_old(bytes.fromhex(keys["CLIENT_RANDOM"]), b"key expansion" + random, 72)
            self._aead, self._iv, self._number = AESGCM(block[:32]), block[64:68], 1

    def seal(self, kind: int, content: bytes) -> bytes:
        """The next record."""
        number = self._number.to_bytes(8)
        self._number += 1
        if not self._modern:
            head = bytes([kind]) + b"\3\3"
            sealed = self._aead.encrypt(self._iv + number, content, number + head + len(content).to_bytes(2))
            return head + (8 + len(sealed)).to_bytes(2) + number + sealed
        head = b"\x17\3\3" + (len(content) + 17).to_bytes(2)
        nonce = (int.from_bytes(self._iv) ^ int.from_bytes(number)).to_bytes(12)
        record = head + self._aead.encrypt(nonce, content + bytes([kind]), head)
        if (kind, content) == (HANDSHAKE, KEY_UPDATE):
            self._secret = self._expand("traffic upd", 48)
            self._take_keys()
        return record

    def _take_keys(self) -> None:
        self._aead, self._iv, self._number = AESGCM(self._expand("key", 32)), self._expand("iv", 12), 0

    def _expand(self, label: str, n: int) -> bytes:
        name = f"tls13 {label}".encode()
        info = n.to_bytes(2) + bytes([len(name)]) + name + b"\0"
        return hmac.digest(self._secret, info + b"\1", hashlib.sha384)[:n]  # HKDF-Expand of one block (RFC 5869)


def _expand_old(secret: bytes, seed: bytes, n: int) -> bytes:
    """The pseudorandom function of TLS 1.2 (RFC 5246 5)."""
    out, step = b"", seed
    while len(out) < n:
        step = hmac.digest(secret, step, hashlib.sha384)
        out += hmac.digest(secret, step + seed, hashlib.sha384)
    return out[:n]
