"""HTTP backends made of aiohttp."""

from contextlib import AsyncExitStack

from aiohttp import web


async def start_web(stack: AsyncExitStack, *routes: web.AbstractRouteDef) -> str:
    """A site with `routes` on a free port; its URL."""
    app = web.Application(client_max_size=2**40)
    app.add_routes(routes)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=4096).start()
    return f"http://127.0.0.1:{runner.addresses[0][1]}"
