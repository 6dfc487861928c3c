"""The documentation site: it is built without a warning, needs nothing from elsewhere, and has each page."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.support.documents import DOCS, ROOT

TOOLS = ("command_line", "man_pages", "plots")  # those that can say whether what they write is up to date


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built once; links, anchors and pages that the navigation lacks are warnings, and warnings are errors."""
    target = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(target)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "FASTTUNNEL_REPOSITORY": ""}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    return target


class Page(HTMLParser):
    """What a browser would load by itself, and the headings."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.tags: list[str] = []
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append(tag)
        if tag in ("script", "img", "iframe", "source") and given.get("src"):
            self.loaded.append(str(given["src"]))
        if tag == "link" and given.get("rel") not in ("canonical", "next", "prev", "edit"):
            self.loaded.append(str(given.get("href")))


def pages(site: Path) -> dict[str, Page]:
    return {path.relative_to(site).as_posix(): Page(path) for path in sorted(site.rglob("*.html"))}


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    loaded = [(name, url) for name, page in pages(site).items() for url in page.loaded if name != "404.html"]
    assert len(loaded) > 100
    assert [one for one in loaded if re.match(r"(?:\w+:)?/", one[1])] == []
    styles = "".join(path.read_text() for path in [*site.rglob("*.css"), *site.rglob("*.svg")])
    assert re.findall(r"url\(\s*['\"]?(?:\w+:)?//[^)]*\)|@import[^;]*", styles) == []


def test_each_document_is_a_page_with_a_title(site: Path) -> None:
    found = pages(site)
    documents = [path.relative_to(DOCS).with_suffix(".html").as_posix() for path in DOCS.rglob("*.md")]
    assert len(documents) > 20
    for name in documents:
        assert found[name].tags.count("h1") == 1, name
        title = re.search(r"<title>(.*?)</title>", (site / name).read_text())
        assert title is not None, name
        assert "fasttunnel" in title[1], name


def test_files_beside_the_documents_are_pages_too(site: Path) -> None:
    """../src/... leads somewhere on the site as it does on GitHub."""
    assert "repository/src/fasttunnel/limits.py.html" in (site / "configuration.html").read_text()
    assert "BACKEND_KEEP_ALIVE_TIMEOUT_S" in (site / "repository/src/fasttunnel/limits.py.html").read_text()
    assert 'href="../docs' not in (site / "repository" / "SECURITY.html").read_text()


def test_the_search_knows_messages_and_options(site: Path) -> None:
    entries = json.loads((site / "search" / "search_index.json").read_text())["docs"]
    by_page: Callable[[str], str] = lambda page: " ".join(  # noqa: E731
        entry["text"] for entry in entries if entry["location"].partition("#")[0] == page
    )
    assert "the client that serves" in by_page("troubleshooting.html")
    assert "max_failed_logins" in by_page("configuration.html")
    assert not any(entry["location"].startswith("repository/src") for entry in entries)


@pytest.mark.parametrize("tool", TOOLS)
def test_what_is_made_from_the_code_is_up_to_date(tool: str) -> None:
    command = [sys.executable, str(ROOT / "tools" / f"{tool}.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_comparison_has_the_figures_of_the_measurement() -> None:
    measured = table("performance.md", "| load | direct |")
    shown = table("comparison.md", "| load | fasttunnel |")
    columns = [measured[0].index(name) for name in ("cython", "frp", "rathole", "chisel", "ssh -R")]
    figures = {row[0].partition(",")[0]: [row[column] for column in columns] for row in measured[2:]}
    assert len(shown) > 10
    for load, *values in shown[2:]:
        assert figures[load.partition(",")[0]] == values, load


def table(page: str, head: str) -> list[list[str]]:
    """The cells of the table of a page that begins so."""
    found = head + (DOCS / page).read_text().partition(head)[2].partition("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in found.splitlines()]
