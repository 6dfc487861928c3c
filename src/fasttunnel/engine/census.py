"""How many objects of the data plane exist: what tests compare before and after, and a status page may show."""

from fasttunnel.engine import _exchange, _io, _link


def census() -> dict[str, int]:
    """Objects alive in this process, by class, whether in use or waiting for the garbage collector."""
    return {"exchanges": _exchange.alive(), "connections": _io.alive(), "links": _link.alive()}
