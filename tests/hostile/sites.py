"""The sites that attacks need, each started once."""

from collections.abc import Mapping, Sequence

from tests.hostile import (  # noqa: F401
    grpc,
    grpc_backends,
    hostile_server,
    http1,
    http1_answers,
    http1_bodies,
    http1_smuggling,
    http2,
    http2_backends,
    http2_floods,
    http2_heads,
    system,
    tunnel_client,
    tunnel_port,
    websocket,
    websocket_backend,
    websocket_handshakes,
)
from tests.hostile.false_server import PLAYED, ClientSite
from tests.hostile.processes import Process
from tests.hostile.site import Site


class Sites:
    def __init__(self) -> None:
        self._backends: Process | None = None
        self._sites: dict[str, Site] = {}

    def get(self, engine: str, options: Mapping[str, Sequence[str]]) -> Site:
        """A site of this engine with these options of the two commands."""
        if self._backends is None:
            self._backends = Process("tests.hostile.backends")
        key = f"{engine} {sorted(options.items())}"
        site = self._sites.get(key)
        if site is None or not all(process.alive for process in site.ends):
            if site is not None:
                site.close()
            kind = ClientSite if options.get("server") == PLAYED else Site
            site = self._sites[key] = kind(engine, self._backends, options)
        return site

    def close(self) -> None:
        for site in self._sites.values():
            site.close()
        if self._backends is not None:
            self._backends.kill()
