"""Where options come from, which one wins, and what is said of one that cannot be used.

From weak to strong: defaults, the file of --config, the environment, --set, flags. Whatever is wrong is a ConfigError
that names the option, its source and what it should be.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import msgspec

from fasttunnel.control.config import ClientConfig, RouteEntry, RouteSpec, Secret, ServerConfig, parse_route
from fasttunnel.control.exposure import exposure
from fasttunnel.control.kinds import in_words, is_list, is_text, of_fields
from fasttunnel.errors import ConfigError

PREFIX: Final = "FASTTUNNEL_"  # of variables of the environment

COMMAND_LINE: Final = "the command line"  # of an argument, which has no name

# Those that are no options of a configuration: of commands, and of the build.
_OF_COMMANDS: Final = ("CONFIG", "ENGINE", "USER", "NO_TOKEN", "NO_CHECK", "PLAIN")
OTHER_VARIABLES: Final = (*_OF_COMMANDS, "DEBUG", "SANITIZE", "COVERAGE", "ANNOTATE", "STATIC")

# Options that name files: beside the file that says so.
_FILES = ("token_file", "tokens_file", "cert", "key", "ca", "client_ca", "backend_ca")

C = TypeVar("C", bound=ServerConfig | ClientConfig)


class Given(NamedTuple):
    """A value, and who gives it: "server.toml", "FASTTUNNEL_LISTEN", "--listen"; "" for a program."""

    value: Any
    source: str


class Text(str):
    """A value that is written as in TOML, or as a text without quotation marks; which, the option's type decides."""


Options = dict[str, Given]


# -- each source ------------------------------------------------------------------------------------------------------


def from_program(options: Mapping[str, Any]) -> Options:
    """What Python hands over."""
    return _with_token({name: Given(value, "") for name, value in options.items()})


def from_file(path: Path) -> Options:
    """A TOML file; other files that it names are sought beside it."""
    table = _table(path)
    for name in _FILES:
        named = table.get(name)
        if isinstance(named, str) and named:
            table[name] = str(path.parent / named)
        elif isinstance(named, list):
            table[name] = [str(path.parent / one) if isinstance(one, str) else one for one in named]
    if isinstance(table.get("token"), str):
        table["token"] = Secret(table["token"], exposure(path))
    return _with_token({name: Given(value, str(path)) for name, value in table.items()})


def of_one(path: Path, option: str) -> str:
    """One option of a TOML file, a text, for who has no use for the others; empty: it is not there."""
    value = _table(path).get(option, "")
    if not isinstance(value, str):
        raise ConfigError(f"{option} in {path} is not a text")
    return value


def _table(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}", detail=error.strerror) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML", detail=str(error)) from None


def from_environment(environment: Mapping[str, str], kind: type[Any]) -> Options:
    """FASTTUNNEL_NAME for the option `name`; an empty one counts as none. Routes are separated by spaces."""
    options: Options = {}
    for name in (*of_fields(kind), "token_file"):
        variable = PREFIX + name.upper()
        if value := environment.get(variable):
            routes = name == "routes" and not value.lstrip().startswith("[")
            options[name] = Given(value.split() if routes else Text(value), variable)
    return _with_token(options)


def misspelt(environment: Mapping[str, str]) -> list[str]:
    """Warnings about variables that look like options, and are none."""
    known = {PREFIX + name.upper() for kind in (ServerConfig, ClientConfig) for name in of_fields(kind)}
    known |= {PREFIX + name for name in ("TOKEN_FILE", *OTHER_VARIABLES)}
    strangers = sorted(name for name in environment if name.startswith(PREFIX) and name not in known)
    return [f"there is no option for the variable {name}{_meant(name, known)}" for name in strangers]


def from_settings(texts: Iterable[str]) -> Options:
    """NAME=VALUE of --set."""
    options: Options = {}
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not name.isidentifier():
            raise ConfigError(f"{text!r} is not NAME=VALUE", hint="it looks like --set head_timeout_s=10")
        if name == "token":
            raise ConfigError(
                "other users of this machine can see a token on the command line", hint="use --token-file"
            )
        options[name] = Given(Text(value), f"--set {name}")
    return _with_token(options)


def from_flags(given: Mapping[str, tuple[str, Any]]) -> Options:
    """By option: the flag, and its value."""
    return _with_token({name: Given(value, flag) for name, (flag, value) in given.items()})


def _with_token(options: Options) -> Options:
    """Of one source: the file of the token is read, unless the token itself is there."""
    given = options.pop("token_file", None)
    if given is not None and given.value and "token" not in options:
        options["token"] = Given(read_token(Path(str(given.value))), given.source)
    return options


def read_token(path: Path) -> Secret:
    """The token in a file: its only line. Raises ConfigError."""
    try:
        return Secret(path.read_text("utf-8").strip(), exposure(path), str(path))
    except OSError as error:
        raise ConfigError(f"cannot read the token file {path}", detail=error.strerror, file=str(path)) from None
    except (ConfigError, UnicodeDecodeError):
        raise ConfigError(
            f"{path} holds no token", hint="it holds one line of visible ASCII characters", file=str(path)
        ) from None


# -- one configuration of all -----------------------------------------------------------------------------------------


def server_config(options: Mapping[str, Any]) -> ServerConfig:
    """A checked configuration from what a program hands over, by name."""
    return configure(ServerConfig, from_program(options))


def client_config(options: Mapping[str, Any]) -> ClientConfig:
    """The same; `routes` are texts ("[ROUTE=]BACKEND"), tables (RouteEntry) or RouteSpecs."""
    return configure(ClientConfig, from_program(options))


def configure(kind: type[C], *layers: Options) -> C:
    """The configuration of all sources; later ones win."""
    return _build(kind, merged(*layers))


def merged(*layers: Options) -> Options:
    options: Options = {}
    for layer in layers:
        options |= layer
    return options


def _build(kind: type[C], options: Options) -> C:
    if kind is ClientConfig and "server" not in options:
        raise ConfigError(
            "there is no server to dial",
            hint="name its tunnel port with --server HOST:PORT, or once with `fasttunnel login`",
        )
    types = of_fields(kind)
    values: dict[str, Any] = {}
    for name, given in options.items():
        if name not in types:
            raise _unknown(name, given.source, kind)
        values[name] = _routes(given) if name == "routes" else _value(name, given, types[name])
    return kind(**values)


def _value(name: str, given: Given, wanted: Any) -> Any:
    value = given.value
    if isinstance(value, Text):
        value = _read(value, wanted)
    if is_list(wanted) and isinstance(value, str):
        value = [value] if value else []
    if name == "token" and isinstance(value, str):
        value = _secret(value, given)

    def as_it_is(kind: type, value: object) -> object:
        if isinstance(value, kind):
            return value
        raise ValueError

    try:
        return msgspec.convert(value, wanted, dec_hook=as_it_is)
    except msgspec.ValidationError:
        shown = "" if name == "token" else f" {value!r}"
        raise ConfigError(
            f"{_called(name, given.source)} cannot be{shown}", detail=f"it is {in_words(wanted)}"
        ) from None


def _secret(text: str, given: Given) -> Secret:
    try:
        return Secret(text)
    except ConfigError as error:
        raise ConfigError(f"{_called('token', given.source)}: {error.message}") from None


def _read(text: Text, wanted: Any) -> Any:
    """As TOML where that fits, else as it stands."""
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return str(text)
    return str(text) if is_text(wanted) and not isinstance(value, str) else value


def _routes(given: Given) -> tuple[RouteSpec, ...]:
    value = _read(given.value, list) if isinstance(given.value, Text) else given.value
    entries = [value] if isinstance(value, str) else value
    if not isinstance(entries, list | tuple):
        raise ConfigError(f"{_called('routes', given.source)} cannot be {value!r}", detail="it is a list")
    routes = []
    for index, entry in enumerate(entries):
        try:
            routes.append(_route(entry))
        except ConfigError as error:
            # One on the command line shows itself; one of many in a file has to be found.
            where = "" if given.source == COMMAND_LINE else f"{_called(f'routes[{index}]', given.source)}: "
            raise ConfigError(f"{where}{error.message}", detail=error.detail, hint=error.hint) from None
    return tuple(routes)


def _route(entry: object) -> RouteSpec:
    if isinstance(entry, RouteSpec):
        return entry
    if isinstance(entry, str):
        return parse_route(entry)
    if not isinstance(entry, Mapping):
        raise ConfigError(f"a route cannot be {entry!r}", detail='it is "[ROUTE=]BACKEND", or a table')
    types = of_fields(RouteEntry)
    values = {}
    for name, value in entry.items():
        if name not in types:
            raise ConfigError(f"there is no option {name!r}{_meant(name, types)}")
        values[name] = _value(name, Given(value, ""), types[name])
    if "backend" not in values:
        raise ConfigError("there is no backend", hint='backend = "http://127.0.0.1:3000"')
    table = RouteEntry(**values)
    spec = parse_route(f"{table.route}={table.backend}" if table.route else table.backend)
    route = msgspec.structs.replace(
        spec.route,
        strip_prefix=table.strip_prefix,
        host_rewrite=table.host_rewrite,
        exclusive=table.exclusive,
    )
    return RouteSpec(route, spec.backend)


def _unknown(name: str, source: str, kind: type) -> ConfigError:
    other, of = (ClientConfig, "client") if kind is ServerConfig else (ServerConfig, "server")
    if name in of_fields(other):
        return ConfigError(f"{_called(name, source)} is an option of the {of}")
    return ConfigError(
        f"{_where(source)}there is no option {name!r}{_meant(name, of_fields(kind))}",
        hint="docs/configuration.md lists them",
    )


def _meant(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    return f"; {close[0]} may be meant" if close else ""


def _called(name: str, source: str) -> str:
    """An option, as whoever gave it knows it."""
    return source if source.startswith(("--", PREFIX)) else f"{_where(source)}{name}"


def _where(source: str) -> str:
    return f"{source}: " if source and source != COMMAND_LINE and not source.startswith("--") else ""
