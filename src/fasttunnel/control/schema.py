"""The options in the forms that others read: JSON Schema for editors, TOML, and the page docs/configuration.md."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from fasttunnel.control import descriptions
from fasttunnel.control.config import ClientConfig, RouteEntry, RouteSpec, Secret, ServerConfig, applies
from fasttunnel.control.kinds import in_words, of_fields

Kind = type[ServerConfig] | type[ClientConfig]


class Described(NamedTuple):
    name: str
    kind: str  # in words
    default: str  # as in TOML; "" for none
    text: str


def texts_of(kind: type[Any]) -> dict[str, str]:
    return descriptions.SERVER if kind is ServerConfig else descriptions.CLIENT


def described(kind: type[Any]) -> list[Described]:
    """All options, in the order of their class."""
    texts = descriptions.ROUTE if kind is RouteEntry else texts_of(kind)
    found = []
    for field in msgspec.structs.fields(kind):
        words = 'a list of texts ("[ROUTE=]BACKEND") and tables' if field.name == "routes" else in_words(field.type)
        found.append(Described(field.name, words, _default(field.default), texts[field.name]))
        if field.name == "token":
            found.append(Described("token_file", "a text", "", descriptions.TOKEN_FILE))
    return found


def _default(value: object) -> str:
    return "" if value in (None, "", (), msgspec.NODEFAULT) else toml(value)


def toml(value: object) -> str:
    """A value as TOML has it. Large numbers get a separator, secrets are not shown."""
    if isinstance(value, Secret):
        return '"****"'
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}" if value < 1e6 else repr(value)
    if isinstance(value, int):
        return f"{value:_}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, RouteSpec):
        return _route(value)
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")


def _route(spec: RouteSpec) -> str:
    """An inline table; only what is not as usual."""
    route = spec.route
    where = route.host + (f"/{route.grpc_service}" if route.grpc_service else route.path_prefix)
    values: dict[str, object] = {"route": where, "backend": spec.backend, "strip_prefix": route.strip_prefix}
    values |= {"host_rewrite": route.host_rewrite, "exclusive": route.exclusive}
    return "{ " + ", ".join(f"{name} = {toml(value)}" for name, value in values.items() if value) + " }"


def json_schema(kind: Kind) -> dict[str, Any]:
    """JSON Schema (2020-12) of a file for --config."""

    def plain(kind: type) -> dict[str, Any]:
        return {"type": "string"} if kind is Secret else {}

    (found,), parts = msgspec.json.schema_components([kind], schema_hook=plain, ref_template="#/$defs/{name}")
    top = parts[found["$ref"].rpartition("/")[2]]
    (_,), of_routes = msgspec.json.schema_components([RouteEntry], ref_template="#/$defs/{name}")
    table = of_routes["RouteEntry"]
    _describe(top["properties"], texts_of(kind))
    top["properties"]["token_file"] = {"type": "string", "description": descriptions.TOKEN_FILE}
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **top}
    for name, wanted in of_fields(kind).items():
        if "a list of" in in_words(wanted) and name != "routes":  # one may stand without brackets
            part = schema["properties"][name]
            item = part.get("items") or next(one["items"] for one in part["anyOf"] if "items" in one)
            schema["properties"][name] = {
                "anyOf": [{"type": "array", "items": item}, item],
                **{key: part[key] for key in ("description", "default") if part.get(key) is not None},
            }
    if kind is ClientConfig:
        _describe(table["properties"], descriptions.ROUTE)
        each = {"anyOf": [{"type": "string"}, table]}
        schema["properties"]["routes"] = {"type": "array", "items": each, "description": descriptions.CLIENT["routes"]}
        schema["required"] = []  # the command line may name the server and the routes
    return schema


def _describe(properties: dict[str, Any], texts: Mapping[str, str]) -> None:
    for name, part in properties.items():
        part["description"] = texts[name]


def _row(cells: Sequence[str]) -> str:
    return "".join(f"| {cell} " if cell else "| " for cell in cells) + "|\n"


_PAGE = """\
# Configuration

Every option can be given in four ways. From weak to strong, the stronger one wins:

1. the default,
2. a TOML file: `--config server.toml`, or the variable `FASTTUNNEL_CONFIG`,
3. the environment: `FASTTUNNEL_` and the name in capitals, such as `FASTTUNNEL_HEAD_TIMEOUT_S=10`,
4. the command line: `--set head_timeout_s=10`, and over it the flag `--head-timeout-s 10`.

Paths in a file are sought beside that file. In variables and flags, texts stand without quotation marks, lists as in
TOML (`FASTTUNNEL_CERT='["a.pem", "b.pem"]'`; one alone without brackets, flags may be repeated), and
`FASTTUNNEL_ROUTES` separates routes by spaces. There is no flag for the token itself: other users of the machine see
the command line.

    fasttunnel config check server.toml     # says what is wrong with a file, and where
    fasttunnel config show server.toml      # every option with its value, and where that comes from
    fasttunnel config schema server         # JSON Schema, with which an editor completes and checks a file

An editor that knows [Taplo](https://taplo.tamasfe.dev/) takes the schema from the first line of a file:
`#:schema ./server.schema.json`.

Times are in seconds, sizes in bytes; 0 means no limit, or never, where it is allowed. Why the defaults are what they
are is in [limits.py](../src/fasttunnel/limits.py). This page is made from the code: `python tools/configuration.py`.

## Changing it while it runs

A command looks at the file of `--config`, and at that of the token, every two seconds (`watch_config = false`: it does
not), and on SIGHUP (`systemctl reload`) at once. A file that has changed, or is another one (renamed into place, a link
of Kubernetes that leads elsewhere), counts when it has been left alone for half a second. Then all sources are gathered
again; flags and variables are as they were at the start, and still win. What is different is said, one line each, with
secrets left out:

    reloaded  max_requests 100 -> 200
    warning   needs a restart: listen

A file with a mistake changes nothing: one warning says where and what it is, what was before stays in use, and the next
one that is right is taken. So it is with a file of a token or certificate that cannot be read.

The column "a change" says how an option takes effect:

- `live`: at once, for whatever begins after it. Requests under way go on as they began.
- `new connections`: for connections, of the public or of tunnels, that are made after it.
- `restart`: it is said, and stays as it is.

A server that had no `cert` or `client_ca`, or an end that had no `access_log`, gets one by a restart, and loses it by
one; another file is taken while it runs. Tunnels whose token is not valid any more end.

**A client** makes a new tunnel with the new options beside the old one. Once the server has registered it, it takes
over: requests go there, and the old one finishes what it has, WebSockets and streams included, for a day at most; it
ends with its last request. No request is lost, routes that are gone are 404, and the client keeps its name. A server
that refuses (the token is not valid, or does not permit the routes; a route is taken) leaves the old tunnel as it was,
and the reason is said. One that is away is waited for, and so is room for one more tunnel
(`max_connections_per_address`). For a new token of the same identity ([security.md](security.md#tokens)) this is
rotation; to the holder of another name the routes are somebody else's.

From Python, `server.reload(config)` and `await client.reload(config)` do the same with a configuration such as
`msgspec.structs.replace(client.config, connections=2)`, and return what has changed and what needs a restart.
"""


def page() -> str:
    """docs/configuration.md."""
    text = _PAGE
    parts: list[tuple[str, type[Any]]] = [("Server", ServerConfig), ("Client", ClientConfig)]
    parts.append(("A table of `routes`", RouteEntry))
    for title, kind in parts:
        how = {} if kind is RouteEntry else {**applies(kind), "token_file": applies(kind)["token"]}
        columns = ["option", "what it is", "default", *["a change"] * bool(how), ""]
        text += f"\n## {title}\n\n" + _row(columns) + _row(["---"] * len(columns)).replace(" ", "")
        for name, words, default, what in described(kind):
            cells = [f"`{name}`", words, f"`{default}`" if default else "", *([how[name]] if how else [])]
            text += _row([*cells, what.replace("|", "\\|")])
    return text
