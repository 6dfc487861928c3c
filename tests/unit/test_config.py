"""Configuration: notations, files, and errors that say where and what."""

from pathlib import Path

import pytest

from fasttunnel.control.config import ClientConfig, Secret, ServerConfig, is_loopback, parse_address, parse_route
from fasttunnel.control.exposure import exposure
from fasttunnel.control.routes import GRPC, HTTP, WEBSOCKET, Route
from fasttunnel.control.sources import client_config, configure, from_file, read_token, server_config
from fasttunnel.errors import ConfigError, FasttunnelError


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8080", ("127.0.0.1", 8080)),
        ("localhost:0", ("localhost", 0)),
        ("[::1]:65535", ("::1", 65535)),
        ("t.example.com:7000", ("t.example.com", 7000)),
    ],
)
def test_address(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text", ["", ":", "8080", ":8080", "host", "host:", "host:x", "host:65536", "host:-1", "::1:80", "[::1]", "[x]:1",
             "host:٣", "a b:1", "http://host:1"]
)  # fmt: skip
def test_bad_address(text: str) -> None:
    with pytest.raises(ConfigError, match=r"HOST:PORT"):
        parse_address(text)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("localhost", True),
     ("0.0.0.0", False), ("::", False), ("10.0.0.1", False), ("example.com", False)],
)  # fmt: skip
def test_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


WEB = (HTTP, WEBSOCKET)


@pytest.mark.parametrize(
    ("text", "route", "backend"),
    [
        ("https://127.0.0.1:3000", Route(protocols=WEB), "https://127.0.0.1:3000"),
        ("/pkg.S=grpcs://a:1", Route(grpc_service="pkg.S", protocols=(GRPC,)), "grpcs://a:1"),
        ("http://127.0.0.1:3000", Route(protocols=WEB), "http://127.0.0.1:3000"),
        ("HTTP://127.0.0.1:3000/", Route(protocols=WEB), "http://127.0.0.1:3000"),
        ("grpc://[::1]:50051", Route(protocols=(GRPC,)), "grpc://[::1]:50051"),
        ("Example.COM.=http://a:1", Route(host="example.com", protocols=WEB), "http://a:1"),
        ("*.example.com=http://a:1", Route(host="*.example.com", protocols=WEB), "http://a:1"),
        ("a.b/api/v1=http://a:1", Route(host="a.b", path_prefix="/api/v1", protocols=WEB), "http://a:1"),
        ("/api/=http://a:1", Route(path_prefix="/api", protocols=WEB), "http://a:1"),
        ("/=http://a:1", Route(protocols=WEB), "http://a:1"),
        ("/a=b=http://a:1", Route(path_prefix="/a=b", protocols=WEB), "http://a:1"),
        ("/pkg.Service=grpc://a:1", Route(grpc_service="pkg.Service", protocols=(GRPC,)), "grpc://a:1"),
        ("a.b/pkg.S=grpc://a:1", Route(host="a.b", grpc_service="pkg.S", protocols=(GRPC,)), "grpc://a:1"),
        ("bücher.example=http://a:1", Route(host="xn--bcher-kva.example", protocols=WEB), "http://a:1"),
    ],
)
def test_route(text: str, route: Route, backend: str) -> None:
    spec = parse_route(text)
    assert spec.route == route
    assert str(spec.backend) == backend


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("3000", "write http://127.0.0.1:3000"),
        ("localhost:3000", "write http://localhost:3000"),
        ("a.com=3000", "write a.com=http://127.0.0.1:3000"),
        ("", "it looks like http"),
        ("=http://a:1", "leave the '=' away"),
        ("a.com:80=http://a:1", "leave the port away"),
        ("a..com=http://a:1", "'a..com' cannot be used"),
        ("*=http://a:1", "cannot be used"),
        ("a.*.com=http://a:1", "cannot be used"),
        ("/a b=http://a:1", "path prefix"),
        ("/a?x=http://a:1", "path prefix"),
        ("/pkg/S=grpc://a:1", "not a gRPC service"),
        ("/1pkg=grpc://a:1", "it looks like pkg.Service"),
        ("wss://a:1", "write https://a:1"),
        ("ws://a:1", "write http://a:1"),
        ("http://a", "http://HOST:PORT"),
        ("http://a:0", "has no port"),
        ("http://a:1/path", "no path"),
        ("http://user@a:x", "http://HOST:PORT"),
    ],
)
def test_bad_route(text: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_route(text)
    assert says in str(caught.value)


def test_token_is_never_shown() -> None:
    config = server_config({"token": "s3cret"})
    assert "s3cret" not in repr(config) + str(config) + f"{config.token}"
    assert config.token is not None
    assert config.token.reveal() == "s3cret"


@pytest.mark.parametrize("text", ["", "two words", "tab\t", "ü", "line\n"])
def test_bad_token(text: str) -> None:
    with pytest.raises(ConfigError, match="visible ASCII") as caught:
        Secret(text)
    assert not text or text not in str(caught.value)


@pytest.mark.parametrize("option", ["listen", "tunnel"])
@pytest.mark.parametrize("address", ["0.0.0.0:80", "[::]:80", "10.0.0.1:80", "t.example.com:80"])
def test_open_to_the_network_needs_a_token(option: str, address: str) -> None:
    with pytest.raises(ConfigError, match=f"--{option} .* token is needed"):
        server_config({option: address})
    assert server_config({option: address, "token": "t"})


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"lisen": "127.0.0.1:1"}, "there is no option 'lisen'; listen may be meant"),
        ({"listen": 5}, "listen cannot be 5: it is a text"),
        ({"initial_window": 1}, "initial_window cannot be 1: it is a whole number from 1024 to"),
        ({"drain_timeout_s": 0}, "drain_timeout_s cannot be 0: it is a number above 0"),
        ({"drain_timeout_s": 86_400}, "drain_timeout_s cannot be 86400: it is a number above 0 and up to 43200"),
        ({"tls": "both"}, 'it is a list of "public" or "tunnel"'),
        ({"connections": 2}, "connections is an option of the client"),
        ({"public_url": "example.com"}, "'example.com' is not the URL of a server (write http:// or https:// and"),
        ({"public_url": "ftp://example.com"}, "is not the URL of a server"),
        ({"public_url": "https://"}, "is not the URL of a server"),
        ({"public_url": "https://example.com/app"}, "is not the URL of a server"),
        ({"public_url": "https://u:p@example.com"}, "is not the URL of a server"),
        ({"public_url": "https://example.com:99999"}, "has no port between 0 and 65535"),
        ({"public_url": "https://*.example.com"}, "option domain tells"),
        ({"token": 5}, "token cannot be: it is a text"),
    ],
)
def test_bad_server_option(options: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        server_config(options)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"routes": ["http://a:1"]}, "--server HOST:PORT"),
        ({"server": "a", "routes": ["http://a:1"]}, "HOST:PORT"),
        ({"server": "a:1"}, "nothing to serve"),
        ({"server": "a:1", "routes": [{"backend": 5}]}, "routes[0]: backend cannot be 5: it is a text"),
        (
            {"server": "a:1", "routes": ["http://a:1", {"backend": "http://a:1", "x": 1}]},
            "routes[1]: there is no option",
        ),
        ({"server": "a:1", "routes": ["http://a:1", 5]}, "routes[1]: a route cannot be 5"),
        ({"server": "a:1", "routes": ["http://a:1"] * 1001}, "too many"),
    ],
)
def test_bad_client_option(options: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        client_config(options)
    assert says in str(caught.value)


def test_client_file(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cret\n")
    path = tmp_path / "client.toml"
    path.write_text(
        f"""
        server = "t.example.com:7000"
        token_file = "{tmp_path}/token"
        connect_timeout_s = 3

        [[routes]]
        route = "shop.example.com/api"
        backend = "http://127.0.0.1:3000"
        strip_prefix = true
        host_rewrite = "Internal.example:8080"

        [[routes]]
        backend = "grpc://127.0.0.1:50051"
        exclusive = true
        """
    )
    config = configure(ClientConfig, from_file(path))
    assert config.token is not None
    assert config.token.reveal() == "s3cret"
    assert config.connect_timeout_s == 3
    assert [spec.route for spec in config.routes] == [
        Route(
            host="shop.example.com",
            path_prefix="/api",
            strip_prefix=True,
            host_rewrite="Internal.example:8080",
            protocols=WEB,
        ),
        Route(protocols=(GRPC,), exclusive=True),
    ]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        from_file(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="No such file"):
        read_token(tmp_path / "none")
    (tmp_path / "bad.toml").write_text("listen = \n")
    with pytest.raises(ConfigError, match="is not TOML.*line 1"):
        from_file(tmp_path / "bad.toml")
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(ConfigError, match="holds no token"):
        read_token(tmp_path / "empty")


@pytest.mark.parametrize(
    ("mode", "exposed"), [(0o600, False), (0o400, False), (0o640, True), (0o604, True), (0o620, True)]
)
def test_files_with_tokens_that_others_can_read(tmp_path: Path, mode: int, exposed: bool) -> None:
    path = tmp_path / "token"
    path.write_text("s3cret\n")
    path.chmod(mode)
    token = read_token(path)
    assert (token.warning is not None) is exposed
    assert "s3cret" not in str(token.warning)
    path.write_text('token = "s3cret"\n')
    assert (from_file(path)["token"].value.warning is not None) is exposed
    assert exposure(tmp_path / "none") is None
    assert exposure(tmp_path) is None


def test_the_tokens_file_is_beside_the_file_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "server.toml").write_text('tokens_file = "tokens.toml"\nlisten = "0.0.0.0:80"\n')
    config = configure(ServerConfig, from_file(tmp_path / "server.toml"))
    assert config.tokens_file == str(tmp_path / "tokens.toml")
    assert config.token is None, "nor is one needed"


def test_an_explicit_token_wins_over_the_file() -> None:
    config = server_config({"token": "a", "token_file": "/does/not/exist"})
    assert config.token is not None
    assert config.token.reveal() == "a"


def test_error_is_one_line() -> None:
    error = FasttunnelError("what", detail="which", hint="do that")
    assert str(error) == "what: which (do that)"
    assert str(FasttunnelError("what")) == "what"


@pytest.mark.parametrize(
    ("options", "warnings"),
    [
        ({"tunnel": "127.0.0.1:0", "token": "short"}, []),
        ({"tunnel": "0.0.0.0:0", "token": "x" * 32}, ["in the clear"]),
        ({"tunnel": "0.0.0.0:0", "token": "short"}, ["in the clear", "guessed"]),
        ({"tunnel": "0.0.0.0:0", "token": "short", "cert": "c.pem"}, ["guessed"]),
        ({"tunnel": "0.0.0.0:0", "token": "x" * 32, "cert": "c.pem", "tls": "public"}, ["in the clear"]),
    ],
)
def test_what_a_server_warns_of(options: dict[str, str], warnings: list[str]) -> None:
    said = server_config(options).warnings()
    assert len(said) == len(warnings)
    assert all(expected in text for expected, text in zip(warnings, said, strict=True))


@pytest.mark.parametrize(
    ("options", "warns"),
    [
        ({"server": "t.example:7000", "token": "x"}, True),
        ({"server": "t.example:7000", "token": "x", "tls": True}, False),
        ({"server": "127.0.0.1:7000", "token": "x"}, False),
        ({"server": "t.example:7000"}, False),
    ],
)
def test_what_a_client_warns_of(options: dict[str, object], warns: bool) -> None:
    said = client_config({**options, "routes": ["http://127.0.0.1:1"]}).warnings()
    assert [text for text in said if "in the clear" in text] == said
    assert bool(said) is warns
