"""Generate the Python code of the wire contract: ``python proto/generate.py OUTPUT_DIRECTORY``.

``make proto`` runs this with a pinned grpcio-tools, whose code works from the lower bound of our protobuf dependency
on; a unit test runs it with whatever version is installed and compares the contract.
"""

import re
import sys
import tempfile
from pathlib import Path

PROTO = Path(__file__).resolve().parent
FILES = ("tunnel_pb2.py", "tunnel_pb2.pyi", "tunnel_pb2_grpc.py")


def generate(output: Path) -> list[Path]:
    """Write the generated modules into `output`, with package-relative imports."""
    from grpc_tools import protoc  # needed by developers only

    with tempfile.TemporaryDirectory() as work:
        arguments = ["protoc", f"-I{PROTO}", *(f"--{kind}_out={work}" for kind in ("python", "pyi", "grpc_python"))]
        if protoc.main([*arguments, "fasttunnel/v1/tunnel.proto"]) != 0:
            raise SystemExit("protoc failed")
        for name in FILES:
            text = (Path(work) / "fasttunnel" / "v1" / name).read_text()
            text = re.sub(r"^from fasttunnel\.v1 import", "from . import", text, flags=re.MULTILINE)
            (output / name).write_text(text)
    return [output / name for name in FILES]


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    generate(Path(sys.argv[1]))
