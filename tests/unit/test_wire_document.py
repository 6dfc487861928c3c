"""docs/wire.md says of every message, field, value, code and limit what the schema and the program say."""

import re
from pathlib import Path
from typing import NamedTuple

import pytest
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto

from fasttunnel import limits
from fasttunnel.errors import ANSWERS, GrpcStatus, ResetCode
from tests.support.wire_listing import contract, oneof_of, type_of

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs" / "wire.md").read_text()


class Table(NamedTuple):
    heading: str  # the nearest one above
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]


def cells(line: str) -> tuple[str, ...]:
    return tuple(cell.strip().strip("`") for cell in line.strip().strip("|").split("|"))


def tables(text: str) -> list[Table]:
    """Every table of a Markdown text, in order."""
    found: list[Table] = []
    heading, inside = "", False
    for line in text.splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
        if not line.startswith("|"):
            inside = False
        elif not inside:
            inside = True
            found.append(Table(heading, cells(line), []))
        elif not set(line) <= set("|-: "):
            found[-1].rows.append(cells(line))
    return found


def table(*columns: str) -> Table:
    """The one table whose columns are headed so."""
    (only,) = [each for each in tables(DOCUMENT) if each.columns[: len(columns)] == columns]
    return only


# -- the schema


def documented_fields(text: str) -> list[str]:
    """`Message.field = number: type`, for fields of a oneof with its name."""
    found = []
    for heading, columns, rows in tables(text):
        if columns[1:3] != ("no.", "type"):
            continue
        oneof = "" if columns[0] == "field" else f", one of {columns[0]}"
        found += [f"{heading}.{name} = {number}: {kind}{oneof}" for name, number, kind, *_ in rows]
    return found


def documented_values(text: str) -> list[str]:
    return [
        f"{heading}.{name} = {number}"
        for heading, columns, rows in tables(text)
        if columns[:2] == ("value", "no.")
        for name, number, *_ in rows
    ]


def fields(file: FileDescriptorProto) -> list[str]:
    found = []
    for message in file.message_type:
        for field in message.field:
            oneof = oneof_of(message, field)
            line = f"{message.name}.{field.name} = {field.number}: {type_of(field)}"
            found.append(line + f", one of {oneof}" * bool(oneof))
    return found


def values(file: FileDescriptorProto) -> list[str]:
    return [f"{enum.name}.{value.name} = {value.number}" for enum in file.enum_type for value in enum.value]


def differences(said: list[str], meant: list[str]) -> list[str]:
    lines = [f"docs/wire.md lacks    {line}" for line in meant if line not in said]
    lines += [f"docs/wire.md invents  {line}" for line in said if line not in meant]
    return lines + [f"docs/wire.md repeats  {line}" for line in set(said) if said.count(line) > 1]


def test_every_field_is_documented_and_nothing_else() -> None:
    assert len(fields(contract())) > 80
    assert differences(documented_fields(DOCUMENT), fields(contract())) == []


def test_every_value_is_documented_and_nothing_else() -> None:
    assert len(values(contract())) > 15
    assert differences(documented_values(DOCUMENT), values(contract())) == []


def test_every_message_and_enum_has_its_section() -> None:
    file = contract()
    names = [each.name for each in [*file.message_type, *file.enum_type]]
    headings = re.findall(r"^### (\w+)$", DOCUMENT.partition("## All fields")[2], re.MULTILINE)
    assert sorted(headings) == sorted(names)


def test_reserved_numbers() -> None:
    reserved = [(row.start, row.end - 1) for message in contract().message_type for row in message.reserved_range]
    said = re.findall(r"^Numbers (\d+) to (\d+) are reserved", DOCUMENT, re.MULTILINE)
    assert [(int(first), int(last)) for first, last in said] == reserved


def test_the_call() -> None:
    file = contract()
    (service,) = file.service
    (method,) = service.method
    assert f"`/{file.package}.{service.name}/{method.name}`" in DOCUMENT
    asked, answered = method.input_type.rpartition(".")[2], method.output_type.rpartition(".")[2]
    assert f"service {service.name} {{ rpc {method.name}(stream {asked}) returns (stream {answered}); }}" in DOCUMENT


# -- the program


def test_reset_codes() -> None:
    """The table of what the public sees is `errors.ANSWERS`."""
    said = {}
    for code, http, grpc, ws_close in table("code", "HTTP and WebSocket handshake").rows:
        name, number = code.split()
        assert ResetCode[name] == int(number)
        close = 0 if ws_close == "-" else int(ws_close)
        said[ResetCode[name]] = (0 if http in ("-", "connection closed") else int(http), GrpcStatus[grpc], close)
    assert said == {code: answer[:3] for code, answer in ANSWERS.items()}


def test_refusals_are_statuses_of_grpc() -> None:
    assert {status for status, _ in table("status", "because").rows} <= set(GrpcStatus.__members__)


def test_limits() -> None:
    rows = table("limit").rows
    assert len(rows) > 5
    for what, value, name in rows:
        assert float(value.replace(",", "")) == getattr(limits, name), f"{what}: {name}"


def test_the_version() -> None:
    assert f"say to each other, version {limits.WIRE_VERSION}." in DOCUMENT


# -- the test itself


def test_a_field_without_a_line_shows() -> None:
    file = contract()
    reset = next(message for message in file.message_type if message.name == "Reset")
    reset.field.add(name="another", number=99, type=FieldDescriptorProto.TYPE_STRING)
    assert differences(documented_fields(DOCUMENT), fields(file)) == [
        "docs/wire.md lacks    Reset.another = 99: string"
    ]


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        ("| `message` | 2 | string |", "| `message` | 3 | string |"),
        ("| `message` | 2 | string |", "| `message` | 2 | bytes |"),
        ("| `message` | 2 | string |", "| `text` | 2 | string |"),
        ("| `rsv` | 7 | uint32 |", "| `rsv` | 7 | repeated uint32 |"),
        ("| `go_away` | 18 | GoAway |", "| `go_away` | 17 | GoAway |"),
        ("### Reset\n", "### Resets\n"),
        ("| `payload` | no. | type | |", "| field | no. | type | |"),
    ],
)
def test_a_wrong_line_shows(line: str, instead: str) -> None:
    assert DOCUMENT.count(line) == 1
    wrong = DOCUMENT.replace(line, instead)
    assert len(differences(documented_fields(wrong), fields(contract()))) > 0
