"""What fasttunnel is installed and run with: the build's choices, units of systemd, the image, manifests, man pages."""

import asyncio
import importlib.metadata
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from fasttunnel import __version__, limits
from fasttunnel.cli import main
from fasttunnel.control.config import ClientConfig, ServerConfig
from fasttunnel.control.sources import configure, from_file

ROOT = Path(__file__).resolve().parents[2]
PACKAGING = ROOT / "packaging"
SYSTEMD = PACKAGING / "systemd"
UNITS = sorted(SYSTEMD.glob("*.service"))


# -- the build --------------------------------------------------------------------------------------------------------


def setup(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """setup.py of this tree, on a machine with nothing but Python."""
    given = {**os.environ, "PATH": "/nowhere", "CC": "/nowhere/cc", **environment}
    command = [sys.executable, "setup.py", "-q", *arguments]
    return subprocess.run(command, cwd=ROOT, env=given, capture_output=True, text=True, timeout=60)


def needs(place: Path) -> set[str]:
    """What a metadata directory says that fasttunnel needs, extras aside."""
    (found,) = importlib.metadata.distributions(path=[str(place)])
    return {re.split(r"[<>=!; ]", line)[0] for line in found.requires or () if "extra ==" not in line}


def test_without_a_compiler_there_is_a_note_and_the_other_engine(tmp_path: Path) -> None:
    done = setup("dist_info", "--output-dir", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert {"click", "msgspec", "grpcio", "h11", "h2", "wsproto"} <= needs(tmp_path)

    done = setup("build_py", "--build-lib", str(tmp_path / "lib"))
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("note: fasttunnel is installed without its compiled engine") == 1
    assert "there is no pkg-config" in done.stderr
    assert "apt-get install gcc libnghttp2-dev" in done.stderr

    command = [sys.executable, "-m", "fasttunnel", "version"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "lib")}
    said = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, cwd=tmp_path).stdout
    assert "engine asyncio: the compiled engine cannot be loaded: it was not compiled when fasttunnel was" in said
    assert "there is no pkg-config" in said


@pytest.mark.skipif(shutil.which("pkg-config") is None, reason="pkg-config is not installed")
def test_libraries_without_a_compiler() -> None:
    done = setup("build_py", "--build-lib", "/nowhere", FASTTUNNEL_ENGINE="cython", PATH=os.environ["PATH"])
    assert done.returncode != 0
    assert "there is no C compiler: /nowhere/cc is not found" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_engine_that_is_asked_for() -> None:
    done = setup("dist_info", FASTTUNNEL_ENGINE="cython")
    assert done.returncode != 0
    assert "fasttunnel's compiled engine cannot be built" in done.stderr
    assert "Traceback" not in done.stderr
    assert "it is cython or asyncio" in setup("dist_info", FASTTUNNEL_ENGINE="fast").stderr
    assert setup("build_ext", "--inplace").returncode != 0, "who asks for the modules gets them, or an error"


@pytest.mark.skipif(shutil.which("pkg-config") is None, reason="pkg-config is not installed")
def test_with_a_compiler_no_more_is_needed(tmp_path: Path) -> None:
    given = {"PATH": os.environ["PATH"], "CC": os.environ.get("CC", "cc")}
    done = setup("dist_info", "--output-dir", str(tmp_path), FASTTUNNEL_ENGINE="cython", **given)
    if done.returncode != 0 and "cannot be built" in done.stderr:
        pytest.skip("the engine cannot be compiled here")
    assert done.returncode == 0, done.stderr
    metadata = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = {re.split(r"[<>=!; ]", line)[0] for line in metadata["tool"]["fasttunnel"]["dependencies"]}
    assert needs(tmp_path) == wanted


def test_versions_of_what_runs() -> None:
    command = [sys.executable, "-m", "fasttunnel", "version", "--json"]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout)
    assert found["fasttunnel"] == __version__
    assert found["engine"] in ("cython", "asyncio")
    assert found["reason"]
    assert re.match(r"OpenSSL 3\.|BoringSSL", found["openssl"])
    assert re.match(r"\d+\.\d+", found["uvloop"])
    assert found["engine"] != "cython" or re.match(r"1\.\d+", found["libnghttp2"])


# -- systemd ----------------------------------------------------------------------------------------------------------


def test_there_are_units() -> None:
    assert len(UNITS) == 2


@pytest.mark.parametrize(("name", "kind"), [("server", ServerConfig), ("client", ClientConfig)])
def test_examples_of_files(name: str, kind: type[Any], tmp_path: Path) -> None:
    """As a start reads them, but for the token, which is elsewhere."""
    text = (SYSTEMD / f"{name}.toml").read_text()
    file = tmp_path / f"{name}.toml"
    file.write_text(re.sub(r"^token_file = .*", "", text, flags=re.MULTILINE))
    settings = configure(kind, from_file(file))
    if isinstance(settings, ServerConfig):
        # They are found beside the file, where the unit and the hook put them.
        beside = {"cert.pem", "key.pem", "tokens.toml"}
        assert {*settings.cert, *settings.key, settings.tokens_file} == {str(tmp_path / one) for one in beside}
    else:
        unit = (SYSTEMD / "fasttunnel-client.service").read_text()
        assert "LoadCredential=token:/etc/fasttunnel/token" in unit
        assert 'token_file = "/run/credentials/fasttunnel-client.service/token"' in text


def test_a_renewed_certificate_is_put_where_the_server_reads(tmp_path: Path) -> None:
    source, target = tmp_path / "live", tmp_path / "etc"
    source.mkdir()
    target.mkdir()
    environment = {**os.environ, "FASTTUNNEL_ETC": str(target), "FASTTUNNEL_OWNER": "", "RENEWED_LINEAGE": str(source)}
    for turn in ("first", "second"):
        for name in ("fullchain", "privkey"):
            (source / f"{name}.pem").write_text(f"{turn} {name}")
        subprocess.run([str(SYSTEMD / "deploy-certificate")], env=environment, check=True, timeout=30)
        assert {path.name: path.read_text() for path in target.iterdir()} == {
            "cert.pem": f"{turn} fullchain",
            "key.pem": f"{turn} privkey",
        }
        assert (target / "key.pem").stat().st_mode & 0o777 == 0o400


@pytest.mark.parametrize("abstract", [False, True])
async def test_a_service_manager_is_told(tmp_path: Path, abstract: bool) -> None:
    if abstract and sys.platform != "linux":
        pytest.skip("Linux has abstract addresses")
    name = f"@fasttunnel-{os.getpid()}" if abstract else str(tmp_path / "notify")
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name[1:] if abstract else name)
        manager.setblocking(False)
        process = await asyncio.create_subprocess_exec(
            *[sys.executable, "-m", "fasttunnel", "server", "--listen", "127.0.0.1:0", "--tunnel", "127.0.0.1:0"],
            stdout=subprocess.DEVNULL,
            env={**os.environ, "NOTIFY_SOCKET": name, "FASTTUNNEL_TOKEN": ""},
        )
        try:
            async with asyncio.timeout(30):
                assert await loop.sock_recv(manager, 64) == b"READY=1"
                process.send_signal(signal.SIGTERM)
                assert await loop.sock_recv(manager, 64) == b"STOPPING=1"
                assert await process.wait() == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


def test_a_client_with_a_wrong_token_gets_nobody_barred() -> None:
    (client,) = [unit for unit in UNITS if "client" in unit.name]
    (pause,) = [line.partition("=")[2] for line in client.read_text().splitlines() if line.startswith("RestartSec=")]
    assert limits.FAILED_LOGINS_S / float(pause) < limits.MAX_FAILED_LOGINS


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_units(unit: Path) -> None:
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, timeout=60)
    said = [line for line in done.stderr.splitlines() if unit.name in line and "is not executable" not in line]
    assert said == [], "but that the program is not there"
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=20", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if "unrecognized option" in done.stderr:
        pytest.skip("this systemd-analyze cannot look at files")
    assert done.returncode == 0, done.stdout[-500:] + done.stderr


# -- containers -------------------------------------------------------------------------------------------------------


def as_command(arguments: list[str]) -> None:
    """The command line takes them; nothing is started."""
    command = main.commands[arguments[0]]
    command.make_context(arguments[0], list(arguments[1:]))


def test_image() -> None:
    text = (PACKAGING / "docker" / "Dockerfile").read_text()
    joined = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE))
    lines = [line.split(maxsplit=1) for line in joined.splitlines() if line.strip()]
    words = [word for word, _ in lines]
    known = {"ARG", "FROM", "RUN", "WORKDIR", "COPY", "ENV", "USER", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT", "CMD"}
    assert set(words) <= known
    assert words.count("FROM") == 2
    last = lines[len(words) - words[::-1].index("FROM") :]
    told = dict(last)
    assert not told["USER"].startswith(("0", "root"))
    assert [word for word, _ in last].index("USER") > [word for word, _ in last].index("RUN")
    assert json.loads(told["ENTRYPOINT"]) == ["fasttunnel"]
    as_command(json.loads(told["CMD"]))
    check = json.loads(told["HEALTHCHECK"].partition("CMD")[2])
    compile(check[2], "HEALTHCHECK", "exec")
    for word, rest in lines:
        if word == "RUN" and "apt-get install" in rest:
            assert "--no-install-recommends" in rest
            assert "rm -rf /var/lib/apt/lists/*" in rest
        assert word not in ("ENV", "ARG") or not re.search("token|secret|password", rest, re.IGNORECASE)
    # What the build reads is let in, and nothing else.
    let_in = (PACKAGING / "docker" / "Dockerfile.dockerignore").read_text().split()
    assert all((ROOT / line[1:]).exists() for line in let_in if line.startswith("!"))


def test_the_health_check_sees_a_port(tmp_path: Path) -> None:
    text = (PACKAGING / "docker" / "Dockerfile").read_text()
    command = json.loads(re.search(r'^ +(\["python", "-c".*\])$', text, re.MULTILINE)[1])  # type: ignore[index]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        environment = {**os.environ, "HEALTH_PORT": str(listener.getsockname()[1])}
        alive = subprocess.run([sys.executable, *command[1:]], env=environment, timeout=30)
    dead = subprocess.run([sys.executable, *command[1:]], env=environment, timeout=30, capture_output=True)
    assert (alive.returncode, dead.returncode) == (0, 1)


def test_compose() -> None:
    text = (PACKAGING / "docker" / "compose.yaml").read_text()
    whole = yaml.safe_load(text)
    services = whole["services"]
    assert set(services) == {"certificates", "server", "client", "app"}
    for name in ("server", "client"):
        as_command(shlex.split(services[name]["command"]))
        assert services[name]["environment"]["FASTTUNNEL_TOKEN"].startswith("${FASTTUNNEL_TOKEN:?")
        assert services[name]["read_only"]
        assert services[name]["cap_drop"] == ["ALL"]
    (shell,) = services["certificates"]["command"]
    as_command(shlex.split(shell.partition("fasttunnel ")[2]))
    assert [name for name, service in services.items() if "ports" in service] == ["server"]
    assert set(services["app"]["networks"]) & set(services["client"]["networks"]) == {"app"}
    assert "app" not in services["server"]["networks"]
    for service in services.values():
        assert set(service.get("networks", ())) <= set(whole["networks"])
        assert {mount.partition(":")[0] for mount in service.get("volumes", ())} <= set(whole["volumes"])
    build = services["server"]["build"]
    assert (PACKAGING / "docker" / build["context"] / build["dockerfile"]).resolve().exists()


def documents() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in sorted((PACKAGING / "kubernetes").glob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            yield path.name, document


def test_kubernetes(tmp_path: Path) -> None:
    found = list(documents())
    assert [(name, document["kind"]) for name, document in found] == [
        ("client.yaml", "ConfigMap"),
        ("client.yaml", "Deployment"),
        ("server.yaml", "ConfigMap"),
        ("server.yaml", "Deployment"),
        ("server.yaml", "Service"),
        ("sidecar.yaml", "Deployment"),
    ]
    maps = {document["metadata"]["name"] for _, document in found if document["kind"] == "ConfigMap"}
    for _, document in found:
        if document["kind"] != "Deployment":
            continue
        spec = document["spec"]["template"]["spec"]
        labels = document["spec"]["template"]["metadata"]["labels"]
        assert document["spec"]["selector"]["matchLabels"].items() <= labels.items()
        assert spec["securityContext"]["runAsNonRoot"]
        assert spec["terminationGracePeriodSeconds"] > limits.DRAIN_TIMEOUT_S
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        assert {volume["configMap"]["name"] for volume in volumes.values() if "configMap" in volume} <= maps
        for container in [*spec["containers"], *spec.get("initContainers", ())]:
            closed = container["securityContext"]
            assert closed["readOnlyRootFilesystem"] is True
            assert closed["capabilities"] == {"drop": ["ALL"]}
            assert closed["allowPrivilegeEscalation"] is False
            assert "memory" in container["resources"]["limits"]
            assert "env" not in container, "what is secret comes from files"
            assert {mount["name"] for mount in container.get("volumeMounts", ())} <= set(volumes)
            ports = {port["name"] for port in container.get("ports", ())}
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                assert probe not in container or container[probe]["tcpSocket"]["port"] in ports
            if container["image"].startswith("fasttunnel:"):
                assert container["image"] == f"fasttunnel:{__version__}"
                as_command(container["args"])
    (service,) = [document for _, document in found if document["kind"] == "Service"]
    server = next(document for name, document in found if name == "server.yaml" and document["kind"] == "Deployment")
    template = server["spec"]["template"]
    assert service["spec"]["selector"].items() <= template["metadata"]["labels"].items()
    ports = {port["name"] for port in template["spec"]["containers"][0]["ports"]}
    assert {port["targetPort"] for port in service["spec"]["ports"]} == ports


@pytest.mark.parametrize(("name", "kind"), [("server", ServerConfig), ("client", ClientConfig)])
def test_files_in_manifests(name: str, kind: type[Any], tmp_path: Path) -> None:
    (text,) = [
        document["data"][f"{name}.toml"]
        for file, document in documents()
        if document["kind"] == "ConfigMap" and file == f"{name}.yaml"
    ]
    file = tmp_path / f"{name}.toml"
    file.write_text(re.sub(r"^token_file = .*", "", text, flags=re.MULTILINE))
    configure(kind, from_file(file))
    mounts = {
        mount["mountPath"]
        for where, document in documents()
        if document["kind"] == "Deployment" and where == f"{name}.yaml"
        for mount in document["spec"]["template"]["spec"]["containers"][0]["volumeMounts"]
    }
    paths = re.findall(r'"(/[^"]+)"', text)
    assert paths
    assert {str(Path(path).parent) for path in paths} <= mounts


# -- workflows --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted((ROOT / ".github" / "workflows").glob("*.yml")), ids=lambda path: path.stem)
def test_workflows(path: Path) -> None:
    whole = yaml.safe_load(path.read_text())
    assert whole["permissions"] == {"contents": "read"}
    makefile = (ROOT / "Makefile").read_text()
    for job in whole["jobs"].values():
        assert set(job.get("needs", ())) <= set(whole["jobs"])
        for step in job["steps"]:
            assert ("uses" in step) != ("run" in step)
            for target in re.findall(r"^make ([a-z -]+?)(?: [A-Z]+=.*)?$", step.get("run", ""), re.MULTILINE):
                assert all(f"\n{one}:" in makefile for one in target.split())


def test_libraries_of_wheels_are_pinned() -> None:
    script = (PACKAGING / "wheels" / "libraries.sh").read_text()
    assert len(re.findall(r"_sha256=[0-9a-f]{64}$", script, re.MULTILINE)) == 2
    subprocess.run(["sh", "-n", str(PACKAGING / "wheels" / "libraries.sh")], check=True, timeout=30)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheels = project["tool"]["cibuildwheel"]
    for environment in (wheels["environment"], wheels["macos"]["environment"]):
        assert environment["FASTTUNNEL_STATIC"] == "1"
        assert environment["FASTTUNNEL_ENGINE"] == "cython"
    assert all(list(ROOT.glob(pattern)) for pattern in project["project"]["license-files"])


# -- manuals and completion -------------------------------------------------------------------------------------------


def test_man_pages_are_those_of_the_commands() -> None:
    command = [sys.executable, str(ROOT / "tools" / "man_pages.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")
def test_man_pages_are_well_formed() -> None:
    pages = sorted((PACKAGING / "man").glob("*.1"))
    assert len(pages) > 10
    command = ["groff", "-man", "-ww", "-Tutf8", *map(str, pages)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert "fasttunnel server --listen 0.0.0.0:80" in re.sub(r"\x1b\[[0-9;]*m|.\x08", "", done.stdout)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str) -> None:
    command = [sys.executable, "-m", "fasttunnel", "completion", shell]
    script = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert f"_FASTTUNNEL_COMPLETE={shell}_complete" in script
    if (program := shutil.which(shell)) is None:
        pytest.skip(f"{shell} is not installed")
    subprocess.run([program, "-n"], input=script, text=True, check=True, timeout=30)


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("fasttunnel do", "doctor"),
        ("fasttunnel tap --protocol g", "grpc"),
        ("fasttunnel server --queue", "--queue-timeout"),
        ("fasttunnel demo --engine ", "asyncio"),
    ],
)
def test_completion(typed: str, offered: str) -> None:
    words = typed.split(" ")
    given = {"_FASTTUNNEL_COMPLETE": "bash_complete", "COMP_WORDS": typed, "COMP_CWORD": str(len(words) - 1)}
    command = [sys.executable, "-c", "from fasttunnel.cli import main; main(prog_name='fasttunnel')"]
    done = subprocess.run(command, env={**os.environ, **given}, capture_output=True, text=True, timeout=60)
    assert offered in [line.partition(",")[2] for line in done.stdout.splitlines()]
