"""Who may open a tunnel, and for how long."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from fasttunnel import limits
from fasttunnel.control.addresses import Mistakes, host_of
from fasttunnel.control.config import Secret
from fasttunnel.control.exposure import exposure
from fasttunnel.control.permission import Permission
from fasttunnel.control.rates import Bucket
from fasttunnel.control.routes import Route
from fasttunnel.control.tokens import Token, digest_of, read_tokens
from fasttunnel.control.watch import FileWatch
from fasttunnel.errors import ConfigError, GrpcStatus

now = time.time  # wall clock, in seconds: tests replace it


class Refused(Exception):
    """A tunnel that is not to be: `status` and `text` are those of the call's end."""

    def __init__(self, status: GrpcStatus, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


class Identity:
    """Whom tokens of one name stand for. What is counted belongs to it, whichever of its tokens is used."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.requests = Bucket()
        self.bytes = Bucket()

    def __repr__(self) -> str:
        return f"Identity({self.name})"


class Login(msgspec.Struct, frozen=True):
    """What a tunnel was opened with: never the token, only its hash."""

    identity: Identity
    permission: Permission = Permission()
    digest: bytes = b""
    expires_s: float | None = None
    generation: int = 0  # of the tokens file
    certificate: str | None = None  # common name of the certificate that was shown beside it

    @property
    def party(self) -> str:
        """Routes are shared within a party: see RouteTable.add."""
        return "" if self.permission.shared else self.name

    def owner(self, client_id: str) -> str:
        """A client, whatever other identities call theirs."""
        return f"{self.name}/{client_id}"

    @property
    def name(self) -> str:
        """Of the identity, and of the certificate: both have to be the same to be the same."""
        return self.identity.name if self.certificate is None else f"{self.identity.name} {self.certificate!r}"

    @property
    def has_expired(self) -> bool:
        return self.expires_s is not None and now() >= self.expires_s


class Authenticator:
    """Knows the tokens: the one of --token-file, those of --tokens, or none, and then everybody is let in.

    A token is looked up by its SHA-256 in a dict, which takes a time that depends on that digest and on no other. To
    learn something from it one would have to choose tokens by their digests, and even a whole digest of a token of 256
    random bits is of no use to anybody. So nothing has to be compared in constant time.

    Raises ConfigError when the file cannot be used. Later the tokens of before are kept then, with a warning.
    """

    def __init__(
        self,
        token: Secret | None = None,
        tokens_file: str = "",
        *,
        max_failed_logins: int = limits.MAX_FAILED_LOGINS,
        warn: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._warn = warn
        self._failed = Mistakes(max_failed_logins, limits.FAILED_LOGINS_S)
        self._open = token is None and not tokens_file
        self._identities: dict[str, Identity] = {}
        self._holder = Identity("token")  # of the token, whichever that is
        self._own = self._login_of(token)
        self._anonymous = Login(Identity("anonymous"))
        self._logins: dict[bytes, Login] = dict(self._own)
        self._generation = 0
        self._path = Path(tokens_file)
        self._file: FileWatch | None = None
        self._tokens: dict[bytes, Token] = {}
        if tokens_file:
            self._file = FileWatch([tokens_file], self._read, warn)
            self._take(read_tokens(self._path))

    def _login_of(self, token: Secret | None) -> dict[bytes, Login]:
        if token is None:
            return {}
        digest = digest_of(token.reveal().encode())
        return {digest: Login(self._holder, digest=digest)}

    def prepare(self, token: Secret | None, tokens_file: str, *, max_failed_logins: int) -> Callable[[], None]:
        """What is returned makes these valid; tunnels notice at their next `renew`. Raises ConfigError."""
        path, own = Path(tokens_file), self._login_of(token)
        watch, tokens = self._file, self._tokens
        if path != self._path:
            watch = FileWatch([tokens_file], self._read, self._warn) if tokens_file else None
            tokens = read_tokens(path) if tokens_file else {}

        def put_in_force() -> None:
            self._failed.limit = max_failed_logins
            if (own.keys(), path) != (self._own.keys(), self._path):
                self._open, self._own = token is None and not tokens_file, own
                self._path, self._file = path, watch
                self._take(tokens)

        return put_in_force

    @property
    def changes(self) -> bool:
        """Whether tokens come and go: `poll` is to be called now and then."""
        return self._file is not None

    # -- tunnels

    def login(self, authorization: bytes | None, peer: str = "unknown", certificate: str | None = None) -> Login:
        """Who comes with this `authorization` metadata, `Bearer TOKEN`, from HOST:PORT. Raises Refused.

        `certificate` is the common name in the one that was shown, and verified.
        """
        if certificate == "":  # all of them would be one
            raise Refused(GrpcStatus.UNAUTHENTICATED, "the certificate has no common name")
        found = self._anonymous if self._open else self._known(authorization, peer)
        return found if certificate is None else msgspec.structs.replace(found, certificate=certificate)

    def _known(self, authorization: bytes | None, peer: str) -> Login:
        address = host_of(peer)
        if self._failed.barred(address):
            raise Refused(GrpcStatus.RESOURCE_EXHAUSTED, "too many failed logins from this address, try again later")
        scheme, _, token = (authorization or b"").partition(b" ")
        found = self._logins.get(digest_of(token.strip())) if scheme.lower() == b"bearer" else None
        if found is not None and not found.has_expired:
            return found
        if self._failed.add(address):
            self._warn(f"too many failed logins from {address}: none is looked at for {limits.FAILED_LOGINS_S:.0f} s")
        if found is not None:
            raise Refused(GrpcStatus.UNAUTHENTICATED, "the token has expired")
        text = "a token is required" if authorization is None else "the token is not valid"
        raise Refused(GrpcStatus.UNAUTHENTICATED, text)

    def renew(self, login: Login, client_id: str, routes: Iterable[Route]) -> Login:
        """What a tunnel's login is by now. Raises Refused when the tunnel has to end."""
        if login.generation == self._generation and login.has_expired:
            raise Refused(GrpcStatus.UNAUTHENTICATED, "the token has expired")
        if login.identity is self._anonymous.identity and not self._open:
            raise Refused(GrpcStatus.UNAUTHENTICATED, "a token is required")
        if login.generation == self._generation or login.identity is self._anonymous.identity:
            return login
        new = self._logins.get(login.digest)
        if new is None:
            raise Refused(GrpcStatus.UNAUTHENTICATED, "the token is no longer valid")
        if new.has_expired:
            raise Refused(GrpcStatus.UNAUTHENTICATED, "the token has expired")
        new = msgspec.structs.replace(new, certificate=login.certificate)
        if new.owner("") != login.owner("") or new.party != login.party:
            raise Refused(GrpcStatus.UNAVAILABLE, "the token has changed, register again")
        if text := new.permission.refusal(routes, client_id):
            raise Refused(GrpcStatus.PERMISSION_DENIED, text)
        return new

    # -- the file

    def poll(self, *, at_once: bool = False) -> None:
        """Read the tokens file again if it has changed, and been left alone since the last look, unless `at_once`."""
        if self._file is not None:
            self._file.check(at_once=at_once)

    def _read(self) -> None:
        try:
            self._take(read_tokens(self._path))
        except ConfigError as error:
            self._warn(f"{error}; the tokens of before stay valid")

    def _take(self, tokens: dict[bytes, Token]) -> None:
        if self._file is not None and (warning := exposure(self._path)):
            self._warn(warning)
        self._tokens = tokens
        self._generation += 1
        names = {token.name for token in tokens.values()}
        self._identities = {name: self._identities.get(name) or Identity(name) for name in names}
        self._logins = {digest: self._login(token) for digest, token in tokens.items()}
        self._logins |= {
            digest: msgspec.structs.replace(login, generation=self._generation) for digest, login in self._own.items()
        }

    def _login(self, token: Token) -> Login:
        identity = self._identities[token.name]
        identity.requests.change(token.requests_per_second)
        identity.bytes.change(token.bytes_per_second)
        return Login(identity, token.permission, token.digest, token.expires_s, self._generation)
