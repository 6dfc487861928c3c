"""README.md and docs/: what they point to exists, and what they list is complete."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)")


def anchors(text: str) -> set[str]:
    """The headings of a Markdown text as GitHub names them in links."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(path: Path) -> None:
    text = path.read_text()
    links = LINK.findall(text)
    assert links
    for target, anchor in links:
        file = path.parent / target if target else path
        assert file.exists(), target
        assert not anchor or anchor in anchors(file.read_text()), f"{target}#{anchor}"


def test_every_document_is_linked_from_the_readme() -> None:
    """But for the first page of the site, which is the README's own part of it."""
    readme = (ROOT / "README.md").read_text()
    pages = [path.relative_to(ROOT).as_posix() for path in DOCUMENTS[1:]]
    assert len(pages) > 20
    assert [page for page in pages if f"]({page})" not in readme and page != "docs/index.md"] == []


@pytest.mark.parametrize(("document", "at_least"), [("failures.md", 60), ("security.md", 6)])
def test_every_test_that_is_named_exists(document: str, at_least: int) -> None:
    named = re.findall(r"`(test_\w+)(?:\.py)?`", (ROOT / "docs" / document).read_text())
    assert len(named) > at_least
    files = list((ROOT / "tests").rglob("test_*.py"))
    known = {name for path in files for name in (path.stem, *re.findall(r"def (test_\w+)", path.read_text()))}
    assert [name for name in named if name not in known] == []


def test_known_differences_between_the_engines_are_listed() -> None:
    """Each reason of a `differs(end, reason)` mark, in the words of the mark."""
    marks = [
        mark
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        for mark in re.findall(r'pytest\.mark\.differs\(\s*"([^"]+)",\s*"([^"]+)"', path.read_text())
    ]
    assert marks
    listed = " ".join((ROOT / "docs" / "engines.md").read_text().split())
    assert [f"{end}: {reason}" for end, reason in marks if end not in listed or reason not in listed] == []
