"""The options as JSON Schema, as TOML, and as the page of the documentation."""

import json
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from click.testing import CliRunner

from fasttunnel.cli import main
from fasttunnel.control import descriptions
from fasttunnel.control.config import ClientConfig, RouteEntry, ServerConfig
from fasttunnel.control.kinds import of_fields
from fasttunnel.control.schema import described, json_schema, page
from fasttunnel.control.sources import client_config, server_config
from fasttunnel.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
SERVER: dict[str, Any] = {
    "listen": "127.0.0.1:0",
    "cert": "a.pem",
    "tls": ["public"],
    "trusted_proxies": ["10.0.0.0/8"],
    "head_timeout_s": 1.5,
    "token": "x",
}
CLIENT: dict[str, Any] = {
    "server": "a:1",
    "pins": [],
    "routes": ["http://a:1", {"backend": "grpc://b:2", "route": "/x.Y", "exclusive": True}],
}


def test_the_page_is_that_of_the_code() -> None:
    assert (ROOT / "docs" / "configuration.md").read_text() == page(), "python tools/configuration.py writes it"


@pytest.mark.parametrize(
    ("kind", "texts"),
    [
        (ServerConfig, descriptions.SERVER),
        (ClientConfig, descriptions.CLIENT),
        (RouteEntry, descriptions.ROUTE),
    ],
)
def test_every_option_is_described(kind: type, texts: dict[str, str]) -> None:
    assert set(texts) == set(of_fields(kind))
    assert all(one.text.endswith((".", ":")) for one in described(kind))


@pytest.mark.parametrize(
    ("kind", "options", "build"), [(ServerConfig, SERVER, server_config), (ClientConfig, CLIENT, client_config)]
)
def test_the_schema_takes_what_the_program_takes(kind: Any, options: dict[str, Any], build: Any) -> None:
    schema = json_schema(kind)
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    assert [error.message for error in validator.iter_errors(options)] == []
    build(options)
    for name in of_fields(kind):
        for value in (5.5, "no such", [[]], -1, {}):
            changed = {**options, name: value}
            try:
                build(changed)
            except ConfigError:
                continue
            assert validator.is_valid(changed), (name, value)
    assert not validator.is_valid({**options, "no_such_option": 1})


def test_examples_that_the_schema_refuses() -> None:
    server, client = (jsonschema.Draft202012Validator(json_schema(kind)) for kind in (ServerConfig, ClientConfig))
    for options in ({"listen": 5}, {"initial_window": 1}, {"tls": ["both"]}, {"cert": [5]}, {"drain_timeout_s": 0}):
        assert not server.is_valid(options)
    for options in ({"routes": [5]}, {"routes": [{"route": "a"}]}, {"routes": [{"backend": "x", "bakend": "y"}]}):
        assert not client.is_valid(options)


def run(*arguments: str, **environment: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, ["config", *arguments], env={"FASTTUNNEL_TOKEN": "", **environment})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def test_check(tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_text('listen = "127.0.0.1:0"\n')
    assert run("check", str(file)) == (0, "right, for a server\n", "")
    file.write_text('server = "a:1"\nroutes = ["http://b:1"]\n')
    assert run("check", str(file))[:2] == (0, "right, for a client\n")
    code, out, err = run("check", str(file), "--for", "server")
    assert (code, out) == (2, "")
    assert f"{file}: server is an option of the client" in err
    file.write_text('cert = "no.pem"\n')  # a file that it names
    code, out, err = run("check", str(file))
    assert (code, out) == (2, "")
    assert f"cannot read {tmp_path}/no.pem" in err
    file.write_text('server = "a:1"\nroutes = ["http://b:1"]\ntoken = "x"\n')
    file.chmod(0o600)
    assert "in the clear" in run("check", str(file))[2]


def test_show_is_toml_and_says_where_values_come_from(tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_text('server = "a:1"\nroutes = ["x.example/api=http://b:1", "/p.S=grpc://b:2"]\ntoken = "s3cret"\n')
    file.chmod(0o600)
    code, out, _ = run("show", str(file), "--set", "connections=2", FASTTUNNEL_CLIENT_ID="me")
    assert code == 0
    assert "s3cret" not in out
    shown = tomllib.loads(out)
    assert (shown["connections"], shown["client_id"], shown["backoff_max_s"]) == (2, "me", 30)
    assert f'server = "a:1"  # {file}' in out
    assert "connections = 2  # --set connections" in out
    assert 'client_id = "me"  # FASTTUNNEL_CLIENT_ID' in out
    assert "backoff_max_s = 30  # default" in out
    again = client_config({**{name: value for name, value in shown.items() if name != "token"}})
    routes = tomllib.loads(file.read_text())["routes"]
    assert again.routes == client_config({"server": "a:1", "routes": routes}).routes


def test_the_schema_is_printed() -> None:
    code, out, _ = run("schema", "client")
    assert code == 0
    assert json.loads(out) == json.loads(json.dumps(json_schema(ClientConfig)))
