"""The tokens file: what it may hold, what is said of mistakes, and the lines that `fasttunnel token` makes."""

import datetime
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fasttunnel.control.permission import Permission
from fasttunnel.control.tokens import digest_of, new_token, parse_tokens, read_tokens, token_lines
from fasttunnel.errors import ConfigError

HASH = "sha256:" + digest_of(b"s3cret").hex()
ENTRY = f'[[tokens]]\nname = "shop"\nhash = "{HASH}"\n'


def test_all_that_an_entry_may_hold() -> None:
    (token,) = parse_tokens(
        ENTRY
        + """
        expires = 2030-01-01T01:00:00+01:00
        hosts = ["Shop.example.", "*.shop.example", "bücher.example", "[::1]"]
        paths = ["/api/", "/"]
        services = ["shop.Cart"]
        client_ids = ["shop-1"]
        exclusive = false
        shared = true
        requests_per_second = 5
        bytes_per_second = 2.5e6
        """
    ).values()
    assert (token.name, token.digest) == ("shop", digest_of(b"s3cret"))
    assert token.expires_s == 1893456000
    assert token.permission == Permission(
        hosts=("shop.example", "*.shop.example", "xn--bcher-kva.example", "[::1]"),
        paths=("/api", ""),
        services=("shop.Cart",),
        client_ids=("shop-1",),
        exclusive=False,
        shared=True,
    )
    assert (token.requests_per_second, token.bytes_per_second) == (5, 2.5e6)


def test_what_is_left_away_is_permitted() -> None:
    (token,) = parse_tokens(ENTRY).values()
    assert token.permission == Permission()
    assert token.expires_s is None
    assert token.requests_per_second == token.bytes_per_second == 0


@pytest.mark.parametrize("when", ["2030-01-01", "2030-01-01T00:00:00", "2030-01-01 00:00:00Z"])
def test_a_day_begins_at_midnight_in_utc(when: str) -> None:
    (token,) = parse_tokens(ENTRY + f"expires = {when}\n").values()
    assert token.expires_s == 1893456000


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("s3cret\n", "is not TOML"),
        ("", "[[tokens]]"),
        ("tokens = 5\n", "`$.tokens`"),
        (ENTRY + "x = 1\n", "unknown field `x` - at `$.tokens[0]`"),
        ("other = 1\n" + ENTRY, "unknown field `other`"),
        ('[[tokens]]\nname = "shop"\n', "missing required field `hash`"),
        (ENTRY.replace('"shop"', '"two words"'), "`$.tokens[0].name`"),
        (ENTRY.replace('"shop"', '"shop\\n"'), "`$.tokens[0].name`"),
        (ENTRY.replace('"shop"', '"anonymous"'), "tokens[0], anonymous: the name is taken"),
        (ENTRY.replace('"shop"', '"token"'), "the name is taken"),
        (ENTRY.replace(HASH, "s3cret"), "`fasttunnel token shop --hash`"),
        (ENTRY.replace(HASH, HASH.upper()), "lower-case"),
        (ENTRY.replace(HASH, HASH + "0"), "64"),
        (ENTRY.replace("hash", "token"), "a token itself does not belong here"),
        (ENTRY + "hash = 5\n", "is not TOML"),
        (ENTRY + 'hosts = "a"\n', "`$.tokens[0].hosts`"),
        (ENTRY + 'hosts = [""]\n', "tokens[0], shop: an empty host cannot be used"),
        (ENTRY + 'hosts = ["a:80"]\n', "leave the port away"),
        (ENTRY + 'hosts = ["*"]\n', "cannot be used"),
        (ENTRY + 'paths = ["api"]\n', "path prefix 'api'"),
        (ENTRY + 'services = ["a/b"]\n', "gRPC service"),
        (ENTRY + 'services = [""]\n', "empty service"),
        (ENTRY + 'expires = "soon"\n', "unquoted"),
        (ENTRY + "expires = 12:00:00\n", "not a date"),
        (ENTRY + "requests_per_second = 0\n", "`$.tokens[0].requests_per_second`"),
        (ENTRY + "bytes_per_second = -1\n", "`$.tokens[0].bytes_per_second`"),
        (ENTRY + "bytes_per_second = inf\n", "`$.tokens[0].bytes_per_second`"),
        (ENTRY + "requests_per_second = nan\n", "`$.tokens[0].requests_per_second`"),
        (ENTRY + ENTRY, "tokens[1], shop: its hash is there twice"),
        (ENTRY + ENTRY.replace(HASH, HASH[:-4] + "0000") + "shared = true\n", "another token of this name"),
    ],
)
def test_mistakes(text: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_tokens(text)
    assert says in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_a_mistake_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    path.write_text("[[tokens]]\nname = 5\n")
    with pytest.raises(ConfigError, match=f"{path}: .*tokens.0..name"):
        read_tokens(path)
    path.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="UTF-8"):
        read_tokens(path)


def test_new_tokens_are_long_and_never_the_same() -> None:
    tokens = {new_token() for _ in range(1000)}
    assert len(tokens) == 1000
    assert all(len(token) == 3 + 43 and token.isascii() and token.isprintable() for token in tokens)  # 43 * 6 >= 256


NAMES = st.text("abcXYZ019._-", min_size=1, max_size=64).filter(lambda name: name not in ("token", "anonymous"))
WHEN = st.one_of(
    st.dates(datetime.date(1971, 1, 1)),
    st.datetimes(datetime.datetime(1971, 1, 1), timezones=st.just(datetime.UTC)),
)


@example("shop", bytes(32), {"client_ids": ("\x7f", "\x00", '"', "\\", "\u2028", "😀")})
@given(
    NAMES,
    st.binary(min_size=32, max_size=32),
    st.fixed_dictionaries(
        {},
        optional={
            "expires": WHEN,
            "hosts": st.just(("a.example", "*.b.example")),
            "client_ids": st.lists(st.text(max_size=8), max_size=3).map(tuple),
            "exclusive": st.booleans(),
            "shared": st.booleans(),
            "requests_per_second": st.floats(1e-3, 1e9),
            "bytes_per_second": st.floats(1e-3, 2**53),
        },
    ),
)
def test_the_lines_that_are_made_say_what_was_asked_for(name: str, digest: bytes, fields: dict[str, object]) -> None:
    (token,) = parse_tokens(token_lines(name, digest, **fields)).values()
    assert (token.name, token.digest) == (name, digest)
    assert token.permission.hosts == fields.get("hosts")
    assert token.permission.client_ids == fields.get("client_ids"), "an empty list permits nothing"
    assert token.permission.exclusive == fields.get("exclusive", True)
    assert token.permission.shared == fields.get("shared", False)
    assert token.requests_per_second == fields.get("requests_per_second", 0)
    assert token.bytes_per_second == fields.get("bytes_per_second", 0)
    when = fields.get("expires")
    if isinstance(when, datetime.datetime):
        assert token.expires_s == when.timestamp()
