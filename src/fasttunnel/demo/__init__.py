"""`fasttunnel demo`: a server, a client and three real backends, with real traffic of each kind through the tunnel."""

from typing import TYPE_CHECKING

from fasttunnel.errors import FasttunnelError

if TYPE_CHECKING:
    from fasttunnel.api import EngineName


async def main(keep: bool, engine: "EngineName | None" = None) -> None:
    """Run the demo. Raises FasttunnelError when an answer was wrong, or a library of the backends is missing."""
    try:
        from fasttunnel.demo.show import run
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("fasttunnel"):
            raise
        raise FasttunnelError(
            f"the demo's backends need {error.name}", hint="pip install 'fasttunnel[demo]' brings it"
        ) from None
    await run(keep, engine)
