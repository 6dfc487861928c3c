"""Where options come from, and which one wins."""

from pathlib import Path

import pytest

from fasttunnel.control.config import ClientConfig, Secret, ServerConfig
from fasttunnel.control.sources import (
    COMMAND_LINE,
    Given,
    Text,
    configure,
    from_environment,
    from_file,
    from_flags,
    from_program,
    from_settings,
    merged,
    misspelt,
)
from fasttunnel.errors import ConfigError


def server(**flags: str) -> dict[str, Given]:
    return from_flags({name: ("--" + name.replace("_", "-"), Text(value)) for name, value in flags.items()})


def test_the_stronger_source_wins(tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    file.write_text("max_requests = 1\nmax_connections = 1\nbody_bytes = 1\ntarget_bytes = 8_000\n")
    environment = {"FASTTUNNEL_MAX_REQUESTS": "2", "FASTTUNNEL_MAX_CONNECTIONS": "2", "FASTTUNNEL_BODY_BYTES": "2"}
    options = merged(
        from_file(file),
        from_environment(environment, ServerConfig),
        from_settings(["max_requests=3", "max_connections = 3"]),
        server(max_requests="4"),
    )
    config = configure(ServerConfig, options)
    assert [config.max_requests, config.max_connections, config.body_bytes, config.target_bytes] == [4, 3, 2, 8000]
    assert [options[name].source for name in ("max_requests", "max_connections", "body_bytes", "target_bytes")] == [
        "--max-requests",
        "--set max_connections",
        "FASTTUNNEL_BODY_BYTES",
        str(file),
    ]


def test_the_token_of_the_stronger_source_wins_whether_in_a_file_or_not(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text(f"token-in-{name}\n")
        (tmp_path / name).chmod(0o600)
    (tmp_path / "server.toml").write_text('token_file = "a"\n')  # beside the file that says so
    layers = [from_file(tmp_path / "server.toml")]

    def token() -> str:
        config = configure(ServerConfig, *layers)
        assert config.token is not None
        return config.token.reveal()

    assert token() == "token-in-a"
    layers.append(from_environment({"FASTTUNNEL_TOKEN": "of-the-environment"}, ServerConfig))
    assert token() == "of-the-environment"
    layers.append(server(token_file=str(tmp_path / "b")))
    assert token() == "token-in-b"


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("127.0.0.1:1", "listen", "127.0.0.1:1"),
        ('"127.0.0.1:1"', "listen", "127.0.0.1:1"),
        ("7", "tokens_file", "7"),  # a text, whatever it looks like
        ("true", "reuse_port", True),
        ("1_000", "max_requests", 1000),
        ("10", "head_timeout_s", 10.0),
        ("10.0.0.0/8", "trusted_proxies", ("10.0.0.0/8",)),
        ('["10.0.0.0/8", "::1"]', "trusted_proxies", ("10.0.0.0/8", "::1")),
        ("", "trusted_proxies", ()),
    ],
)
def test_texts_are_read_as_the_option_wants(text: str, name: str, value: object) -> None:
    assert getattr(configure(ServerConfig, server(**{name: text})), name) == value
    assert getattr(configure(ServerConfig, from_settings([f"{name}={text}"])), name) == value
    if text:
        assert (
            getattr(configure(ServerConfig, from_environment({f"FASTTUNNEL_{name.upper()}": text}, ServerConfig)), name)
            == value
        )


def test_routes_of_the_environment_stand_between_spaces() -> None:
    environment = {"FASTTUNNEL_SERVER": "a:1", "FASTTUNNEL_ROUTES": "x.example=http://b:1 grpc://c:2"}
    config = configure(ClientConfig, from_environment(environment, ClientConfig))
    assert [str(spec.backend) for spec in config.routes] == ["http://b:1", "grpc://c:2"]
    environment["FASTTUNNEL_ROUTES"] = '["http://b:1", {backend = "http://c:2", exclusive = true}]'
    config = configure(ClientConfig, from_environment(environment, ClientConfig))
    assert [spec.route.exclusive for spec in config.routes] == [False, True]


def test_empty_variables_are_none_and_strange_ones_are_told() -> None:
    assert from_environment({"FASTTUNNEL_LISTEN": ""}, ServerConfig) == {}
    assert misspelt({"FASTTUNNEL_TOKEN_FILE": "x", "FASTTUNNEL_CONNECTIONS": "2", "FASTTUNNEL_ENGINE": "x"}) == []
    (told,) = misspelt({"FASTTUNNEL_LISEN": "x", "OTHER": "x"})
    assert told == "there is no option for the variable FASTTUNNEL_LISEN; FASTTUNNEL_LISTEN may be meant"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (from_settings(["head_timeout_s=x"]), "--set head_timeout_s cannot be 'x'"),
        (server(head_timeout_s="x"), "--head-timeout-s cannot be 'x': it is a number above 0"),
        (from_environment({"FASTTUNNEL_HEAD_TIMEOUT_S": "x"}, ServerConfig), "FASTTUNNEL_HEAD_TIMEOUT_S cannot be 'x'"),
        ({"head_timeout_s": Given("x", "server.toml")}, "server.toml: head_timeout_s cannot be 'x'"),
        (
            {"head_timeout": Given(1, "server.toml")},
            "server.toml: there is no option 'head_timeout'; head_ti",
        ),
        ({"pins": Given(1, "server.toml")}, "server.toml: pins is an option of the client"),
        (from_environment({"FASTTUNNEL_TOKEN": "a b"}, ServerConfig), "FASTTUNNEL_TOKEN: a token is made of"),
    ],
)
def test_a_mistake_names_its_place(options: dict[str, Given], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        configure(ServerConfig, options)
    assert str(caught.value).startswith(says)


def test_routes_name_their_place() -> None:
    for source, says in (
        ("client.toml", "client.toml: routes[1]: '3000' names no backend"),
        (COMMAND_LINE, "'3000' names no backend"),
        ("", "routes[1]: '3000' names no backend"),
    ):
        options = {"server": Given("a:1", source), "routes": Given(["http://a:1", "3000"], source)}
        with pytest.raises(ConfigError) as caught:
            configure(ClientConfig, options)
        assert str(caught.value).startswith(says)


def test_no_value_of_a_token_is_shown() -> None:
    for value in ("s3cret token", 12345):
        with pytest.raises(ConfigError) as caught:
            configure(ServerConfig, {"token": Given(value, "server.toml")})
        assert str(value) not in str(caught.value)
    assert isinstance(from_program({"token": Secret("t")})["token"].value, Secret)
