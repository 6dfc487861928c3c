"""Every limit and time-out: its name with the unit, its default, and why it is that.

Those that can be changed are fields of the same meaning in `fasttunnel.control.config`.
"""

from typing import Final

# -- the tunnel -------------------------------------------------------------------------------------------------------

WIRE_VERSION: Final = 1
"""Version of the wire contract (Register.version)."""

FRAGMENT_BYTES: Final = 65_536
"""Largest payload of one TunnelMessage: what is larger travels in pieces, between which others get their turn."""

MIN_FRAGMENT_BYTES: Final = 1_024
"""Least of it; a peer that wants less gets this: messages of a byte would cost a hundred times what they carry."""

MAX_FRAGMENT_BYTES: Final = 131_072
"""What FRAGMENT_BYTES may be set to: a fragment waits until it is whole in a stream's HTTP/2 window of twice that."""

INITIAL_WINDOW_BYTES: Final = 262_144
"""Credit of a request before more is granted, each way: what a stalled reader may cost in memory at each end."""

TUNED_WINDOW_BYTES: Final = 16 * 1024 * 1024
"""What the window of a request may grow to by itself where the way is long: 1.3 Gbit/s over 100 ms."""

WINDOW_BUDGET_BYTES: Final = 64 * 1024 * 1024
"""What all windows of a process may have grown by, together, so that memory stays bounded."""

MAX_WINDOW_BYTES: Final = 2**31 - 1
"""Largest credit, as in HTTP/2 (RFC 9113 6.9.1)."""

TUNNEL_MESSAGE_BYTES: Final = 4 * 1024 * 1024
"""Largest TunnelMessage: the default limit of stock gRPC peers."""

BACKLOG_BYTES: Final = 16 * 1024 * 1024
"""What may wait for a peer that sends without reading: answers to what it sends, which no window bounds."""

REQUEST_ID_BYTES: Final = 16
"""Longest request_id of the wire contract."""

NAME_BYTES: Final = 255
"""Longest client_id and instance_id: they are kept as long as the client is known, and stand in the log."""

RESET_TEXT_BYTES: Final = 512
"""What the public gets to see of Reset.message, which is one of the peer's."""

HEARTBEAT_INTERVAL_S: Final = 10.0
"""Pause between heartbeats; a tunnel that is silent for two of them although it was asked to answer is given up."""

HEARTBEAT_MIN_S: Final = 0.05
"""Shortest pause that a server may ask for: more would only keep its client busy."""

HEARTBEAT_MAX_S: Final = 600.0
"""And the longest: a client has to notice in the end that its server is dead."""

BACKOFF_MIN_S: Final = 0.1
"""First pause before dialling again, before jitter."""

BACKOFF_MAX_S: Final = 30.0
"""Longest pause before dialling again: a server that comes back is found within half a minute."""

SETTLED_S: Final = 1.0
"""A client that is told to go (GoAway) by a server that took it so long ago dials again at once; else after a pause."""

# -- requests ---------------------------------------------------------------------------------------------------------

HEADER_LIST_BYTES: Final = 65_536
"""Head of a request or an answer, all fields together (HTTP answers 431 above it, RFC 6585 5)."""

TARGET_BYTES: Final = 16_384
"""Request target (HTTP answers 414 above it, RFC 9110 4.1 asks for at least 8,000)."""

HEAD_TIMEOUT_S: Final = 30.0
"""A public connection must complete each head it has begun in this time."""

RELOAD_INTERVAL_S: Final = 2.0
"""How often files that may change are looked at."""

SETTLE_S: Final = 0.5
"""A file that has changed counts when it has been left alone for so long, where half of it would do harm."""

HANDSHAKE_TIMEOUT_S: Final = 10.0
"""TLS: from the TCP connection until the end of the handshake."""

KEEP_ALIVE_TIMEOUT_S: Final = 75.0
"""A public connection between two requests is closed after this."""

BACKEND_KEEP_ALIVE_TIMEOUT_S: Final = 60.0
"""The same for a connection to an HTTP backend: before most servers close it from their side."""

IDLE_TIMEOUT_S: Final = 0.0
"""A request on which nothing passes, either way, for so long is ended; 0: never, streams and slow answers may wait."""

WS_PING_INTERVAL_S: Final = 0.0
"""WebSockets of the public that are silent for so long are asked by a Ping whether they live; 0: never."""

REFUSED_S: Final = 2.0
"""How long a connection beyond max_connections has for the request that is refused."""

MAX_REQUESTS: Final = 0
"""Requests under way on a server at once; 0: no limit."""

MAX_REQUESTS_PER_TUNNEL: Final = 0
"""The same on one tunnel."""

MAX_CONNECTIONS: Final = 0
"""Connections of the public at once; 0: no limit but that of the system."""

MAX_CONNECTIONS_PER_ADDRESS: Final = 0
"""Connections of one address (IPv6: of one /64) at once, to each of the two ports; 0: no limit, it may be a proxy."""

BODY_BYTES: Final = 0
"""Largest body of an HTTP request; 0: no limit, for bodies are streamed and never gathered."""

HALF_CLOSED_S: Final = 5.0
"""A public HTTP/1.1 peer that has closed its side is taken for gone when its answer is silent for this long."""

CONNECT_TIMEOUT_S: Final = 10.0
"""Connecting to a backend or to the server."""

WS_MESSAGE_BYTES: Final = 0
"""Largest WebSocket message; 0: no limit, for messages are streamed and never gathered."""

GRPC_MESSAGE_BYTES: Final = 0
"""Largest gRPC message; 0: no limit but that of its length field, 4 GiB."""

WS_REFUSAL_BODY_BYTES: Final = 65_536
"""Body of a refused WebSocket handshake that is passed on (WebSocketResponse.body)."""

RETRY_AFTER_S: Final = 1
"""Retry-After of a 503 (RFC 9110 10.2.3)."""

QUEUE_TIMEOUT_S: Final = 0.0
"""How long a new request waits for a client that is away to come back; 0: it is answered 503 at once."""

QUEUED_REQUESTS: Final = 1_000
"""Requests that wait for clients at once; further ones are answered 503. Each may hold its head and one read."""

# -- starting and stopping --------------------------------------------------------------------------------------------

DRAIN_TIMEOUT_S: Final = 30.0
"""How long requests under way may take to finish once a stop has been asked for."""

DRAIN_MAX_S: Final = 43_200.0
"""Most of it, half a day: well below UNHURRIED_S, which says another thing."""

HANDOVER_S: Final = 5.0
"""With reuse_port, how long a stop waits at most for the clients to register with the next process."""

HANDOVER_SETTLE_S: Final = 1.0
"""And how long it then serves what still comes on connections of the public; each ends with its next answer."""

UNHURRIED_S: Final = 86_400.0
"""What a tunnel that is replaced at a reload gives its requests under way. So much in a GoAway, or more, is no reason
to ask WebSockets to leave."""

REPLACED_TUNNELS: Final = 8
"""Tunnels of before a reload that may live on beside the new one; the oldest of more are drained as at a stop."""

# -- tokens -----------------------------------------------------------------------------------------------------------

TOKEN_BYTES: Final = 32
"""Random bytes of a token that `fasttunnel token` makes: 256 bits, which nobody guesses from their hash."""

SHORT_TOKEN: Final = 32
"""Characters; a shorter one is hashed with a warning. `openssl rand -hex 16` makes so many, of 128 bits."""

TOKENS_POLL_S: Final = 1.0
"""How often the tokens file is looked at; a change counts when it is seen twice, so that none is read half written."""

MAX_FAILED_LOGINS: Final = 10
"""Of one address within FAILED_LOGINS_S; then its tokens are not looked at for as long. 0: no limit."""

FAILED_LOGINS_S: Final = 60.0
"""See MAX_FAILED_LOGINS."""

ADDRESSES: Final = 65_536
"""Addresses whose mistakes are remembered, at most: about 10 MB."""

SAME_LINE_S: Final = 10.0
"""How often it is logged that an address is refused, or that a backend cannot be reached."""

CLIENT_ID: Final = 128
"""Characters of the name of a client: it is remembered, and shown in logs."""

ACCESS_LOG_BYTES: Final = 16 * 1024 * 1024
"""Records that wait for a disk that is slow; beyond it lines are lost, and counted."""

# -- counting ---------------------------------------------------------------------------------------------------------

COUNTED_ROUTES: Final = 100
"""Routes that metrics tell apart; further ones are "other": clients name them, and who reads metrics keeps each."""

COUNTED_METHODS: Final = 200
"""The same for methods of gRPC; one counts once a backend has served it."""

COUNTED_CLOSE_CODES: Final = 32
"""The same for close codes of WebSockets: an application may have 2,000 of its own."""

# -- routes -----------------------------------------------------------------------------------------------------------

HOST_BYTES: Final = 255
"""Longest host name (RFC 1035 2.3.4); longer ones are matched but not remembered."""

ROUTES_PER_CLIENT: Final = 1_000
"""Routes in one Register."""

CONNECTIONS: Final = 64
"""Tunnel connections of one client, at most."""

OUTAGE_S: Final = 60.0
"""The routes of a client that has gone are remembered for this long (503 instead of 404): twice BACKOFF_MAX_S."""

REMEMBERED_ROUTES: Final = 10_000
"""Of clients that have gone, in all; the oldest are forgotten first."""
