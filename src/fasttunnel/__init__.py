"""fasttunnel: a reverse tunnel for HTTP, WebSocket and gRPC."""

__version__ = "0.1.0"
