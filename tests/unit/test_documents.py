"""README.md and docs/: what they point to exists, and what they list is complete."""

import re
import shlex
import textwrap
from pathlib import Path

import click
import pytest

from fasttunnel.cli import main
from fasttunnel.control.config import ClientConfig, ServerConfig
from fasttunnel.control.sources import configure, from_file

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SETTINGS = {  # options of files are flags of these commands, too
    "server": ServerConfig.__struct_fields__,
    **dict.fromkeys(("client", "http", "grpc"), ClientConfig.__struct_fields__),
}
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


COMMAND = re.compile(r"^ {4,}(?:\w+\$ )?(fasttunnel (?:[^\n]*\\\n)*[^\n]*)$", re.MULTILINE)


def shown_commands(path: Path) -> list[str]:
    """Commands of code blocks, each on one line, without remarks; what only stands for a command is none."""

    def indented(fence: re.Match[str]) -> str:
        return textwrap.indent(fence[2], " " * 4) if fence[1] == "sh" else ""

    text = re.sub(r"^```(\w*)[^\n]*\n(.*?)^```", indented, path.read_text(), flags=re.MULTILINE | re.DOTALL)
    lines = [re.sub(r"\\\n\s*", " ", found) for found in COMMAND.findall(text)]
    lines = [re.split(r"\s{2,}#|\s{3,}|\s&", line)[0] for line in lines]
    return [line for line in lines if not re.search(r"\[[-A-Z]|\||\b[A-Z]{4,}\b|^fasttunnel [^a-z]", line)]


def test_commands_of_documents_are_ones() -> None:
    """Their names and options; pages that are made from the code are not looked at."""
    found = [(path.name, line) for path in DOCUMENTS if path.name != "command-line.md" for line in shown_commands(path)]
    assert len(found) > 60
    context = click.Context(main, info_name="fasttunnel")
    for name, line in found:
        words = shlex.split(line.replace(" ...", "").rstrip(". "))[1:]
        command: click.Command | None = main
        while words and isinstance(command, click.Group) and not words[0].startswith("-"):
            command = command.get_command(context, words.pop(0))
        assert command is not None, (name, line)
        options = {text for one in command.params if isinstance(one, click.Option) for text in one.opts}
        given = [word.partition("=")[0] for word in words if word.startswith("--")]
        unknown = [
            word
            for word in given
            if word not in options and word[2:].replace("-", "_") not in SETTINGS.get(command.name or "", ())
        ]
        assert unknown == [], (name, line)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_files_in_documents_are_configurations(path: Path, tmp_path: Path) -> None:
    text = path.read_text()
    for title, content in re.findall(r'^```toml title="([^"]+)"\n(.*?)^```', text, re.MULTILINE | re.DOTALL):
        file = tmp_path / Path(title).name
        kind = ServerConfig if file.stem == "server" else ClientConfig
        whole = 'server = "t.example.com:7000"\n' * (kind is ClientConfig and "server =" not in content) + content
        file.write_text(whole)
        configure(kind, from_file(file))
