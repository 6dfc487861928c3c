"""Vite's development server: a page whose parts are replaced over a WebSocket while it is edited."""

import json
import shutil
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest

from tests.applications.browser import Browser
from tests.applications.conftest import DOMAIN, FORGIVING, free_port, needs, picture, start, start_reach
from tests.support import programs
from tests.support.tunnel import eventually

PROJECT = Path(__file__).with_name("vite")
VITE = PROJECT / "node_modules" / "vite" / "bin" / "vite.js"
pytestmark = needs(VITE)

ALLOWED = {"server": {"allowedHosts": [f".{DOMAIN}"]}}


async def start_vite(stack: AsyncExitStack, folder: Path, config: dict[str, object]) -> tuple[int, Path]:
    """Its port, and its sources: a copy, to be edited."""
    node = programs.need("node")
    sources = folder / "sources"
    shutil.copytree(PROJECT, sources, ignore=shutil.ignore_patterns("node_modules"))
    (sources / "node_modules").symlink_to(PROJECT / "node_modules")
    (sources / "vite.config.js").write_text(f"export default {json.dumps({'cacheDir': '.cache', **config})};")
    port = free_port()
    await start(stack, port, folder / "vite.log", node, str(VITE), str(sources), "--port", str(port), "--strictPort")
    return port, sources


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.timeout(180)
async def test_edits_are_seen_without_a_reload(stack: AsyncExitStack, browser: Browser, tmp_path: Path) -> None:
    port, sources = await start_vite(stack, tmp_path, ALLOWED)
    reach = await start_reach(stack, port, "page", tls=True, server=FORGIVING)
    page = await browser.page()
    await page.open(reach.url)
    await page.text("#greeting", "Hello from Vite")
    await eventually(lambda: page.sockets)
    await page.click("#more")
    await page.click("#more")

    # The script and the style are replaced, and the page keeps what it has counted.
    edit(sources / "greeting.js", "Hello from Vite", "Edited while it runs")
    await page.text("#greeting", "Edited while it runs")
    edit(sources / "style.css", "rgb(0, 90, 160)", "rgb(1, 110, 60)")
    await page.until("getComputedStyle(document.querySelector('#greeting')).color === 'rgb(1, 110, 60)'")
    assert await page.evaluate("document.querySelector('#count').value") == "2"
    assert page.trouble == []
    await picture(page, "vite")

    # When the tunnel was lost Vite's script looks until it is back, and loads the page again.
    await reach.cut()
    await eventually(lambda: len(page.opened) > 1 and page.sockets, lambda: f"{page.opened} {page.trouble}")
    await page.text("#greeting", "Edited while it runs")
    await page.until("document.querySelector('#count').value === '0'")
    await page.click("#more")
    edit(sources / "greeting.js", "Edited while it runs", "And after the tunnel was lost")
    await page.text("#greeting", "And after the tunnel was lost")
    assert await page.evaluate("document.querySelector('#count').value") == "1"


@pytest.mark.timeout(120)
async def test_it_has_to_be_told_of_other_names(stack: AsyncExitStack, tmp_path: Path) -> None:
    port, _ = await start_vite(stack, tmp_path, {})
    reach = await start_reach(stack, port, "page")
    async with aiohttp.ClientSession() as http, http.get(reach.here, headers={"Host": reach.host}) as got:
        assert got.status == 403
        assert "allowedHosts" in await got.text()
