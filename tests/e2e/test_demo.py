"""`fasttunnel demo`, as README's first minute shows it."""

import re
import signal
from contextlib import AsyncExitStack

from aiohttp import ClientSession

from tests.support.command import command

KINDS = {"http": 4, "websocket": 1, "grpc": 5}  # requests of each kind in the table


async def test_every_answer_is_right_and_the_table_shows_every_request() -> None:
    async with command("demo") as demo:
        assert await demo.end() == 0, "\n".join(demo.lines)
    text = "\n".join(demo.lines)
    assert "Every answer was right" in text
    assert len(re.findall(r"^  ok ", text, re.MULTILINE)) == sum(KINDS.values())
    rows = re.findall(r"^((?:h|ws|g)-\w+) +(\w+) ", text, re.MULTILINE)
    assert len({request_id for request_id, _ in rows}) == len(rows)
    assert {kind: [protocol for _, protocol in rows].count(kind) for kind in KINDS} == KINDS


async def test_keep_stays_up_until_a_signal(stack: AsyncExitStack) -> None:
    demo = await stack.enter_async_context(command("demo", "--keep"))
    url = (await demo.line(r"in a browser +(http://[^ ]+)"))[1]
    await demo.line("another app")
    async with ClientSession() as http, http.get(url) as answer:
        assert "It works" in await answer.text()
    demo.signal(signal.SIGTERM)
    assert await demo.end() == 0
