"""Blocks of the documents, as a reader copies them."""

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"

_FENCED = re.compile(r"^(`{3,})([\w-]*)([^\n]*)\n(.*?)^\1[ ]*$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    language: str
    info: str  # what stands behind the language
    text: str
    line: int


def blocks(page: str, *languages: str) -> list[Block]:
    """Fenced blocks of a page below docs/, in their order."""
    text = (DOCS / page).read_text()
    found = [
        Block(match[2], match[3].strip(), match[4], text.count("\n", 0, match.start()) + 1)
        for match in _FENCED.finditer(text)
    ]
    return [block for block in found if block.language in languages]
