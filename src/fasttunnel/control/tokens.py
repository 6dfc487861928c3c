"""The tokens file: who may open a tunnel, what for and how much, in TOML. It holds hashes, no tokens.

    [[tokens]]
    name = "shop"                                 # the identity; old and new token of one name are valid together
    hash = "sha256:9f86d081884c7d659a2f..."       # made by `fasttunnel token`
    expires = 2027-01-31T12:00:00Z
    hosts = ["shop.example.com", "*.shop.example.com"]
    paths = ["/api"]
    services = ["shop.Cart"]
    client_ids = ["shop-1", "shop-2"]
    exclusive = false
    shared = false
    requests_per_second = 100
    bytes_per_second = 10_000_000

All but name and hash may be left away, see `Permission`.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import math
import re
import secrets
import tomllib
from pathlib import Path
from typing import Annotated, Any

import msgspec

from fasttunnel import limits
from fasttunnel.control.permission import Permission
from fasttunnel.control.routes import Route, check_host
from fasttunnel.errors import ConfigError

Rate = Annotated[float, msgspec.Meta(gt=0, le=2**53)]
Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9._-]{1,64}\Z")]
Names = Annotated[tuple[str, ...], msgspec.Meta(max_length=limits.ROUTES_PER_CLIENT)]

PREFIX = "ft_"  # of the tokens that we make: by it, and by what scans for secrets, they are known
RESERVED = ("token", "anonymous")  # identities of --token-file, and of those who need no token
_HASH = re.compile(r"sha256:([0-9a-f]{64})")


class TokenEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One `[[tokens]]`, as it stands in the file."""

    name: Name
    hash: str
    expires: Any = None
    hosts: Names | None = None
    paths: Names | None = None
    services: Names | None = None
    client_ids: Names | None = None
    exclusive: bool = True
    shared: bool = False
    requests_per_second: Rate | None = None
    bytes_per_second: Rate | None = None


class TokensFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file."""

    tokens: list[TokenEntry]


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """A token of the file, checked."""

    name: str
    digest: bytes  # SHA-256
    permission: Permission
    expires_s: float | None = None  # of time.time()
    requests_per_second: float = 0.0  # 0: no limit
    bytes_per_second: float = 0.0


def digest_of(token: bytes) -> bytes:
    """What is kept of a token.

    A plain SHA-256 does: nobody finds 256 random bits by trying, so there is nothing that salt or a slow hash, which
    are for passwords, could add.
    """
    return hashlib.sha256(token).digest()


def new_token() -> str:
    """A random token."""
    return PREFIX + secrets.token_urlsafe(limits.TOKEN_BYTES)


def read_tokens(path: Path) -> dict[bytes, Token]:
    """The tokens of a file by their digests. Raises ConfigError, which says where, and shows no value of the file."""
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read the tokens file {path}", detail=error.strerror, file=str(path)) from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8", file=str(path)) from None
    try:
        return parse_tokens(text)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error.message}", detail=error.detail, hint=error.hint, file=str(path)) from None


def parse_tokens(text: str) -> dict[bytes, Token]:
    """The same of a text."""
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # also numbers too long, and nested too deep
        raise ConfigError(
            "it is not TOML", detail=str(error), hint="it holds [[tokens]], and no tokens as such"
        ) from None
    if "tokens" not in table:
        raise ConfigError("it holds no [[tokens]]", hint="`fasttunnel token NAME` makes some; tokens = [] is for none")
    try:
        entries = msgspec.convert(table, TokensFile).tokens
    except msgspec.ValidationError as error:
        entries = table["tokens"] if isinstance(table["tokens"], list) else []
        plain = any("token" in entry for entry in entries if isinstance(entry, dict))
        hint = (
            "a token itself does not belong here: `fasttunnel token NAME --hash` makes a hash of it" if plain else None
        )
        raise ConfigError(str(error), hint=hint) from None
    tokens: dict[bytes, Token] = {}
    terms: dict[str, tuple[object, ...]] = {}
    for index, entry in enumerate(entries):
        where = f"tokens[{index}], {entry.name}"
        token = _check(entry, where)
        if token.digest in tokens:
            raise ConfigError(f"{where}: its hash is there twice")
        tokens[token.digest] = token
        # They are one identity with one bucket, and its clients share routes.
        agreed = (token.requests_per_second, token.bytes_per_second, token.permission.shared)
        if terms.setdefault(token.name, agreed) != agreed:
            raise ConfigError(
                f"{where}: another token of this name has other limits",
                hint="requests_per_second, bytes_per_second and shared are those of the name",
            )
    return tokens


def _check(entry: TokenEntry, where: str) -> Token:
    if entry.name in RESERVED:
        raise ConfigError(f"{where}: the name is taken, by those who have no token of this file")
    match = _HASH.fullmatch(entry.hash)
    if match is None:
        raise ConfigError(  # without the value: it may be a token
            f"{where}: its hash is not sha256: and 64 lower-case hexadecimal digits",
            hint=f"make it with `fasttunnel token {entry.name} --hash`, which reads the token",
        )
    try:
        permission = Permission(
            hosts=_each(entry.hosts, _host),
            paths=_each(entry.paths, lambda path: Route(path_prefix=path).path_prefix),
            services=_each(entry.services, _service),
            client_ids=entry.client_ids,
            exclusive=entry.exclusive,
            shared=entry.shared,
        )
        expires_s = _moment(entry.expires)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error.message}", detail=error.detail, hint=error.hint) from None
    return Token(
        name=entry.name,
        digest=bytes.fromhex(match[1]),
        permission=permission,
        expires_s=expires_s,
        requests_per_second=entry.requests_per_second or 0.0,
        bytes_per_second=entry.bytes_per_second or 0.0,
    )


def _each(values: tuple[str, ...] | None, check: Any) -> tuple[str, ...] | None:
    return None if values is None else tuple(check(value) for value in values)


def _host(host: str) -> str:
    if not host:
        raise ConfigError("an empty host cannot be used", hint="leave hosts away to permit all")
    return check_host(host)


def _service(service: str) -> str:
    if not service:
        raise ConfigError("an empty service cannot be used", hint="leave services away to permit all")
    return Route(grpc_service=service).grpc_service


def _moment(value: object) -> float | None:
    """When it ends, in seconds of time.time(). A day begins at midnight, and what has no time zone is in UTC."""
    if value is None:
        return None
    if isinstance(value, datetime.date) and not isinstance(value, datetime.datetime):
        value = datetime.datetime(value.year, value.month, value.day)
    if not isinstance(value, datetime.datetime):
        raise ConfigError("expires is not a date", hint="it looks like 2027-01-31 or 2027-01-31T12:00:00Z, unquoted")
    if value.tzinfo is None:
        value = value.replace(tzinfo=datetime.UTC)
    return value.timestamp()


def token_lines(name: str, digest: bytes, **fields: object) -> str:
    """`[[tokens]]` for a file; `fields` are those of TokenEntry that are set. Raises ConfigError for what cannot be."""
    values = {"name": name, "hash": f"sha256:{digest.hex()}", **fields}
    lines = [f"{key} = {_toml(value)}" for key, value in values.items() if value is not None]
    text = "\n".join(["[[tokens]]", *lines]) + "\n"
    parse_tokens(text)
    return text


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(int(value)) if math.isfinite(value) and value == int(value) else repr(value)
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml(each) for each in value) + "]"
    if isinstance(value, datetime.date):
        return value.isoformat()
    # A basic string of TOML is written as one of JSON, but for this character.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
