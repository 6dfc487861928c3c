"""The asyncio engine: the same tunnel in plain Python, written to be read.

It is the executable specification of what the Cython data plane does, the oracle that tests compare it with, and what
the program falls back to where no extension can be loaded. It speaks the same wire contract, shares the control layer,
and imports nothing of the compiled modules.

To read it, from the tunnel to the sockets:

- `dispatch` (which message belongs to which request), `exchange` (order, credit and end of one request), `carrier`
  (the gRPC stream that both are on);
- `messages` (requests and answers as HTTP messages), `relay` (their two directions through the tunnel), `translation`
  (HTTP and gRPC as chunks; `grpc_streams` cuts messages), `fields` (what may pass);
- `http1`, `strict` and `http2` (the two versions of HTTP on sockets), `websocket_frames` and `websocket`;
- `public` (the side of the server), `backend`, `backend_http1`, `backend_grpc` (the side of the client);
- `server` and `client` (listening, registering, coming back, stopping).
"""
