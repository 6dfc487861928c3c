"""Imports and cimports point downwards only: each module may use what stands before it in this list.

Modules on one line know nothing of each other. A `.pxd` of its own is declarations that stand lower than their module.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "src" / "fasttunnel"

LAYERS = """
    errors limits version
    wire.tunnel_pb2 wire.locate
    wire.tunnel_pb2_grpc
    control.counts control.terms
    control.forwarding control.routes control.backoff control.listening control.rates control.addresses control.notify
    control.tls control.watch control.privileges control.exposure control.home
    control.permission control.words
    control.names
    control.config control.outage control.tokens control.kinds control.descriptions
    control.sources control.schema control.files
    control.changes
    control.auth control.log control.taps control.trace control.certificates
    control.own_token control.login control.last_time
    control.registration control.access_lines control.redaction control.spans
    control.access
    control.view
    abc
    reach.http2 reach.backends reach.admin
    reach.marker
    reach.urls
    _core
    engine._nghttp2 engine._system engine._grpc engine._openssl engine._out
    engine._exchange engine._tls
    engine._tally engine._record
    engine._lines
    engine._journal
    engine._socket
    engine._io
    engine._http1 engine._http2 engine._websocket engine._listener
    engine._link
    engine._gate engine._target engine._metered_link engine.heartbeat engine.closing engine.opening engine.census
    engine._public_http2 engine._public_websocket engine._backend_http1 engine._backend_http2
    engine._public_http1 engine._backend_websocket
    engine._backends
    engine.server
    engine.client
    reference.messages reference.closing
    reference.fields reference.strict reference.grpc_streams reference.websocket_frames
    reference.tally
    reference.exchange reference.translation reference.http2
    reference.dispatch reference.relay reference.http1
    reference.carrier reference.websocket
    reference.public reference.backend reference.metering
    reference.backend_http1 reference.backend_grpc reference.recording
    reference.server
    reference.client
    admin
    admin.lag admin.http admin.subject
    admin.metrics admin.tap
    admin.pages
    admin.port
    succession
    api
    fasttunnel
    installation
    doctor.findings
    doctor.machine doctor.certificates doctor.peer
    doctor.client doctor.server
    doctor
    cli.traffic cli.first_url cli.tap_lines
    cli.options cli.running cli.screen cli.live cli.lines cli.reloading
    cli.server_screen cli.client_screen
    cli.client_checks
    demo.demo_pb2
    demo.demo_pb2_grpc
    demo.backends
    demo.traffic
    demo.show
    demo
    cli.server cli.client cli.cert cli.config cli.demo cli.login cli.token cli.version cli.completion cli.doctor cli.tap
    cli.short
    cli
    __main__
"""
RANK = {name: rank for rank, line in enumerate(LAYERS.strip().splitlines()) for name in line.split()}
# Packages that are only a docstring.
EMPTY = {"wire", "control", "engine", "reference", "reach"}

CYTHON_IMPORT = re.compile(r"^[ \t]*from[ \t]+(fasttunnel[\w.]*)[ \t]+c?import[ \t]+(\([^)]*\)|[^\n]+)", re.MULTILINE)


def module_of(path: Path) -> str:
    """The name of a source file's module without the package's; a .pxi is part of the kernels."""
    if path.suffix == ".pxi":
        return "_core"
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts) or "fasttunnel"
    declarations = f"{name}.pxd"
    return declarations if path.suffix == ".pxd" and declarations in RANK else name


def imported(path: Path) -> Iterator[str]:
    """The modules of this package that a file imports or cimports, anywhere in it."""
    text = path.read_text()
    if path.suffix == ".py":
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                source = node.module or ""
                if node.level:  # generated code only
                    source = ".".join(filter(None, ["fasttunnel", *path.relative_to(PACKAGE).parts[:-1], source]))
                yield from (f"{source}.{alias.name}" for alias in node.names)
    else:
        for source, names in CYTHON_IMPORT.findall(text):
            yield from (f"{source}.{name.split()[0]}" for name in names.strip("()").split(",") if name.strip())
            assert source  # every match names a module


def resolve(name: str) -> str | None:
    """The module that an imported name belongs to, or None when it is not ours."""
    if name != "fasttunnel" and not name.startswith("fasttunnel."):
        return None
    name = name.removeprefix("fasttunnel").removeprefix(".")
    while name and name not in RANK and name not in EMPTY:
        name = name.rpartition(".")[0]
    return name or "fasttunnel"


SOURCES = sorted(path for path in PACKAGE.rglob("*") if path.suffix in {".py", ".pyx", ".pxd", ".pxi"})


def test_every_module_has_its_place() -> None:
    assert len(SOURCES) > 20
    assert {module_of(path) for path in SOURCES} - EMPTY == set(RANK)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_downwards(path: Path) -> None:
    module = module_of(path)
    for name in imported(path):
        used = resolve(name)
        if used is None or used in EMPTY or used.removesuffix(".pxd") == module.removesuffix(".pxd"):
            continue
        declared = f"{used}.pxd"
        rank = RANK[declared] if declared in RANK and path.suffix != ".py" else RANK[used]
        assert rank < RANK[module], f"{module} stands below {used}"


def test_the_reference_is_plain_python() -> None:
    """It shares nothing with the data plane that it is compared with."""
    sources = sorted((PACKAGE / "reference").glob("*"))
    sources = [path for path in sources if path.name != "__pycache__"]
    assert len(sources) > 5
    assert {path.suffix for path in sources} == {".py"}
    used = {resolve(name) for path in sources for name in imported(path)}
    assert not [name for name in used if name and name.startswith(("_core", "engine"))]


def test_the_test_sees_imports() -> None:
    assert "fasttunnel.control.config.Secret" in set(imported(PACKAGE / "control" / "auth.py"))
    assert "fasttunnel._core.Msg" in set(imported(PACKAGE / "engine" / "_exchange.pxd"))
    assert resolve("fasttunnel.control.config.Secret") == "control.config"
    assert resolve("fasttunnel.__version__") == "fasttunnel"
    assert resolve("msgspec") is None
