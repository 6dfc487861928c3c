"""A hook of MkDocs: files outside of docs/ that its pages link to become pages of the site.

So a link such as ../src/fasttunnel/limits.py leads somewhere on GitHub and on the site alike, also without a network.
"""

import posixpath
import re
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
FOLDER = "repository"
ALWAYS = ("CHANGELOG.md",)  # it is in the navigation
_LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)\s#]+)(#[^)\s]*)?(?=\))")
_LANGUAGES = {".py": "python", ".sh": "sh", ".toml": "toml", ".yaml": "yaml", ".yml": "yaml", ".proto": "protobuf"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    waiting = [(ROOT / name, name) for name in ALWAYS]
    waiting += _outside((ROOT / "docs" / file.src_uri, file.content_string) for file in files.documentation_pages())
    while waiting:
        path, name = waiting.pop()
        if files.get_file_from_path(_page(name)) is None:
            files.append(File.generated(config, _page(name), content=_content(path, name)))
            waiting += _outside([(path / "…", _content(path, name))]) if path.is_dir() else []
            waiting += _outside([(path, path.read_text())]) if path.suffix == ".md" else []
    return files


def on_page_markdown(markdown: str, *, page: object, config: MkDocsConfig, files: Files) -> str:
    """Links to what is outside lead to the pages made of it, and links of those back into docs/."""
    uri = page.file.src_uri  # type: ignore[attr-defined]
    generated = uri.startswith(f"{FOLDER}/")
    here = PurePosixPath(uri).relative_to(FOLDER) if generated else PurePosixPath("docs", uri)
    folder = here.with_suffix("") if (ROOT / here.with_suffix("")).is_dir() and generated else here.parent

    def replaced(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, match[1]))
        inside = target.startswith("docs/")
        if inside and not generated:
            return match[0]
        found = target.removeprefix("docs/") if inside else _page(target)
        return posixpath.relpath(found, posixpath.dirname(uri)) + (match[2] or "")

    return _outside_code(markdown, lambda text: _LINK.sub(replaced, text))


def _outside(pages: object) -> list[tuple[Path, str]]:
    """What these pages link to outside of docs/."""
    found: list[tuple[Path, str]] = []
    for path, text in pages:  # type: ignore[attr-defined]
        for match in _LINK.finditer(text):
            target = Path(posixpath.normpath(path.parent / match[1]))
            if target.exists() and not target.is_relative_to(ROOT / "docs"):
                found.append((target, target.relative_to(ROOT).as_posix()))
    return found


def _page(name: str) -> str:
    return f"{FOLDER}/{name}" if name.endswith(".md") else f"{FOLDER}/{name}.md"


def _content(path: Path, name: str) -> str:
    head = "---\nsearch:\n  exclude: true\n---\n"
    if path.is_dir():
        files = sorted(each.name for each in path.iterdir() if each.is_file())
        return f"{head}# {name}\n\n" + "".join(f"- [{each}]({each})\n" for each in files)
    text = path.read_text()
    if path.suffix == ".md":
        return text
    return f"{head}# {name}\n\n````{_LANGUAGES.get(path.suffix, '')}\n{text}````\n"


def _outside_code(markdown: str, change: object) -> str:
    """Fenced blocks stay as they are."""
    parts = re.split(r"(^(`{3,}).*?^\2\s*$)", markdown, flags=re.MULTILINE | re.DOTALL)
    return "".join(
        part if index % 3 == 1 else change(part)  # type: ignore[operator]
        for index, part in enumerate(parts)
        if index % 3 != 2
    )
