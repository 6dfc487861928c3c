"""Generate the Python code of the .proto files: ``python proto/generate.py PACKAGE_DIRECTORY``.

``make proto`` runs this with a pinned grpcio-tools, whose code works from the lower bound of our protobuf dependency
on; a unit test runs it with whatever version is installed and compares the contract.
"""

import re
import sys
import tempfile
from pathlib import Path

PROTO = Path(__file__).resolve().parent
PACKAGES = {  # .proto file -> the sub-package that gets its code
    "fasttunnel/v1/tunnel.proto": "wire",
    "fasttunnel/demo/v1/demo.proto": "demo",
}


def generate(package: Path) -> list[Path]:
    """Write the generated modules into the sub-packages of `package`, with relative imports; their paths inside it."""
    from grpc_tools import protoc  # needed by developers only

    written = []
    with tempfile.TemporaryDirectory() as work:
        outputs = [f"--{kind}_out={work}" for kind in ("python", "pyi", "grpc_python")]
        if protoc.main(["protoc", f"-I{PROTO}", *outputs, *PACKAGES]) != 0:
            raise SystemExit("protoc failed")
        for proto, folder in PACKAGES.items():
            (package / folder).mkdir(exist_ok=True)
            for made in sorted((Path(work) / proto).parent.glob(Path(proto).stem + "_pb2*")):
                text = re.sub(r"^from fasttunnel[.\w]* import", "from . import", made.read_text(), flags=re.MULTILINE)
                (package / folder / made.name).write_text(text)
                written.append(Path(folder) / made.name)
    return written


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    generate(Path(sys.argv[1]))
