"""Notices a dead peer: a tunnel that has been silent for two intervals although it was asked to answer is cut."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING

from fasttunnel.wire.tunnel_pb2 import CONTROL, Heartbeat, TunnelMessage

if TYPE_CHECKING:
    from fasttunnel.engine._link import Link


SAMPLES = 6  # round trips of which the shortest counts: others have waited behind what was under way


class HeartbeatTimer:
    """Sends a Heartbeat, and an HTTP/2 PING, which any peer answers, at once and then each interval."""

    def __init__(self, link: Link, interval_s: float) -> None:
        self._link = link
        self._interval_s = interval_s
        self._loop = asyncio.get_running_loop()
        self._nonce = 0
        self._sent_at = 0.0
        self._reads = -1
        self._silent = 0
        self._round_trips: deque[float] = deque(maxlen=SAMPLES)
        self._handle: asyncio.TimerHandle | None = None
        self._caught_up: asyncio.Future[None] | None = None
        self._beat()

    def _beat(self) -> None:
        conn = self._link.conn
        if conn is None:
            return
        self._silent = self._silent + 1 if conn.reads == self._reads else 0
        if self._silent >= 2:
            conn.cut()
            return
        self._reads = conn.reads
        self._ask()
        conn.keep_alive()
        self._handle = self._loop.call_later(self._interval_s, self._beat)

    def _ask(self) -> None:
        self._nonce += 1
        self._sent_at = time.monotonic()
        self._link.send_control(
            TunnelMessage(protocol_type=CONTROL, heartbeat=Heartbeat(nonce=self._nonce)).SerializeToString()
        )

    def catch_up(self) -> asyncio.Future[None]:
        """Done when the peer has read all that was sent so far, and we all that it had sent until then."""
        if self._caught_up is None:
            self._caught_up = self._loop.create_future()
            self._ask()
        return self._caught_up

    def received(self, heartbeat: Heartbeat) -> None:
        """Answer the peer's heartbeat, or note the answer to ours."""
        if heartbeat.reply:
            if heartbeat.nonce == self._nonce:
                self._round_trips.append(time.monotonic() - self._sent_at)
                self._link.measured(min(self._round_trips))
                if self._caught_up is not None and not self._caught_up.done():
                    self._caught_up.set_result(None)
            return
        answer = Heartbeat(nonce=heartbeat.nonce, reply=True)
        self._link.send_control(TunnelMessage(protocol_type=CONTROL, heartbeat=answer).SerializeToString())

    @property
    def round_trip_s(self) -> float | None:
        """The latest."""
        return self._round_trips[-1] if self._round_trips else None

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
        if self._caught_up is not None:
            self._caught_up.cancel()
