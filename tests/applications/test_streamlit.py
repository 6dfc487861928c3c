"""Streamlit: a script whose every answer to a visitor comes over one WebSocket."""

from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.applications.browser import Browser
from tests.applications.conftest import FORGIVING, PROGRAMS, ROOT, Steps, free_port, needs, start, start_reach
from tests.support.tunnel import eventually

STREAMLIT = PROGRAMS / "streamlit"
pytestmark = needs(STREAMLIT)

APP = ROOT / "tests" / "applications" / "counter.py"


@pytest.mark.timeout(120)
async def test_a_session_lives_on(stack: AsyncExitStack, browser: Browser, tmp_path: Path) -> None:
    port = free_port()
    options = ("--server.headless=true", "--browser.gatherUsageStats=false", "--server.fileWatcherType=none")
    address = ("--server.address=127.0.0.1", f"--server.port={port}")
    steps = Steps(stack, tmp_path / "steps")
    command = (str(STREAMLIT), "run", str(APP), *options, *address)
    await start(stack, port, tmp_path / "streamlit.log", *command, STEPS=str(steps.path))
    reach = await start_reach(stack, port, "counter", tls=True, server=FORGIVING)
    page = await browser.page()
    await page.open(reach.url)
    await page.text("body", "counted to 0")
    more, tell = "[data-testid=stBaseButton-secondary]", "[data-testid=stElementContainer]:nth-child(4) button"
    await page.click(more)
    await page.text("body", "counted to 1")
    await page.click(tell)
    for number in range(20):
        assert f"word{number + 1}" not in (await page.text("body", f"word{number}")).split()
        steps.go()
    assert page.trouble == []

    await reach.cut()
    await eventually(lambda: len(page.opened) == 2, lambda: f"{page.opened} {page.trouble}")
    await page.click(more)
    await page.text("body", "counted to 2")
    await page.click("input")
    await page.enter("a word of the visitor")
    await page.press("Enter")
    await page.text("body", "noted a word of the visitor")
