"""Objects of the engine that are alive: what has ended is gone at once, without the garbage collector's help."""

from fasttunnel.engine import _exchange, _io, _link


def exchanges() -> int:
    return int(_exchange.alive())


def connections() -> int:
    return int(_io.alive())


def links() -> int:
    return int(_link.alive())
