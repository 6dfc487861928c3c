"""Streams of an app in Python: server-sent events, many at once, and an answer that comes word by word."""

from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.applications.browser import Browser
from tests.applications.conftest import PROGRAMS, ROOT, Reach, free_port, needs, start, start_reach

UVICORN = PROGRAMS / "uvicorn"
pytestmark = needs(UVICORN)

MANY = 50
STEP = "fetch('/step', { method: 'POST' }).then(() => true)"
HTTP1_CONNECTIONS = 6  # what a browser opens to one host


@pytest.fixture
def tls(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
async def reach(stack: AsyncExitStack, tmp_path: Path, tls: bool) -> Reach:
    port = free_port()
    app = ("tests.applications.streams:app", "--app-dir", str(ROOT), "--port", str(port), "--log-level", "warning")
    await start(stack, port, tmp_path / "app.log", str(UVICORN), *app)
    return await start_reach(stack, port, "streams", tls=tls, server=("--queue-timeout", "20"))


@pytest.mark.parametrize(
    ("tls", "at_once"), [(True, MANY), (False, HTTP1_CONNECTIONS)], ids=["h2", "h1"], indirect=["tls"]
)
async def test_many_streams_of_events(browser: Browser, reach: Reach, tls: bool, at_once: int) -> None:
    """All of them over one connection of HTTP/2; over HTTP/1.1 as many as the browser opens connections."""
    page = await browser.page()
    await page.open(f"{reach.url}/?streams={MANY}")
    flowing = "seen.filter(({ got }) => got.length > %d).length"
    await page.until(f"{flowing % 4} >= {at_once}")
    assert await page.evaluate(flowing % 0) == at_once
    assert {protocol for url, protocol in page.protocols.items() if "/events/" in url} == {"h2" if tls else "http/1.1"}

    # The tunnel is lost for a moment: the browser asks for what comes after the last event that it has.
    before = await page.evaluate("Math.max(...seen.map(({ got }) => got.length))")
    await reach.cut()
    await page.until(f"{flowing % (before + 4)} >= {at_once}")
    assert await page.evaluate("seen.every(({ got }) => got.every((number, place) => number === place))")


@pytest.mark.parametrize("tls", [True], ids=["h2"], indirect=True)
async def test_a_chat_that_answers_word_by_word(browser: Browser, reach: Reach) -> None:
    page = await browser.page()
    await page.open(reach.url)
    await page.until("document.querySelector('#ask').onclick !== null")
    await page.click("#ask")
    for number in range(40):
        said = (await page.text("#said", f"word{number}")).split()
        assert f"word{number + 1}" not in said, "it has waited for others"
        await page.evaluate(STEP)
    assert await page.evaluate("pieces") == 40

    # A reader who goes away ends the work for the answer.
    await page.click("#ask")
    await page.text("#said", "word0")
    await page.evaluate(STEP)
    await page.text("#said", "word1")
    await page.click("#stop")
    await page.until("fetch('/left').then(answer => answer.text()).then(text => text === '1')")
    assert "word2" not in await page.text("#said", "word1")
