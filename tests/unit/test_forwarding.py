"""What a backend is told of the visitor."""

import pytest

from fasttunnel.control.config import ServerConfig
from fasttunnel.control.forwarding import Networks, forwarding_fields
from fasttunnel.control.sources import server_config
from fasttunnel.errors import ConfigError


def fields(*said: tuple[bytes, bytes], address: bytes = b"10.0.0.1", host: bytes = b"a.b") -> dict[bytes, bytes]:
    made = forwarding_fields(address, b"http", host, said)
    assert len(dict(made)) == len(made)
    return dict(made)


def test_of_a_visitor() -> None:
    assert fields() == {
        b"X-Forwarded-For": b"10.0.0.1",
        b"X-Forwarded-Proto": b"http",
        b"X-Forwarded-Host": b"a.b",
        b"Forwarded": b'for=10.0.0.1;proto=http;host="a.b"',
    }
    assert fields(address=b"::1", host=b"")[b"Forwarded"] == b'for="[::1]";proto=http'


def test_of_a_proxy() -> None:
    assert fields(
        (b"x-forwarded-for", b"1.1.1.1"),
        (b"X-Forwarded-For", b"2.2.2.2"),
        (b"X_Forwarded_For", b"6.6.6.6"),
        (b"x-forwarded-proto", b"https"),
        (b"x-forwarded-prefix", b"/shop"),
    ) == {
        b"X-Forwarded-For": b"1.1.1.1, 2.2.2.2, 10.0.0.1",
        b"X-Forwarded-Proto": b"https",
        b"X-Forwarded-Prefix": b"/shop",
        b"X-Forwarded-Host": b"a.b",
    }
    assert fields((b"forwarded", b"for=1.1.1.1"), (b"x-forwarded-for", b"")) == {
        b"X-Forwarded-Proto": b"http",
        b"X-Forwarded-Host": b"a.b",
        b"Forwarded": b'for=1.1.1.1, for=10.0.0.1;proto=http;host="a.b"',
    }
    assert fields((b"x-forwarded-proto", b"https"))[b"X-Forwarded-For"] == b"10.0.0.1"


def test_networks() -> None:
    networks = Networks(["10.0.0.0/8", "192.0.2.7", "2001:db8::/32"])
    for address in ("10.1.2.3", "::ffff:10.1.2.3", "192.0.2.7", "2001:db8::1", "2001:db8::1%eth0"):
        assert address in networks
    for address in ("11.1.2.3", "192.0.2.8", "2001:db9::1", "unknown", ""):
        assert address not in networks
    assert "127.0.0.1" not in Networks([])


@pytest.mark.parametrize("network", ["10.0.0.1/8", "proxy.example", ""])
def test_what_is_no_network(network: str) -> None:
    with pytest.raises(ConfigError, match="trusted_proxies"):
        ServerConfig(trusted_proxies=(network,))


def test_one_or_several() -> None:
    assert server_config({"trusted_proxies": "10.0.0.0/8"}).trusted_proxies == ("10.0.0.0/8",)
    assert server_config({"trusted_proxies": ["10.0.0.0/8", "::1"]}).trusted_proxies == ("10.0.0.0/8", "::1")
