"""The corpus of tests/corpus/smuggling: its cases as bytes and frames, and what a backend may see of them."""

import re
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

FOLDER = Path(__file__).parents[1] / "corpus" / "smuggling"
# What attackers want a backend to take for a request of its own: 48 bytes.
SMUGGLED = "GET /smuggled HTTP/1.1\r\nHost: public.example\r\n\r\n"
SECRET = "secret.example"  # the host of another backend on the same tunnel
PSEUDO = {":method": "POST", ":scheme": "http", ":path": "/victim", ":authority": "public.example"}

_NAMED = {"CR": "\r", "LF": "\n", "NUL": "\0", "HT": "\t", "SP": " ", "DEL": "\x7f", "smuggled": SMUGGLED}
_ESCAPE = re.compile(r"<([^<>\n]+)>")
_KEYS = frozenset(
    (
        *("name", "source", "send", "insert", "then", "wait"),
        *("pseudo", "fields", "data", "trailers"),
        *("before", "sees", "refused", "closed", "cut", "begun", "may_see", "backend_sees", "own_answers", "asyncio"),
    )
)


class Seen(NamedTuple):
    """A request as a backend has understood it, whole; bytes as latin-1."""

    method: str
    target: str
    body: str
    fields: list[tuple[str, str]]  # names in lower case


class Expected(NamedTuple):
    """A request that a backend is to see."""

    method: str
    target: str
    body: str
    secret: bool  # by the backend of SECRET


class Case(NamedTuple):
    """One attack. The README beside the corpus says what the parts mean."""

    family: str
    name: str
    source: str
    send: bytes  # over HTTP/1.1
    then: bytes
    wait: str
    over_http2: bool
    head: list[tuple[bytes, bytes]]
    data: bytes
    trailers: list[tuple[bytes, bytes]]
    before: int  # the status of an answer of ours in front
    sees: list[Expected]
    refused: int  # 0: it is not
    closed: bool
    cut: bool
    begun: list[str]
    may_see: list[tuple[str, ...]]
    backend_sees: dict[str, str | bool]
    own_answers: dict[str, int]
    asyncio: dict[str, Any]

    @property
    def id(self) -> str:
        return f"{self.family}: {self.name}"

    @property
    def is_open(self) -> bool:
        """Whether the connection can go on afterwards."""
        return not (self.refused or self.closed or self.cut)

    def of_engine(self, engine: str) -> "Case":
        """The case as it is right for a server with this engine."""
        return self._replace(**self.asyncio) if engine == "asyncio" else self


def text(source: str) -> str:
    """The notation of the corpus: lines end in CR LF, <..> stands for what cannot be seen."""

    def decode(match: re.Match[str]) -> str:
        name = match[1]
        if name in _NAMED:
            return _NAMED[name]
        if re.fullmatch("[0-9a-f]{2}", name):
            return chr(int(name, 16))
        what, times = re.fullmatch(r"(.+)\*(\d+)", name).groups()  # type: ignore[union-attr]
        return str(what).replace("@", "\r\n") * int(times)

    return _ESCAPE.sub(decode, source.replace("\n", "\r\n"))


def load() -> list[Case]:
    """All cases, in the order of the files."""
    cases = [case for path in sorted(FOLDER.glob("*.toml")) for case in _family(path)]
    assert len({case.id for case in cases}) == len(cases), "names are given once"
    return cases


def _family(path: Path) -> list[Case]:
    found = tomllib.loads(path.read_text())
    return [_case(path.stem, found.get("usual", {}) | case) for case in found["case"]]


def _case(family: str, of: dict[str, Any]) -> Case:
    assert of.keys() <= _KEYS, of.keys() - _KEYS
    send = of.get("send", "")
    if "insert" in of:
        assert send.count("<insert>") == 1, of["name"]
        send = send.replace("<insert>", of["insert"])
    pseudo = PSEUDO | of.get("pseudo", {})
    head = [[name, value] for name, value in pseudo.items() if value is not False] + of.get("fields", [])
    return Case(
        family,
        of["name"],
        of["source"],
        _bytes(send),
        _bytes(of.get("then", "")),
        of.get("wait", ""),
        not send,
        _pairs(head),
        _bytes(of.get("data", "")),
        _pairs(of.get("trailers", [])),
        of.get("before", 0),
        _sees(of),
        of.get("refused", 0),
        of.get("closed", False),
        of.get("cut", False),
        [text(begun) for begun in of.get("begun", [])],
        [tuple(map(text, each)) for each in of.get("may_see", [])],
        {name: text(value) if isinstance(value, str) else value for name, value in of.get("backend_sees", {}).items()},
        of.get("own_answers", {}),
        of.get("asyncio", {}) | ({"sees": _sees(of["asyncio"])} if "sees" in of.get("asyncio", {}) else {}),
    )


def _sees(of: dict[str, Any]) -> list[Expected]:
    return [
        Expected(method, text(target), text(body), host == [SECRET])
        for method, target, body, *host in of.get("sees", [])
    ]


def _bytes(source: str) -> bytes:
    return text(source).encode("latin-1")


def _pairs(fields: list[list[str]]) -> list[tuple[bytes, bytes]]:
    return [(_bytes(name), _bytes(value)) for name, value in fields]
