"""The control layer: configuration, routes, authentication, events, backoff. No engine, nothing per message."""
