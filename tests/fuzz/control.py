"""Who may do what: the tokens file, and permissions beside a reading of their own."""

import contextlib
import datetime
import itertools
import random
import tomllib
from collections.abc import Callable
from typing import ClassVar

from fasttunnel.control.permission import Permission
from fasttunnel.control.routes import GRPC, PROTOCOLS, Route, RouteTable
from fasttunnel.control.tokens import Token, parse_tokens, token_lines
from fasttunnel.errors import ConfigError
from tests.fuzz.mutate import lines
from tests.fuzz.target import Finding, Target

SECRET = "kGyQ7vTz"  # stands where a token may have been put by mistake
HASH = "sha256:" + "0f" * 32
ENTRY = f'[[tokens]]\nname = "shop"\nhash = "{HASH}"\n'
OTHER = ENTRY.replace("0f", "f0")
ALL = """expires = 2030-01-01T01:00:00+01:00
hosts = ["Shop.example.", "*.shop.example", "b\\u00fccher.example", "[::1]"]
paths = ["/api/", "/"]
services = ["shop.Cart"]
client_ids = ["shop-1", '\\', "\\U0001F600\\u007f\\t"]
exclusive = false
shared = true
requests_per_second = 5
bytes_per_second = 2.5e6
"""
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


class Tokens(Target):
    """Texts: refused with ConfigError, or tokens; what they permit is the same when it is written down again."""

    name = "tokens"
    split = lines
    tokens: ClassVar[list[bytes]] = [
        text.encode()
        for text in (
            *(
                "[[tokens]]\n",
                "[tokens]\n",
                "[[tokens.x]]\n",
                "[]",
                "[[]]",
                "{}",
                '""',
                "''",
                '"""',
                "'''",
                "=",
                ".",
                "#",
            ),
            *("inf", "nan", "-1", "0", "1e400", "0x10", "9" * 400, "9007199254740993", "0.1", "1_000", "true"),
            *("2030-01-01", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59.999999-23:59", "12:00:00", "2030-02-30"),
            *(
                '"*."',
                '"[::1]"',
                '"a..b"',
                '"xn--"',
                '"\\u0000"',
                '"\\uD800"',
                '"\u2028"',
                '"\u00df.\u3002"',
                '"/%"',
                '"//"',
            ),
            *(
                "shared = true\n",
                "exclusive = true\n",
                "hosts = []\n",
                "paths = []\n",
                "tokens = []\n",
                "\r\n",
                "\ufeff",
            ),
            *(f'token = "{SECRET}"\n', "expires = 2030-01-01\n", 'name = "anonymous"\n', "[" * 2000),
        )
    ]

    def seeds(self) -> list[bytes]:
        some = [
            ENTRY,
            ENTRY + ALL,
            ENTRY + OTHER,
            ENTRY + ALL + OTHER + "shared = true\nrequests_per_second = 5\nbytes_per_second = 2_500_000\n",
            "tokens = []\n",
            f'tokens = [{{name = "a", hash = "{HASH}", hosts = ["*.a"], paths = [], expires = 2030-01-01}}]\n',
            ENTRY.replace("hash", "token").replace(HASH, SECRET),
            ENTRY.replace(HASH, SECRET),
            *(ENTRY + line for line in ALL.splitlines(keepends=True)),
        ]
        return [text.encode() for text in some]

    def check(self, chance: random.Random, data: bytes) -> None:
        text = data.decode("utf-8", "replace")
        try:
            found = parse_tokens(text)
        except ConfigError as error:
            why = f"{error} {error.detail} {error.hint}"
            if f'hash = "{SECRET}"' in text and text.count(SECRET) == 1 and SECRET in why:
                raise Finding(why) from error
            return
        assert len(found) == len(tomllib.loads(text)["tokens"])
        for digest, token in found.items():
            assert digest == token.digest
            with contextlib.suppress(OverflowError):  # it expires before the year 1, or behind 9999, in UTC
                [again] = parse_tokens(written(token)).values()
                assert again == token


def written(token: Token) -> str:
    """As `fasttunnel token` would write it."""
    of = token.permission
    when = None if token.expires_s is None else EPOCH + datetime.timedelta(seconds=token.expires_s)
    return token_lines(
        token.name,
        token.digest,
        expires=when,
        hosts=of.hosts,
        paths=of.paths,
        services=of.services,
        client_ids=of.client_ids,
        exclusive=of.exclusive,
        shared=of.shared,
        requests_per_second=token.requests_per_second or None,
        bytes_per_second=token.bytes_per_second or None,
    )


class Permissions(Target):
    """A line names a field of the token or of the route, and its values.

    The route is permitted exactly when every request that it gets is one that the token names. Requests that could tell
    are made from its host and its prefix; the oracle reads both by itself.
    """

    name = "permission"
    split = lines
    tokens: ClassVar[list[bytes]] = [
        text.encode()
        for text in (
            *(
                "hosts",
                "paths",
                "services",
                "client_ids",
                "exclusive",
                "shared",
                "host",
                "path",
                "service",
                "protocols",
            ),
            *(
                " a",
                " *.a",
                " a.b",
                " *.a.b",
                " xa.b",
                " b",
                " *.b",
                " *.x.a.b",
                " [::1]",
                " *.1",
                " A.b.",
                " b\u00fc.b",
            ),
            *(" /", " /x", " /x/y", " /xy", " /x/", " //x", " /p.S", " /p.S/M", " /p", " p.S", " p.SS", " p", " p.S.T"),
            *(" 1", " 2", " 3", " client-0123456789ab", " me", "\n"),
        )
    ]

    def seeds(self) -> list[bytes]:
        some = [
            "host a.b\npath /x\n",
            "hosts a.b *.a.b\nhost *.x.a.b\npath /x/y\n",
            "hosts\nhost a.b\n",
            "hosts *.b\nhost\n",
            "paths /x\npath /x/y\nprotocols 1 3\n",
            "paths /x /p.S\nservice p.S\n",
            "paths /x\nservices p.S p.T\nservice p.S\nprotocols 2\n",
            "services p.S\npath /p.S/M\nprotocols 2\n",
            "services\npaths /\nprotocols 1 3\n",
            "services p.S\nservice p.S\npath /p.S/M\n",
            "exclusive no\nhost a\nwanted exclusive\n",
            "client_ids me you\nid me\n",
            "client_ids me\nid client-0123456789ab\n",
        ]
        return [text.encode() for text in some]

    def check(self, chance: random.Random, data: bytes) -> None:
        said = {words[0]: words[1:] for line in data.decode("utf-8", "replace").splitlines() if (words := line.split())}
        if any(len(word) > 60 for words in said.values() for word in words):
            return  # a name of a request has a longest length too
        try:
            # Into the normal form as the tokens file does it, each by a route.
            hosts = values(said, "hosts", lambda text: Route(host=text).host)
            paths = values(said, "paths", lambda text: Route(path_prefix=text).path_prefix)
            services = values(said, "services", lambda text: Route(grpc_service=text).grpc_service)
            route = Route(
                host=first(said, "host"),
                path_prefix=first(said, "path"),
                grpc_service=first(said, "service"),
                protocols=tuple(int(word) for word in said.get("protocols", ()) if word.isdecimal()),
                exclusive="wanted" in said,
            )
        except ConfigError:
            return
        ids = values(said, "client_ids", str)
        permission = Permission(
            hosts=hosts, paths=paths, services=services, client_ids=ids, exclusive="exclusive" not in said
        )
        check_route(permission, route)
        id = first(said, "id")
        given = id[:7] == "client-" and len(id) == 19 and set(id[7:]) <= set("0123456789abcdef")
        assert (permission.refusal([], id) is None) == (ids is None or given or id in ("", *ids))


def first(said: dict[str, list[str]], key: str) -> str:
    return next(iter(said.get(key, ())), "")


def values(said: dict[str, list[str]], key: str, normal: Callable[[str], str]) -> tuple[str, ...] | None:
    return tuple(normal(word) for word in said[key]) if key in said else None


def check_route(permission: Permission, route: Route) -> None:
    table: RouteTable[str] = RouteTable()
    table.add("target", [route])
    gets = []
    for asked in requests(permission, route):
        assert (table.match(*asked) is not None) == takes(route, *asked), asked
        if takes(route, *asked):
            gets.append(asked)
    beyond = [asked for asked in gets if not names(permission, *asked)]
    refusal = permission.refusal([route])
    forbidden = route.exclusive and not permission.exclusive
    if refusal is None:
        assert not beyond, f"{route} gets {beyond[0]}"
        assert not forbidden
    elif gets and not forbidden:
        assert beyond, f"{refusal}, but why?"


def requests(permission: Permission, route: Route) -> list[tuple[int, str, str]]:
    """Of every host that is named, and below it, and of another one; of every prefix, beside and below it."""
    hosts, paths = {"zz"}, {"/", "/zz"}
    for pattern in (route.host, *(permission.hosts or ())):
        bare = pattern.removeprefix("*.")
        hosts |= {bare} if bare[:1] in ("", "[") else {bare, f"zz.{bare}", f"zz.zz.{bare}", f"zz{bare}"}
    services = [f"/{service}" for service in (route.grpc_service, *(permission.services or ())) if service]
    for prefix in (route.path_prefix, *(permission.paths or ()), *services):
        paths |= {each for each in (prefix, f"{prefix}/", f"{prefix}/zz", f"{prefix}zz") if each[:1] == "/"}
    return list(itertools.product(PROTOCOLS, sorted(hosts - {""}), sorted(paths)))


def takes(route: Route, protocol: int, host: str, path: str) -> bool:
    if route.protocols and protocol not in route.protocols:
        return False
    if route.grpc_service and not (protocol == GRPC and below(f"/{route.grpc_service}", path)):
        return False
    return (not route.host or of_host(route.host, host)) and below(route.path_prefix, path)


def names(permission: Permission, protocol: int, host: str, path: str) -> bool:
    """Whether the token names a request."""
    if permission.hosts is not None and not any(of_host(pattern, host) for pattern in permission.hosts):
        return False
    if protocol == GRPC and permission.services is not None:
        return any(below(f"/{service}", path) for service in permission.services)
    return permission.paths is None or any(below(prefix, path) for prefix in permission.paths)


def of_host(pattern: str, host: str) -> bool:
    if pattern[:2] != "*.":
        return host == pattern
    labels, suffix = host.split("."), pattern[2:].split(".")
    return len(labels) > len(suffix) and labels[-len(suffix) :] == suffix


def below(prefix: str, path: str) -> bool:
    """By segments."""
    segments = prefix.split("/")
    return path.split("/")[: len(segments)] == segments


CONTROL: list[type[Target]] = [Tokens, Permissions]
