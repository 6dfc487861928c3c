"""The backends of those who are not attacked, as a program: `python -m tests.hostile.backends`.

Its one line names an HTTP and WebSocket backend and one of gRPC.
"""

import asyncio
from contextlib import AsyncExitStack

from tests.support.grpc_peers import start_grpc
from tests.support.site import start_site


async def main() -> None:
    async with AsyncExitStack() as stack:
        print(await start_site(stack), await start_grpc(stack), flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
