"""JupyterLab: kernel and terminal over WebSockets, and files, as a visitor has them in a browser."""

import json
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest

from tests.applications.browser import CONTROL, SHIFT, Browser, Page
from tests.applications.conftest import FORGIVING, PROGRAMS, Steps, free_port, needs, picture, start, start_reach
from tests.support.tunnel import eventually

JUPYTER = PROGRAMS / "jupyter-lab"
pytestmark = needs(JUPYTER)

TOKEN = "a-token-of-this-test"
STEPS = """go = open({pipe!r})
for step in range(5):
    print(f"step {{step}}")
    go.readline()
kept = 41"""
CELL = ".jp-Notebook .jp-CodeCell"
TERMINAL = ".jp-LauncherCard[title='Start a new terminal session']"


def notebook(*cells: str) -> str:
    kinds = {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": []}
    listed = [{**kinds, "id": f"cell-{number}", "source": source} for number, source in enumerate(cells)]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return json.dumps({"cells": listed, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5})


async def start_jupyter(stack: AsyncExitStack, folder: Path, *options: str, cells: tuple[str, ...] = ()) -> int:
    """Its port; the files that it serves are in `files`, a notebook with these cells among them."""
    files = folder / "files"
    files.mkdir()
    (files / "steps.ipynb").write_text(notebook(*cells))
    quiet = folder / "config" / "labconfig" / "page_config.json"
    quiet.parent.mkdir(parents=True)
    quiet.write_text('{"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": true}}')
    port = free_port()
    named = {"ip": "127.0.0.1", "port": port, "port_retries": 0, "root_dir": files, "allow_root": True}
    await start(
        stack,
        port,
        folder / "jupyter.log",
        str(JUPYTER),
        "--no-browser",
        f"--IdentityProvider.token={TOKEN}",
        *(f"--ServerApp.{name}={value}" for name, value in named.items()),
        *options,
        JUPYTER_CONFIG_DIR=str(folder / "config"),
        SHELL="/bin/sh",
    )
    return port


def heard(page: Page, channel: str, text: str) -> list[str]:
    """Messages in which `text` has come over WebSockets."""
    return [payload for url, payload in page.frames if channel in url and text in payload]


def opened(page: Page, channel: str) -> int:
    """How often a WebSocket has been opened."""
    return len([url for url in page.opened if channel in url])


@pytest.mark.timeout(240)
async def test_a_notebook_a_terminal_and_files(stack: AsyncExitStack, browser: Browser, tmp_path: Path) -> None:
    steps = Steps(stack, tmp_path / "steps")
    cells = STEPS.format(pipe=str(steps.path)), "print(kept + 1)"
    port = await start_jupyter(stack, tmp_path, "--ServerApp.allow_remote_access=True", cells=cells)
    reach = await start_reach(stack, port, "lab", tls=True, server=FORGIVING)

    # A cell prints in steps, and each is seen before the next.
    page = await browser.page()
    await page.open(f"{reach.url}/lab/tree/steps.ipynb?token={TOKEN}")
    await page.text("#jp-bottom-panel", "Idle")
    await page.click(f"{CELL} .cm-content")
    await page.press("Enter", SHIFT)
    for step in range(5):
        seen = await page.text(".jp-OutputArea", f"step {step}")
        assert f"step {step + 1}" not in seen
        steps.go()

    # A file is saved.
    await page.press("s", CONTROL)
    saved = tmp_path / "files" / "steps.ipynb"
    await eventually(lambda: "step 4" in saved.read_text(), saved.read_text)

    # A terminal in another tab.
    shell = await browser.page()
    await shell.open(f"{reach.url}/lab?reset")
    await shell.click(TERMINAL)
    await eventually(lambda: heard(shell, "/terminals/", "setup"))
    await shell.click(".jp-Terminal-body")
    await shell.enter("n=42; echo $((n / 2))")
    await shell.press("Enter")
    await eventually(lambda: heard(shell, "/terminals/", "21"))
    assert set(page.protocols.values()) == {"h2"}
    assert page.trouble == shell.trouble == []

    # The tunnel is lost for a moment: kernel and terminal are the same as before.
    await reach.cut()
    await eventually(lambda: opened(page, "/channels") == 2, lambda: f"{page.opened} {page.trouble}")
    await eventually(lambda: opened(shell, "/terminals/") == 2, lambda: f"{shell.opened} {shell.trouble}")
    await page.press("Enter", SHIFT)
    await page.text(f"{CELL}:nth-child(2) .jp-OutputArea", "42")
    await shell.enter("echo $((n + 7))")
    await shell.press("Enter")
    await eventually(lambda: heard(shell, "/terminals/", "49"))
    lost = page.trouble + shell.trouble
    assert all("502" in line for line in lost), lost  # requests under way
    await picture(page, "jupyterlab")


@pytest.mark.timeout(120)
async def test_it_has_to_be_told_of_other_names(stack: AsyncExitStack, tmp_path: Path) -> None:
    """Else it answers nobody who asks for a name that is not of this machine."""
    reach = await start_reach(stack, await start_jupyter(stack, tmp_path), "lab")
    async with aiohttp.ClientSession() as http, http.get(reach.here, headers={"Host": reach.host}) as got:
        assert got.status == 403
    assert "allow_remote_access" in (tmp_path / "jupyter.log").read_text()
