"""What a token permits: a route is permitted if every request that it takes is one that the token names."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fasttunnel.control.permission import Permission
from fasttunnel.control.routes import GRPC, HTTP, PROTOCOLS, WEBSOCKET, Route, RouteTable

WEB = (HTTP, WEBSOCKET)


@pytest.mark.parametrize(
    ("permission", "route", "permitted"),
    [
        (Permission(), Route(), True),
        (Permission(), Route(host="a.b", path_prefix="/x", exclusive=True), True),
        # hosts
        (Permission(hosts=("a.b",)), Route(host="A.B."), True),
        (Permission(hosts=("a.b",)), Route(host="x.a.b"), False),
        (Permission(hosts=("a.b",)), Route(host="*.a.b"), False),
        (Permission(hosts=("a.b",)), Route(), False),
        (Permission(hosts=("*.a.b",)), Route(host="x.a.b"), True),
        (Permission(hosts=("*.a.b",)), Route(host="x.y.a.b"), True),
        (Permission(hosts=("*.a.b",)), Route(host="*.a.b"), True),
        (Permission(hosts=("*.a.b",)), Route(host="*.x.a.b"), True),
        (Permission(hosts=("*.a.b",)), Route(host="*.b"), False),
        (Permission(hosts=("*.a.b",)), Route(host="a.b"), False),
        (Permission(hosts=("*.a.b",)), Route(host="xa.b"), False),
        (Permission(hosts=("*.a.b",)), Route(), False),
        (Permission(hosts=("*.a.b", "a.b")), Route(host="a.b"), True),
        (Permission(hosts=()), Route(host="a.b"), False),
        # paths, of HTTP and WebSocket, and of calls where no services are named
        (Permission(paths=("/api",)), Route(path_prefix="/api", protocols=WEB), True),
        (Permission(paths=("/api",)), Route(path_prefix="/api/v1", protocols=WEB), True),
        (Permission(paths=("/api",)), Route(path_prefix="/apix", protocols=WEB), False),
        (Permission(paths=("/api",)), Route(protocols=WEB), False),
        (Permission(paths=("",)), Route(protocols=WEB), True),
        (Permission(paths=()), Route(path_prefix="/api", protocols=WEB), False),
        (Permission(paths=("/api",)), Route(path_prefix="/api"), True),
        (Permission(paths=("/api",)), Route(protocols=(GRPC,)), False),
        (Permission(paths=("/api",)), Route(grpc_service="p.S", protocols=(GRPC,)), False),
        (Permission(paths=("/p.S",)), Route(grpc_service="p.S", protocols=(GRPC,)), True),
        # services
        (Permission(services=("p.S",)), Route(grpc_service="p.S", protocols=(GRPC,)), True),
        (Permission(services=("p.S",)), Route(grpc_service="p.S"), True),
        (Permission(services=("p.S",)), Route(path_prefix="/p.S/M", protocols=(GRPC,)), True),
        (Permission(services=("p.S",)), Route(grpc_service="p.SS", protocols=(GRPC,)), False),
        (Permission(services=("p.S",)), Route(protocols=(GRPC,)), False),
        (Permission(services=("p.S",)), Route(), False),
        (Permission(services=("p.S",)), Route(protocols=WEB), True),
        (Permission(services=(), paths=("",)), Route(protocols=WEB), True),
        (Permission(services=(), paths=("",)), Route(protocols=(GRPC,)), False),
        (Permission(services=("p.S",), paths=("/api",)), Route(grpc_service="p.S"), True),
        (Permission(services=("p.S",), paths=("/p.T",)), Route(grpc_service="p.T"), False),
        # exclusivity
        (Permission(exclusive=False), Route(host="a", exclusive=True), False),
        (Permission(exclusive=False), Route(host="a"), True),
    ],
)
def test_routes(permission: Permission, route: Route, permitted: bool) -> None:
    assert (permission.refusal([route]) is None) is permitted
    assert (permission.refusal([Route(host="a.b", path_prefix="/api/x", protocols=WEB), route]) is None) <= permitted


def test_a_refusal_names_the_route_and_nothing_else() -> None:
    permission = Permission(hosts=("mine.example", "*.other.example"), client_ids=("me",))
    text = permission.refusal([Route(host="mine.example"), Route(host="yours.example", path_prefix="/x")])
    assert text is not None
    assert "yours.example/x" in text
    assert "mine" not in text
    assert "other" not in text


def test_client_ids() -> None:
    permission = Permission(client_ids=("a", "b"))
    assert permission.refusal([], "a") is None
    assert permission.refusal([], "") is None, "the server gives it a name"
    assert permission.refusal([], "client-0123456789ab") is None, "such as this one, under which it comes back"
    assert "client_id c" in (permission.refusal([], "c") or "")
    assert permission.refusal([], "client-x")
    assert Permission().refusal([], "c") is None


LABELS = st.sampled_from(["a", "b", "c"])
HOSTS = st.lists(LABELS, min_size=1, max_size=3).map(".".join)
PATTERNS = st.builds(lambda wild, host: f"*.{host}" if wild else host, st.booleans(), HOSTS)
PATHS = st.lists(st.sampled_from(["x", "y", "p.S", "p.T"]), max_size=3).map(
    lambda parts: "".join(f"/{p}" for p in parts)
)
SERVICES = st.sampled_from(["p.S", "p.T"])
GIVEN_PROTOCOLS = st.sets(st.sampled_from(list(PROTOCOLS))).map(tuple)
ROUTES = st.one_of(
    st.builds(Route, host=st.one_of(st.just(""), PATTERNS), path_prefix=PATHS, protocols=GIVEN_PROTOCOLS),
    st.builds(Route, host=st.one_of(st.just(""), PATTERNS), grpc_service=SERVICES, protocols=GIVEN_PROTOCOLS),
)


def sets(values: st.SearchStrategy[str]) -> st.SearchStrategy[tuple[str, ...] | None]:
    return st.one_of(st.none(), st.lists(values, max_size=3).map(tuple))


def allows(permission: Permission, protocol: int, host: str, path: str) -> bool:
    """The same said of a request, by the table that routes them."""

    def covered(routes: list[Route]) -> bool:
        table: RouteTable[str] = RouteTable()
        table.add("target", routes)
        return table.match(protocol, host, path) is not None

    if permission.hosts is not None and not covered([Route(host=pattern) for pattern in permission.hosts]):
        return False
    if protocol == GRPC and permission.services is not None:
        return covered([Route(grpc_service=service) for service in permission.services])
    return permission.paths is None or covered([Route(path_prefix=path) for path in permission.paths])


@given(
    st.builds(Permission, hosts=sets(PATTERNS), paths=sets(PATHS), services=sets(SERVICES)),
    ROUTES,
    st.sampled_from(list(PROTOCOLS)),
    st.one_of(st.just("z"), HOSTS),
    PATHS.map(lambda path: path + "/m"),
)
def test_no_permitted_route_takes_a_request_that_is_not_permitted(
    permission: Permission, route: Route, protocol: int, host: str, path: str
) -> None:
    table: RouteTable[str] = RouteTable()
    table.add("target", [route])
    if permission.refusal([route]) is None and table.match(protocol, host, path) is not None:
        assert allows(permission, protocol, host, path)
