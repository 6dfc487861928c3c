"""Records of finished requests, made where somebody asks for them (see Link.on_record)."""

from __future__ import annotations

from collections.abc import Callable

from fasttunnel.control.counts import PROTOCOLS
from fasttunnel.control.log import RequestRecord
from fasttunnel.engine._link import Link

GRPC = 2

OnRecord = Callable[..., None]


def recorder(tell: Callable[[RequestRecord], None] | None, client_id: Callable[[Link], str]) -> OnRecord | None:
    """None where nobody wants records: engines then make none."""
    if tell is None:
        return None

    def on_record(
        link: Link | None,  # None: it went into no tunnel
        request_id: str,
        protocol: int,
        label: tuple[str, str, str, str, str] | None,
        route: str,
        status: int,
        reset: int | None,
        messages_in: int,
        messages_out: int,
        bytes_in: int,
        bytes_out: int,
        duration_s: float,
    ) -> None:
        method, host, path, trace_id, peer = label or ("", "", "", "", "")
        if protocol == GRPC:
            method = path.rpartition("/")[2]
        tell(
            RequestRecord(
                request_id,
                PROTOCOLS[protocol],
                host,
                method,
                path,
                status,
                reset,
                messages_in,
                messages_out,
                bytes_in,
                bytes_out,
                duration_s,
                route,
                trace_id,
                client_id(link) if link is not None else "",
                peer,
            )
        )

    return on_record
