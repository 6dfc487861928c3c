"""Configuration: what the two programs can be told, and what goes together.

What each option is for stands in `control.descriptions`, where its value comes from is the matter of
`control.sources`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec

from fasttunnel import limits
from fasttunnel.control.exposure import exposure
from fasttunnel.control.forwarding import Networks
from fasttunnel.control.names import check_name
from fasttunnel.control.routes import GRPC, HTTP, WEBSOCKET, Route, check_host, format_address
from fasttunnel.control.tls import Certificate, pair, read_pin
from fasttunnel.errors import ConfigError

DEFAULT_LISTEN = "127.0.0.1:8080"
DEFAULT_TUNNEL = "127.0.0.1:7000"

Positive = Annotated[float, msgspec.Meta(gt=0)]
Drain = Annotated[float, msgspec.Meta(gt=0, le=limits.DRAIN_MAX_S)]
NotNegative = Annotated[float, msgspec.Meta(ge=0)]
Size = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Window = Annotated[int, msgspec.Meta(ge=1024, le=limits.MAX_WINDOW_BYTES)]
Fragment = Annotated[int, msgspec.Meta(ge=limits.MIN_FRAGMENT_BYTES, le=limits.MAX_FRAGMENT_BYTES)]
TapScope = Literal["none", "messages", "payloads"]
HeaderList = Annotated[int, msgspec.Meta(ge=4096, le=1024 * 1024)]


class Secret:
    """A text that is never shown: it prints as ****.

    `warning` says where others of the machine may read it, `path` in which file it stood, if in one of its own.
    """

    __slots__ = ("_text", "path", "warning")

    def __init__(self, text: str, warning: str | None = None, path: str = "") -> None:
        self.warning = warning
        self.path = path
        if not text or not text.isascii() or not text.isprintable() or " " in text:
            raise ConfigError("a token is made of visible ASCII characters, at least one, and no spaces")
        self._text = text

    def reveal(self) -> str:
        return self._text

    @property
    def short(self) -> bool:
        return len(self._text) < limits.SHORT_TOKEN

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __repr__(self) -> str:
        return "Secret(****)"

    __str__ = __repr__


class Backend(msgspec.Struct, frozen=True):
    """Where requests end: a server that the client connects to."""

    scheme: str  # "http", "https" (HTTP/1.1 and WebSocket), "grpc" (HTTP/2 with prior knowledge) or "grpcs"
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.scheme}://{format_address(self.host, self.port)}"

    @property
    def protocols(self) -> tuple[int, ...]:
        return (GRPC,) if self.grpc else (HTTP, WEBSOCKET)

    @property
    def grpc(self) -> bool:
        return self.scheme in ("grpc", "grpcs")

    @property
    def secure(self) -> bool:
        """Reached by TLS."""
        return self.scheme in ("https", "grpcs")


class RouteSpec(msgspec.Struct, frozen=True):
    """A route and the backend that serves it."""

    route: Route
    backend: Backend

    def __str__(self) -> str:
        return f"{self.route} = {self.backend}"


class ServerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Options of the server. Times are in seconds, sizes in bytes; 0 means no limit, or never, where it is allowed."""

    listen: str = DEFAULT_LISTEN
    tunnel: str = DEFAULT_TUNNEL
    domain: str = ""
    public_url: str = ""
    reuse_port: bool = False
    token: Secret | None = None
    cert: tuple[str, ...] = ()
    key: tuple[str, ...] = ()
    tls: tuple[Literal["public", "tunnel"], ...] | None = None
    client_ca: str = ""
    tokens_file: str = ""
    max_failed_logins: Size = limits.MAX_FAILED_LOGINS
    max_connections_per_address: Size = limits.MAX_CONNECTIONS_PER_ADDRESS
    trusted_proxies: tuple[str, ...] = ()
    initial_window: Window = limits.INITIAL_WINDOW_BYTES
    max_fragment: Fragment = limits.FRAGMENT_BYTES
    header_list_bytes: HeaderList = limits.HEADER_LIST_BYTES
    max_window: Window = limits.TUNED_WINDOW_BYTES
    window_budget: Size = limits.WINDOW_BUDGET_BYTES
    target_bytes: HeaderList = limits.TARGET_BYTES
    ws_message_bytes: Size = limits.WS_MESSAGE_BYTES
    grpc_message_bytes: Size = limits.GRPC_MESSAGE_BYTES
    body_bytes: Size = limits.BODY_BYTES
    max_connections: Size = limits.MAX_CONNECTIONS
    max_requests: Size = limits.MAX_REQUESTS
    max_requests_per_tunnel: Size = limits.MAX_REQUESTS_PER_TUNNEL
    head_timeout_s: Positive = limits.HEAD_TIMEOUT_S
    keep_alive_timeout_s: Positive = limits.KEEP_ALIVE_TIMEOUT_S
    idle_timeout_s: NotNegative = limits.IDLE_TIMEOUT_S
    ws_ping_interval_s: NotNegative = limits.WS_PING_INTERVAL_S
    ws_lost_close: Literal[1001, 1006, 1011, 1012, 1013] = 1001
    queue_timeout_s: NotNegative = limits.QUEUE_TIMEOUT_S
    queued_requests: Size = limits.QUEUED_REQUESTS
    heartbeat_interval_s: Positive = limits.HEARTBEAT_INTERVAL_S
    request_id_header: str = "x-request-id"
    drain_timeout_s: Drain = limits.DRAIN_TIMEOUT_S
    admin: str = ""
    tap: TapScope | None = None
    access_log: str = ""
    otlp: str = ""
    log_format: Literal["human", "json"] | None = None
    log_level: Literal["info", "warning", "error"] = "info"
    watch_config: bool = True

    @property
    def certificates(self) -> tuple[Certificate, ...]:
        return pair(self.cert, self.key)

    @property
    def tls_files(self) -> tuple[str, ...]:
        """What is read again when it changes."""
        return (*self.cert, *self.key, *([self.client_ca] if self.client_ca else []))

    def seen_at(self, host: str, port: int) -> tuple[str, int, bool]:
        """Host, port, and whether by TLS, where the public finds a server that listens at `host` and `port`."""
        return parse_public_url(self.public_url) if self.public_url else (host, port, self.secures("public"))

    def secures(self, port: str) -> bool:
        """Whether this port, "public" or "tunnel", speaks TLS."""
        return bool(self.cert) and (self.tls is None or port in self.tls)

    def warnings(self) -> list[str]:
        """What can be used so, and should not."""
        texts = _exposed(self.token, self.certificates)
        if not is_loopback(parse_address(self.tunnel)[0]):
            if not self.secures("tunnel"):
                texts.append(f"clients send their tokens to {self.tunnel} in the clear; add --cert and --key")
            if self.token and self.token.short:
                texts.append("the token is so short that it can be guessed; `fasttunnel token NAME` makes a long one")
        return texts + _open_admin(self.admin, self.tap)

    def __post_init__(self) -> None:
        _ = self.certificates
        check_admin(self.admin)
        check_otlp(self.otlp)
        check_field_name("request_id_header", self.request_id_header)
        msgspec.structs.force_setattr(self, "domain", check_host(self.domain))
        if self.domain.startswith(("*", "[")):
            raise ConfigError(f"{self.domain!r} is not a domain", hint="clients get names below it: example.com")
        if self.tls and not self.cert:
            raise ConfigError("TLS needs a certificate", hint="name it with --cert and --key")
        if self.public_url:
            parse_public_url(self.public_url)
        _ = Networks(self.trusted_proxies)
        if self.client_ca and not self.secures("tunnel"):
            raise ConfigError("--client-ca needs TLS on the tunnel port", hint="add --cert and --key")
        for option, address in (("--listen", self.listen), ("--tunnel", self.tunnel)):
            host, _ = parse_address(address)
            if not (self.token or self.tokens_file or self.client_ca or is_loopback(host)):
                raise ConfigError(
                    f"{option} {address} is open to the network, so a token is needed",
                    detail="without one, anybody who reaches the tunnel port could serve your routes and read them",
                    hint="set FASTTUNNEL_TOKEN or --token-file here and for the client, or --tokens here, "
                    "or listen on 127.0.0.1",
                )


class ClientConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Options of the client. Times are in seconds, sizes in bytes; 0 means no limit where it is allowed."""

    server: str
    token: Secret | None = None
    client_id: Annotated[str, msgspec.Meta(max_length=limits.CLIENT_ID)] = ""
    name: str = ""
    any_name: bool = False
    tls: bool = False
    ca: str = ""
    pins: tuple[str, ...] = ()
    server_name: str = ""
    cert: str = ""
    key: str = ""
    backend_ca: str = ""
    backend_verify: bool = True
    routes: tuple[RouteSpec, ...] = ()
    initial_window: Window = limits.INITIAL_WINDOW_BYTES
    max_fragment: Fragment = limits.FRAGMENT_BYTES
    header_list_bytes: HeaderList = limits.HEADER_LIST_BYTES
    ws_message_bytes: Size = limits.WS_MESSAGE_BYTES
    grpc_message_bytes: Size = limits.GRPC_MESSAGE_BYTES
    max_window: Window = limits.TUNED_WINDOW_BYTES
    window_budget: Size = limits.WINDOW_BUDGET_BYTES
    connections: Annotated[int, msgspec.Meta(ge=1, le=limits.CONNECTIONS)] = 1
    connect_timeout_s: Positive = limits.CONNECT_TIMEOUT_S
    keep_alive_timeout_s: Positive = limits.BACKEND_KEEP_ALIVE_TIMEOUT_S
    backoff_min_s: Positive = limits.BACKOFF_MIN_S
    backoff_max_s: Positive = limits.BACKOFF_MAX_S
    drain_timeout_s: Drain = limits.DRAIN_TIMEOUT_S
    admin: str = ""
    tap: TapScope | None = None
    access_log: str = ""
    otlp: str = ""
    log_format: Literal["human", "json"] | None = None
    log_level: Literal["info", "warning", "error"] = "info"
    watch_config: bool = True

    @property
    def secure(self) -> bool:
        """Whether the tunnel uses TLS."""
        return self.tls or bool(self.ca or self.pins or self.server_name or self.cert)

    @property
    def certificate(self) -> Certificate | None:
        return Certificate(self.cert, self.key or self.cert) if self.cert else None

    @property
    def tls_files(self) -> tuple[str, ...]:
        """What a connection to the server needs."""
        return tuple(name for name in (self.ca, self.cert, self.key) if name)

    @property
    def pinned(self) -> frozenset[bytes]:
        return frozenset(map(read_pin, self.pins))

    def warnings(self) -> list[str]:
        """What can be used so, and should not."""
        texts = _exposed(self.token, [self.certificate] if self.certificate else [])
        if self.token and not self.secure and not is_loopback(parse_address(self.server)[0]):
            texts.append(f"the token goes to {self.server} in the clear; --tls encrypts the tunnel")
        return texts + _open_admin(self.admin, self.tap)

    def __post_init__(self) -> None:
        parse_address(self.server)
        check_admin(self.admin)
        check_otlp(self.otlp)
        if self.name:
            msgspec.structs.force_setattr(self, "name", check_name(self.name))
        _ = self.pinned
        try:
            self.server_name.encode("idna")
        except UnicodeError:
            raise ConfigError(
                f"{self.server_name!r} is not a name", hint="the server's certificate has it, such as t.example.com"
            ) from None
        if self.key and not self.cert:
            raise ConfigError("a key without a certificate", hint="name the certificate with --cert")
        if not self.routes:
            raise ConfigError("there is nothing to serve", hint="name a backend, such as http://127.0.0.1:3000")
        if len(self.routes) > limits.ROUTES_PER_CLIENT:
            raise ConfigError(f"{len(self.routes)} routes are too many", hint=f"at most {limits.ROUTES_PER_CLIENT}")


class RouteEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One `[[routes]]` of a client's file. `route` is as on the command line."""

    backend: str
    route: str = ""
    strip_prefix: bool = False
    host_rewrite: str = ""
    exclusive: bool = False


# -- what may change while a program runs ------------------------------------------------------------------------------

Applies = Literal["live", "new connections", "restart"]
"""How a change of an option takes effect: at once, for what begins after it; for connections and tunnels that are made
after it; or by a restart."""


def _applies(**names: str) -> dict[str, Applies]:
    words: dict[str, Applies] = {"live": "live", "new_connections": "new connections", "restart": "restart"}
    return {name: words[how] for how, listed in names.items() for name in listed.split()}


OF_SERVER = _applies(
    live="token tokens_file max_failed_logins max_connections_per_address target_bytes body_bytes max_connections "
    "max_requests max_requests_per_tunnel ws_message_bytes grpc_message_bytes head_timeout_s keep_alive_timeout_s "
    "idle_timeout_s ws_ping_interval_s ws_lost_close queue_timeout_s queued_requests request_id_header drain_timeout_s "
    "access_log log_level watch_config",
    new_connections="public_url cert key client_ca trusted_proxies initial_window max_fragment header_list_bytes "
    "max_window window_budget heartbeat_interval_s",
    restart="listen tunnel domain reuse_port tls admin tap log_format otlp",
)
# A client makes a tunnel with the new options, which takes over from the old one.
OF_CLIENT = _applies(
    live="server token client_id name any_name tls ca pins server_name cert key backend_ca backend_verify routes "
    "initial_window max_fragment header_list_bytes ws_message_bytes grpc_message_bytes max_window window_budget "
    "connections connect_timeout_s keep_alive_timeout_s backoff_min_s backoff_max_s drain_timeout_s access_log "
    "log_level watch_config",
    restart="admin tap log_format otlp",
)
ON_OR_OFF: dict[type, dict[str, tuple[str, ...]]] = {
    ServerConfig: {"cert": ("key", "client_ca"), "client_ca": (), "access_log": ()},
    ClientConfig: {"access_log": ()},
}
"""Options whose value may change as `applies` says, but that there is one, or none, by a restart, with what belongs to
them."""


def applies(kind: type[ServerConfig] | type[ClientConfig]) -> dict[str, Applies]:
    """By option."""
    return OF_SERVER if kind is ServerConfig else OF_CLIENT


def _exposed(token: Secret | None, certificates: Iterable[Certificate]) -> list[str]:
    found = [token.warning if token else None, *(exposure(Path(one.key)) for one in certificates)]
    return [warning for warning in found if warning]


# -- notations --------------------------------------------------------------------------------------------------------

_SPEC = re.compile(r"(?:(?P<route>.*)=)?(?P<backend>[A-Za-z][A-Za-z0-9+.-]*://.*)", re.DOTALL)


def parse_address(text: str) -> tuple[str, int]:
    """HOST:PORT, an IPv6 address in brackets (taken off in the result). Raises ConfigError."""
    host, colon, port = text.rpartition(":")
    hint = "write HOST:PORT, such as 127.0.0.1:8080 or [::1]:8080"
    if not colon or not host:
        raise ConfigError(
            f"{text!r} is not an address", hint=f"{hint}; 0.0.0.0{text} listens everywhere" if colon else hint
        )
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65535):
        raise ConfigError(f"{text!r} has no port between 0 and 65535", hint=hint)
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise ConfigError(f"[{host}] is not an IPv6 address", hint=hint) from None
    elif ":" in host or "/" in host or any(character.isspace() for character in host):
        raise ConfigError(f"{text!r} is not an address", hint=hint)
    return host, int(port)


def parse_public_url(text: str) -> tuple[str, int, bool]:
    """http[s]://HOST[:PORT]: host, port, and whether by TLS. Raises ConfigError."""
    scheme, separator, rest = text.partition("://")
    usual = {"http": 80, "https": 443}.get(scheme)
    where = rest.removesuffix("/")
    if not separator or usual is None or not where or set("/?#@") & set(where):
        raise ConfigError(
            f"{text!r} is not the URL of a server",
            hint="write http:// or https:// and a host, with a port where it is not the usual one: https://example.com",
        )
    port_given = ":" in where.rpartition("]")[2]
    host, port = parse_address(where if port_given else f"{where}:{usual}")
    if "*" in host:
        raise ConfigError(f"{text!r} is not the URL of a server", hint="of names below a domain, option domain tells")
    return host if ":" in host else check_host(host), port, scheme == "https"


_FIELD_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_OF_MESSAGES = re.compile(r"(?i)(content|grpc|sec)-.*|transfer-encoding|connection|upgrade|trailer|te|host|date|server")


def check_field_name(option: str, name: str) -> None:
    """A field of answers that is ours to add; empty: none. Raises ConfigError."""
    if name and (not _FIELD_NAME.fullmatch(name) or _OF_MESSAGES.fullmatch(name)):
        raise ConfigError(f"{option} {name!r} is no name for a field of ours", hint="such as x-request-id")


def parse_admin(text: str) -> tuple[str, int] | Path:
    """HOST:PORT, or unix:PATH for a Unix socket. Raises ConfigError."""
    scheme, colon, path = text.partition(":")
    if scheme != "unix" or not colon:
        return parse_address(text)
    if not path:
        raise ConfigError(f"{text!r} names no socket", hint="write unix:PATH, such as unix:/run/fasttunnel/admin.sock")
    return Path(path)


def check_admin(text: str) -> None:
    """The option `admin`, which may be empty. Raises ConfigError."""
    if not text:
        return
    parse_admin(text)
    missing = [name for name in ("h11", "prometheus_client") if find_spec(name) is None]
    if missing:
        raise ConfigError(
            "the admin port cannot be had", detail=f"{missing[0]} is missing", hint="pip install 'fasttunnel[admin]'"
        )


def check_otlp(url: str) -> None:
    """The option `otlp`, which may be empty. Raises ConfigError."""
    if not url:
        return
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        hint = "write the URL of a collector's OTLP port for HTTP, such as http://127.0.0.1:4318"
        raise ConfigError(f"otlp cannot be {url!r}: it is no URL of a collector", hint=hint)
    for name in ("opentelemetry", "opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http"):
        try:
            found = find_spec(name)
        except ModuleNotFoundError:
            found = None
        if found is None:
            raise ConfigError(
                "spans cannot be sent", detail=f"{name} is missing", hint="pip install 'fasttunnel[otel]'"
            )


def _open_admin(admin: str, tap: TapScope | None) -> list[str]:
    where = parse_admin(admin) if admin else None
    if where is None or isinstance(where, Path) or is_loopback(where[0]):
        return []
    shown = "routes, clients and traffic" + ", and what is in it (--tap payloads)," * (tap == "payloads")
    return [f"the admin port {admin} is open to the network: it shows {shown} to whoever reaches it"]


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def parse_route(text: str) -> RouteSpec:
    """`[ROUTE=]BACKEND` of the command line. Raises ConfigError.

    BACKEND is http://HOST:PORT (HTTP and WebSocket) or grpc://HOST:PORT, with TLS https:// or grpcs://; ROUTE is host,
    *.host, host/prefix, /prefix, or for gRPC host/pkg.Service, /pkg.Service. Without ROUTE it is everything of the
    backend's kind.
    """
    match = _SPEC.fullmatch(text)
    if match is None:
        raise ConfigError(f"{text!r} names no backend", hint=_backend_hint(text))
    backend = _parse_backend(match["backend"])
    host, slash, path = (match["route"] or "").partition("/")
    if match["route"] == "":
        raise ConfigError(f"{text!r} has nothing before the '='", hint="leave the '=' away to serve everything")
    is_service = backend.grpc
    if is_service and "/" in path:
        raise ConfigError(f"{path!r} is not a gRPC service", hint="routes go by service, such as /pkg.Service")
    route = Route(
        host=check_host(host),
        path_prefix="" if is_service else slash + path,
        grpc_service=path if is_service else "",
        protocols=backend.protocols,
    )
    return RouteSpec(route, backend)


def _parse_backend(text: str) -> Backend:
    scheme, _, rest = text.partition("://")
    scheme = scheme.lower()
    if scheme not in ("http", "https", "grpc", "grpcs"):
        other = {"ws": "http", "wss": "https", "h2c": "grpc", "h2": "grpcs"}.get(scheme, "http")
        raise ConfigError(
            f"backend {text!r} is not http://, https://, grpc:// or grpcs://", hint=f"write {other}://{rest}"
        )
    try:
        host, port = parse_address(rest.removesuffix("/"))
    except ConfigError:
        raise ConfigError(f"backend {text!r} is not {scheme}://HOST:PORT", hint="it has no path") from None
    if port == 0:
        raise ConfigError(f"backend {text!r} has no port")
    return Backend(scheme, host, port)


def _backend_hint(text: str) -> str:
    """What may have been meant by a backend without scheme."""
    route, equals, rest = text.rpartition("=")
    address = f"127.0.0.1:{rest}" if rest.isdigit() else rest
    try:
        parse_address(address)
    except ConfigError:
        return "it looks like http://127.0.0.1:3000 or grpc://127.0.0.1:50051"
    return f"write {route}{equals}http://{address}, or grpc:// for a gRPC service"
