"""The route table: which client gets a request."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fasttunnel import limits
from fasttunnel.control.routes import GRPC, HTTP, PROTOCOLS, WEBSOCKET, Route, RouteTable, at_host, normal_host
from fasttunnel.errors import ConfigError, RouteTaken


class Target:
    """Stands for a client; compared by identity."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name


def table(**routes: Route) -> RouteTable[str]:
    """A table with one target per route, named by the keyword."""
    made: RouteTable[str] = RouteTable()
    for name, route in routes.items():
        made.add(name, [route])
    return made


def target(found: tuple[Route, str] | None) -> str | None:
    return None if found is None else found[1]


def test_longest_match_wins() -> None:
    routes = table(
        everything=Route(),
        api=Route(path_prefix="/api"),
        api_v1=Route(path_prefix="/api/v1/"),
        wild=Route(host="*.example.com"),
        deep=Route(host="*.a.example.com"),
        exact=Route(host="www.example.com", path_prefix="/only"),
    )
    for host, path, expected in [
        ("other", "/", "everything"),
        ("other", "/api", "api"),
        ("other", "/api/", "api"),
        ("other", "/apix", "everything"),
        ("other", "/api/v1/x", "api_v1"),
        ("other", "/api/v10", "api"),
        ("example.com", "/", "everything"),
        ("x.example.com", "/api", "wild"),
        ("y.x.example.com", "/", "wild"),
        ("y.a.example.com", "/", "deep"),
        ("www.example.com", "/only/x", "exact"),
        ("www.example.com", "/", "wild"),
        ("", "/", "everything"),
        ("other", "*", "everything"),
        ("other", "", "everything"),
    ]:
        assert target(routes.match(HTTP, host, path)) == expected, (host, path)


@pytest.mark.parametrize(
    "host", ["www.example.com", "WWW.Example.Com", "www.example.com.", "www.example.com:8080", "www.EXAMPLE.com.:1"]
)
def test_host_as_sent(host: str) -> None:
    assert target(table(here=Route(host="www.example.com")).match(HTTP, host, "/")) == "here"


@pytest.mark.parametrize(
    ("sent", "normal"),
    [("[::1]:8080", "[::1]"), ("[::1]", "[::1]"), ("[::1", ""), ("A:1:2", "a"), (":80", ""), ("", "")],
)
def test_normal_host(sent: str, normal: str) -> None:
    assert normal_host(sent) == normal


def test_grpc_by_service() -> None:
    routes = table(
        rest=Route(protocols=(GRPC,)),
        cart=Route(grpc_service="shop.Cart"),
        add=Route(path_prefix="/shop.Cart/Add"),
        web=Route(protocols=(HTTP,)),
    )
    assert target(routes.match(GRPC, "h", "/shop.Cart/Remove")) == "cart"
    assert target(routes.match(GRPC, "h", "/shop.Cart/Add")) == "add"
    assert target(routes.match(GRPC, "h", "/shop.CartX/Remove")) == "rest"
    assert target(routes.match(HTTP, "h", "/shop.Cart/Remove")) == "web"
    assert routes.match(WEBSOCKET, "h", "/shop.Cart/Remove") is None


def test_named_service_wins_over_equal_prefix_and_named_protocol_over_none() -> None:
    routes = table(prefix=Route(path_prefix="/a.B", protocols=(GRPC,)), service=Route(grpc_service="a.B"))
    assert target(routes.match(GRPC, "", "/a.B/C")) == "service"
    routes = table(all=Route(path_prefix="/a"), http=Route(path_prefix="/a", protocols=(HTTP, WEBSOCKET)))
    assert target(routes.match(HTTP, "", "/a")) == "http"
    assert target(routes.match(GRPC, "", "/a")) == "all"


def test_equal_routes_take_turns() -> None:
    routes: RouteTable[str] = RouteTable()
    same = Route(host="a", protocols=(HTTP,))
    for name in ("one", "two", "three"):
        routes.add(name, [same])
    assert [target(routes.match(HTTP, "a", "/")) for _ in range(6)] == ["one", "two", "three"] * 2
    routes.remove("two")
    assert [target(routes.match(HTTP, "a", "/")) for _ in range(4)] == ["one", "three"] * 2
    routes.remove("one")
    routes.remove("three")
    assert routes.match(HTTP, "a", "/") is None


def test_each_target_gets_its_own_route() -> None:
    routes: RouteTable[str] = RouteTable()
    routes.add("one", [Route(path_prefix="/a", strip_prefix=True)])
    routes.add("two", [Route(path_prefix="/a", host_rewrite="b")])
    found = [routes.match(HTTP, "", "/a") for _ in range(2)]
    assert [(route.strip_prefix, route.host_rewrite, name) for route, name in found if route] == [
        (True, "", "one"),
        (False, "b", "two"),
    ]


def test_exclusive() -> None:
    routes = table(holder=Route(host="a", exclusive=True), other=Route(host="b"))
    with pytest.raises(RouteTaken, match="route a .* taken"):
        routes.add("late", [Route(host="c"), Route(host="a", protocols=(HTTP,))])
    assert routes.match(HTTP, "c", "/") is None, "all or nothing"
    with pytest.raises(RouteTaken):
        routes.add("late", [Route(host="b", exclusive=True)])
    routes.add("late", [Route(host="a", path_prefix="/x"), Route(host="*.a")])
    routes.add("holder", [Route(host="a", protocols=(HTTP,))])  # no quarrel with oneself
    routes.remove("holder")
    routes.add("late", [Route(host="a")])
    assert target(routes.match(HTTP, "a", "/")) == "late"


def test_parties_do_not_share_routes() -> None:
    routes: RouteTable[str] = RouteTable()
    routes.add("one", [Route(host="a")], owner="x/one", party="x")
    routes.add("two", [Route(host="a")], owner="x/two", party="x")
    for party in ("y", ""):
        with pytest.raises(RouteTaken) as taken:
            routes.add("three", [Route(host="b"), Route(host="a", protocols=(HTTP,))], owner="y/three", party=party)
        assert "one" not in str(taken.value)

    assert routes.match(HTTP, "b", "/") is None, "all or nothing"
    routes.add("three", [Route(host="a", path_prefix="/p"), Route(host="*.a"), Route()], owner="y/three", party="y")
    routes.remove("one")
    routes.remove("two")
    routes.add("three", [Route(host="a")], owner="y/three", party="y")
    assert target(routes.match(HTTP, "a", "/")) == "three"


def test_routes_lists_what_is_up() -> None:
    routes: RouteTable[str] = RouteTable()
    routes.add("one", [Route(host="a"), Route(host="b")])
    routes.add("two", [Route(host="a")])
    assert [(str(route), name) for route, name in routes.routes()] == [("a", "one"), ("b", "one"), ("a", "two")]
    routes.remove("one")
    routes.remove("never added")
    assert [name for _, name in routes.routes()] == ["two"]


def test_nothing_is_left_of_removed_routes() -> None:
    routes: RouteTable[str] = RouteTable()
    for _ in range(3):
        routes.add("one", [Route(host="a", path_prefix="/x"), Route(grpc_service="p.S"), Route()])
        assert routes.match(HTTP, "a", "/x") is not None
        routes.remove("one")
        assert routes.match(HTTP, "a", "/x") is None
    assert not routes._levels
    assert not routes._routes


def test_hostile_hosts_are_not_remembered_without_bound() -> None:
    routes = table(here=Route(host="*.example.com"))
    for number in range(20_000):
        routes.match(HTTP, f"h{number}", "/")
    routes.match(HTTP, "x" * 100_000, "/")
    assert routes.match(HTTP, "." * 100_000, "/") is None
    assert len(routes._candidates[HTTP]) <= 4096
    assert all(len(host) <= 255 for host in routes._candidates[HTTP])
    assert target(routes.match(HTTP, "a.example.com", "/")) == "here"


@pytest.mark.parametrize("protocol", [0, 4, 5, 99, -1])
def test_unknown_protocol_matches_nothing(protocol: int) -> None:
    assert table(everything=Route()).match(protocol, "a", "/") is None


@pytest.mark.parametrize(
    "fields",
    [
        {"host": "a b"},
        {"host": "*"},
        {"host": "a:1"},
        {"host": "x" * 256},
        {"path_prefix": "api"},
        {"path_prefix": "/a#b"},
        {"path_prefix": "/ü"},
        {"grpc_service": "a/b"},
        {"grpc_service": "a.B", "path_prefix": "/other"},
        {"protocols": (4,)},
        {"host_rewrite": "a\r\nb"},
        {"host_rewrite": "*.a"},
    ],
)
def test_a_route_that_cannot_be_used(fields: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        Route(**fields)  # type: ignore[arg-type]


def test_route_message_and_back() -> None:
    route = Route(
        host="*.a", path_prefix="/x", strip_prefix=True, host_rewrite="b:1", protocols=(HTTP, GRPC), exclusive=True
    )
    assert Route.from_message(route.to_message()) == route
    assert Route.from_message(Route(grpc_service="a.B").to_message()) == Route(grpc_service="a.B")


@pytest.mark.parametrize(
    ("route", "text", "url"),
    [
        (Route(), "everything", "http://127.0.0.1:8080"),
        (Route(protocols=(GRPC,)), "everything", "grpc://127.0.0.1:8080"),
        (Route(host="*.a", path_prefix="/x"), "*.a/x", "http://*.a:8080/x"),
        (Route(grpc_service="p.S", protocols=(GRPC,)), "/p.S", "grpc://127.0.0.1:8080/p.S"),
    ],
)
def test_in_words(route: Route, text: str, url: str) -> None:
    assert str(route) == text
    assert route.url("127.0.0.1", 8080) == url


# -- against a naive oracle -------------------------------------------------------------------------------------------

NAMES = st.sampled_from(["", "a", "b.a", "c.b.a", "d"])
HOSTS = NAMES | st.sampled_from(["*.a", "*.b.a"])
PREFIXES = st.sampled_from(["", "/", "/p", "/p/", "/p/q", "/pq", "/s.S", "/s.S/M", "/t.T"])
SERVICES = st.sampled_from(["", "", "s.S", "t.T"])
PATHS = st.sampled_from(["/", "/p", "/p/", "/p/q", "/p/qx", "/pq", "/s.S/M", "/s.S/N", "/s.SS/M", "/t.T", "*", ""])
PROTOCOL_SETS = st.sets(st.sampled_from(list(PROTOCOLS))).map(lambda numbers: tuple(sorted(numbers)))


@st.composite
def route(draw: st.DrawFn) -> Route:
    service = draw(SERVICES)
    prefix = draw(PREFIXES)
    if service and not f"{prefix}/".startswith((f"/{service}/", "//")):
        prefix = ""
    return Route(host=draw(HOSTS), path_prefix=prefix, grpc_service=service, protocols=draw(PROTOCOL_SETS))


def rank(route: Route, protocol: int, host: str, path: str) -> tuple[object, ...] | None:
    """How well a route fits, straight from the text of the contract; None when it does not."""
    if route.host.startswith("*."):
        host_rank = (1, len(route.host)) if host.endswith(route.host[1:]) else None
    else:
        host_rank = (2, 0) if host and route.host == host else (0, 0) if not route.host else None
    spans = [0]
    for prefix in [route.path_prefix, f"/{route.grpc_service}" if route.grpc_service else ""]:
        if prefix and not (path == prefix or path.startswith(prefix + "/")):
            return None
        spans.append(len(prefix))
    if host_rank is None or (route.grpc_service and protocol != GRPC) or protocol not in (route.protocols or PROTOCOLS):
        return None
    return (host_rank, max(spans), bool(route.grpc_service), bool(route.protocols))


@given(
    held=st.lists(st.lists(route(), max_size=3), max_size=6),
    gone=st.sets(st.integers(0, 5)),
    requests=st.lists(st.tuples(st.sampled_from(list(PROTOCOLS)), NAMES, PATHS), min_size=1, max_size=10),
)
def test_against_oracle(held: list[list[Route]], gone: set[int], requests: list[tuple[int, str, str]]) -> None:
    targets = [Target(str(index)) for index in range(len(held))]
    routes: RouteTable[Target] = RouteTable()
    for each, its_routes in zip(targets, held, strict=True):
        routes.add(each, its_routes)
    for protocol, host, path in requests:
        routes.match(protocol, host, path)  # fills the cache, which the removal must empty
    for index in gone & set(range(len(held))):
        routes.remove(targets[index])
    up = [(each, its_route) for index, each in enumerate(targets) if index not in gone for its_route in held[index]]
    for protocol, host, path in requests:
        ranked = [(found, each, its) for each, its in up if (found := rank(its, protocol, host, path)) is not None]
        best = max((found for found, _, _ in ranked), default=None)
        fair = {(id(each), its) for found, each, its in ranked if found == best}
        # As many turns as there are equal ones: each of them gets its turn, and nobody else.
        found = [routes.match(protocol, host, path) for _ in range(max(len(fair), 1))]
        assert {(id(each), its) for its, each in filter(None, found)} == fair
        assert not fair or None not in found


# -- routes that take everything

SOME_ROUTES = [
    Route(),
    Route(protocols=(HTTP,)),
    Route(protocols=(GRPC, WEBSOCKET)),
    Route(path_prefix="/api"),
    Route(grpc_service="pkg.Service"),
    Route(host="example.com"),
    Route(host="*.example.com", protocols=(HTTP,)),
]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sets(st.sampled_from(SOME_ROUTES), max_size=2)), max_size=8))
def test_match_any_is_match(steps: list[tuple[str, set[Route]]]) -> None:
    """After whatever came and went, and with the same turns; an empty set removes a target."""
    fast: RouteTable[str] = RouteTable()
    slow: RouteTable[str] = RouteTable()
    for name, routes in steps:
        for made in (fast, slow):
            made.remove(name)
            if routes:
                made.add(name, sorted(routes, key=str))
        for protocol in PROTOCOLS:
            for host, path in [
                ("", "/"),
                ("example.com", "/api/x"),
                ("a.example.com:80", "/pkg.Service/Get"),
                ("x", ""),
            ]:
                found = fast.match_any(protocol)
                if found is not None:
                    assert slow.match(protocol, host, path) == found
            depends = any(
                route.host or route.path_prefix or (route.grpc_service and protocol == GRPC)
                for route, _ in fast.routes()
                if not route.protocols or protocol in route.protocols
            )
            served = any(
                not route.protocols or protocol in route.protocols
                for route, _ in fast.routes()
                if not route.grpc_service or protocol == GRPC
            )
            assert (fast.match_any(protocol) is not None) == (served and not depends)
            if served and not depends:
                slow.match(protocol, "", "/")  # the turn that match_any has taken


def test_match_any_takes_turns() -> None:
    routes = table(a=Route(), b=Route(), c=Route())
    assert [target(routes.match_any(HTTP)) for _ in range(4)] == ["a", "b", "c", "a"]
    assert target(routes.match(HTTP, "x", "/")) == "b"
    routes.remove("c")
    assert [target(routes.match_any(HTTP)) for _ in range(3)] == ["a", "b", "a"]
    routes.add("d", [Route(path_prefix="/d")])
    assert routes.match_any(HTTP) is None
    assert routes.match_any(4) is None
    routes.remove("d")
    assert target(routes.match_any(HTTP)) is not None


def test_a_row_of_many_routes_is_searched_by_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    """They have the first segment in common: a Register with as many as there may be holds nobody up."""
    looks = 0

    def looked(bucket: Any) -> Any:
        nonlocal looks
        looks += 1
        return bucket.order

    monkeypatch.setattr("fasttunnel.control.routes._order_of", looked)
    routes: RouteTable[str] = RouteTable()
    many = [Route(path_prefix=f"/a/{number}") for number in range(limits.ROUTES_PER_CLIENT)]
    routes.add("x", many, "x")
    routes.add("y", many[:10], "x")
    routes.remove("x")
    assert looks < 20 * 3 * 2 * len(many)
    assert target(routes.match(HTTP, "h", "/a/7/b")) == "y"
    assert routes.match(HTTP, "h", "/a/11") is None


def test_urls_of_a_server_that_listens_everywhere() -> None:
    assert at_host("http://0.0.0.0:80/a", "t.example") == "http://t.example:80/a"
    assert at_host("grpcs://[::]:443/a.S", "::1") == "grpcs://[::1]:443/a.S"
    assert at_host("http://10.0.0.0:80", "t.example") == "http://10.0.0.0:80"
