"""The wire contract as a list of lines, one for each field, value and method, so that two versions can be compared.

    python -m tests.support.wire_listing

brings tests/corpus/wire-vN.txt up to date after an addition to proto/fasttunnel/v1/tunnel.proto (N is
limits.WIRE_VERSION), and refuses to write what would break peers of that version.
"""

import sys
from pathlib import Path

from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto

from fasttunnel import limits
from fasttunnel.wire import tunnel_pb2

CORPUS = Path(__file__).resolve().parents[1] / "corpus"
COMMAND = "python -m tests.support.wire_listing"
HEAD = """\
# The wire contract of the tunnel, version {version}: every field, value and method, as peers of this version know them.
# Lines may be added, by `{command}`. A line that goes or changes breaks these peers.
"""


def contract() -> FileDescriptorProto:
    """The contract as the generated code has it."""
    file = FileDescriptorProto()
    tunnel_pb2.DESCRIPTOR.CopyToProto(file)
    return file


def type_of(field: FieldDescriptorProto) -> str:
    """As in the .proto file: `repeated Header`, `optional bytes`, `string`."""
    if field.type_name:
        name = field.type_name.rpartition(".")[2]
    else:
        name = FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
    if field.label == FieldDescriptorProto.LABEL_REPEATED:
        return f"repeated {name}"
    return f"optional {name}" if field.proto3_optional else name


def oneof_of(message: DescriptorProto, field: FieldDescriptorProto) -> str:
    """The oneof that a field belongs to; empty: none."""
    if field.HasField("oneof_index") and not field.proto3_optional:
        return message.oneof_decl[field.oneof_index].name
    return ""


def listing(file: FileDescriptorProto) -> list[str]:
    """Everything that peers rely on, one line each; an empty line between messages."""
    lines = [f"package {file.package}"]
    for service in file.service:
        for method in service.method:
            asked = "stream " * method.client_streaming + method.input_type.rpartition(".")[2]
            answered = "stream " * method.server_streaming + method.output_type.rpartition(".")[2]
            lines.append(f"{service.name}.{method.name}({asked}) returns ({answered})")
    for enum in file.enum_type:
        lines.append("")
        lines += [f"{enum.name} {value.number} {value.name}" for value in sorted(enum.value, key=lambda it: it.number)]
    for message in file.message_type:
        assert not [*message.nested_type, *message.enum_type], f"types inside {message.name} are not listed here yet"
        lines.append("")
        lines += [f"{message.name} reserved {row.start} to {row.end - 1}" for row in message.reserved_range]
        for field in sorted(message.field, key=lambda it: it.number):
            oneof = oneof_of(message, field)
            lines.append(f"{message.name} {field.number} {type_of(field)} {field.name}" + f" in {oneof}" * bool(oneof))
    return lines


def path_of(version: int) -> Path:
    return CORPUS / f"wire-v{version}.txt"


def known(version: int) -> list[str]:
    """The lines of a version that are checked in."""
    return [line for line in path_of(version).read_text().splitlines() if not line.startswith("#")]


def broken(old: list[str], new: list[str]) -> list[str]:
    """The lines that peers rely on and that are no more. A number that was reserved may come into use."""
    return [line for line in old if line and line not in new and " reserved " not in line]


def complaint(lines: list[str], version: int) -> str:
    return (
        f"this breaks peers of version {version} of the wire contract, which rely on:\n    "
        + "\n    ".join(lines)
        + f"\nPut it back; or give limits.WIRE_VERSION a new number and add a snapshot with `{COMMAND}`."
    )


def main() -> None:
    version, new = limits.WIRE_VERSION, listing(contract())
    path = path_of(version)
    lost = broken(known(version), new) if path.exists() else []
    if lost:
        sys.exit(complaint(lost, version))
    path.write_text(HEAD.format(version=version, command=COMMAND) + "\n".join(new) + "\n")
    print(f"wrote {path.relative_to(CORPUS.parents[1])}")


if __name__ == "__main__":
    main()
