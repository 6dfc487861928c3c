"""What each option is for: the text of `--help`, of the JSON Schema and of docs/configuration.md."""

from typing import Final

_BOTH = {
    "initial_window": "Payload of a request that may be under way each way before more is granted: what a stalled "
    "reader may cost in memory.",
    "max_fragment": "Largest payload of one message of the tunnel; what is larger travels in pieces.",
    "max_window": "What the window of a request may grow to by itself where the way is long.",
    "window_budget": "What all windows may have grown by, together.",
    "header_list_bytes": "Head of a request or an answer, all fields together.",
    "ws_message_bytes": "Largest WebSocket message. Messages are streamed and never gathered.",
    "grpc_message_bytes": "Largest gRPC message. Messages are streamed and never gathered.",
    "drain_timeout_s": "How long requests under way may take to finish once a stop has been asked for.",
    "admin": "Where metrics, health and status are shown (docs/observability.md): HOST:PORT, or unix:PATH for a socket "
    "of this user's own. Default: nowhere.",
    "tap": "What `fasttunnel tap` may show to who can ask the admin port: none, messages, or payloads, with header "
    "fields and queries, as well. Default: payloads where admin is loopback or a socket of this user's own, "
    "else messages.",
    "access_log": "File for one line a request, - for standard output; opened anew on SIGHUP. Default: none.",
    "otlp": "Collector of OpenTelemetry, by OTLP over HTTP, such as http://127.0.0.1:4318: it gets a span of each "
    "request whose traceparent says that it is recorded (docs/observability.md). Default: none.",
    "log_format": "Of events and of the access log: lines for people, or JSON, both with the time. Default: lines as a "
    "terminal shows them, and an access log for people.",
    "log_level": "Events below it are not shown.",
    "watch_config": "Whether the file of --config is read again when it changes, and the token's with it; SIGHUP has "
    "them read in any case.",
}

SERVER: Final = {
    **_BOTH,
    "listen": "Where the public sends HTTP/1.1, HTTP/2, WebSocket and gRPC requests: HOST:PORT.",
    "tunnel": "Where clients dial in: HOST:PORT.",
    "domain": "Clients that name no host get NAME.DOMAIN, and *.DOMAIN has to lead here. NAME is what they ask for, or "
    "a readable one at random.",
    "public_url": "Where the public finds this server, if a proxy or a balancer stands in front of it, such as "
    "https://example.com: the URLs that clients print begin so. Default: the address of the public port.",
    "reuse_port": "Share both ports with another server that has this option, to take over from it (docs/failures.md).",
    "token": "One token for all clients, which permits everything; better in a file of its own (token_file).",
    "cert": "Certificate chains (PEM): both ports speak TLS. Of several, the name that is asked for (SNI) chooses. "
    "They are read again when they change.",
    "key": "Key of each certificate. Default: it is in the same file.",
    "tls": "Ports that use the certificates. Default: both.",
    "client_ca": "Clients have to show a certificate that was signed by one of these (mutual TLS on the tunnel port).",
    "tokens_file": "Tokens with their permissions, made by `fasttunnel token`; read again when it changes.",
    "max_failed_logins": "Failed logins of one address within a minute; then it is barred for a minute.",
    "max_connections_per_address": "Connections at once of one address (IPv6: of a network of 64 bits), to each port.",
    "trusted_proxies": "Networks, such as 10.0.0.0/8, whose own X-Forwarded-* and Forwarded count; those of others "
    "are replaced.",
    "target_bytes": "Target of a request: path and query.",
    "body_bytes": "Largest body of an HTTP request. Bodies are streamed and never gathered.",
    "max_connections": "Connections of the public at once.",
    "max_requests": "Requests under way at once.",
    "max_requests_per_tunnel": "Requests under way at once on one tunnel.",
    "head_timeout_s": "How long a connection of the public may take for the head of a request.",
    "keep_alive_timeout_s": "A connection of the public between two requests is closed after this.",
    "idle_timeout_s": "A request on which nothing passes, either way, is ended after this.",
    "ws_ping_interval_s": "WebSockets of the public that are silent for so long are asked by a Ping whether they live.",
    "ws_lost_close": "Close code of open WebSockets of the public whose tunnel is lost. 1006: no Close frame, the "
    "connection just ends; pages then connect again that take an orderly end for a wanted one, such as JupyterLab's.",
    "queue_timeout_s": "How many seconds a request waits for a client that is away to come back; 0: it gets 503 at "
    "once.",
    "queued_requests": "Requests that may wait so at once.",
    "request_id_header": "Field of answers that names the request as the logs of both ends do, unless the backend has "
    "set it; empty: none.",
    "heartbeat_interval_s": "Pause between heartbeats; a tunnel that is silent for two of them is given up.",
}

CLIENT: Final = {
    **_BOTH,
    "server": "The tunnel port of the server: HOST:PORT.",
    "token": "The token that the server asks for; better in a file of its own (token_file).",
    "client_id": "A name of this client's own, which nobody else can have meanwhile.",
    "name": "Wanted in front of the server's domain, for routes that name no host: NAME.example.com.",
    "any_name": "Whether another name will do when that one is taken.",
    "tls": "Dial the server by TLS, and check its certificate. Implied by ca, pins, server_name and cert.",
    "ca": "Who signs the server's certificate (PEM). Default: the authorities of the system.",
    "pins": "Keys that the server may have, sha256//BASE64; without ca that is enough. `fasttunnel cert --pin FILE` "
    "says them.",
    "server_name": "Name in the server's certificate. Default: the host that is dialled.",
    "cert": "Certificate (PEM) for a server that asks for one.",
    "key": "Its key. Default: it is in the same file.",
    "backend_ca": "Who signs the certificates of https:// and grpcs:// backends (PEM). Default: the authorities of "
    "the system.",
    "backend_verify": "Whether certificates of backends are checked; false is for backends on the same machine only.",
    "routes": 'What is served: "[ROUTE=]BACKEND" as on the command line, or a table.',
    "connections": "Tunnel connections side by side: requests spread over them, and one lost costs only its own.",
    "connect_timeout_s": "For connecting to the server or to a backend.",
    "keep_alive_timeout_s": "A connection to an HTTP backend that has not been used for so long is closed.",
    "backoff_min_s": "First pause before dialling again; each is drawn at random below a bound that doubles.",
    "backoff_max_s": "Longest pause before dialling again.",
}

TOKEN_FILE: Final = "File that holds the token, in its only line."
ROUTE: Final = {
    "backend": "http://HOST:PORT (HTTP and WebSocket), grpc://HOST:PORT, or https:// and grpcs:// with TLS.",
    "route": "host, *.host, host/prefix or /prefix; for gRPC host/pkg.Service or /pkg.Service. Default: everything.",
    "strip_prefix": "Take the path prefix of the route off before the backend sees the path.",
    "host_rewrite": "Host field that the backend sees instead of the visitor's.",
    "exclusive": "Share the route with no other client.",
}
