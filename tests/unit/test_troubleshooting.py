"""docs/troubleshooting.md: every message in it is one of the code, and every message of the code is in it."""

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

from fasttunnel.errors import ANSWERS
from tests.support.documents import DOCS, ROOT

SOURCE = ROOT / "src" / "fasttunnel"
GAP = "…"  # stands for what differs

# Calls with which a person is told something, in Python: the argument that is the text.
TOLD = {
    **dict.fromkeys(["ConfigError", "ListenError", "ConnectError", "AuthError", "RegisterError", "RouteTaken"], 0),
    **dict.fromkeys(["FasttunnelError", "BuildError", "Unreachable", "warning", "_warn"], 0),
    **dict.fromkeys(["Refused", "RequestReset", "reset", "problem", "note", "words"], 1),
    "BadMessage": 1,
}
# The same in Cython: names, whose texts are all literals between the parentheses.
TOLD_IN_CYTHON = (
    r"(?:\b(?:ConfigError|ListenError|BadMessage)|\.(?:refuse|reset|fail_request|fail_call|bad_answer|malformed|lose|"
    r"break_off|give_up_waiting|answer_status|answer_error|on_reset|_violation|warning|refused))\("
)
LITERAL = re.compile(r"""(?<![\w"'])([fb]?)"((?:[^"\\\n]|\\.)*)\"""")


def messages() -> dict[str, re.Pattern[str]]:
    """Those of the page: code in the cells of tables, but for the last one."""
    page = (DOCS / "troubleshooting.md").read_text()
    found: set[str] = set()
    for line in page.splitlines():
        cells = line.strip("|").split("|")
        if line.startswith("|") and not re.fullmatch(r"[|-]+", line):
            # A last column explains; where there is one column only, it is the message.
            found.update(re.findall(r"`([^`]+)`", "|".join(cells[:-1] if len(cells) > 1 else cells)))
    return {text: pattern(text) for text in found}


def pattern(text: str) -> re.Pattern[str]:
    return re.compile(".*".join(re.escape(part.strip()) for part in text.split(GAP)), re.DOTALL)


def template(node: ast.AST) -> str | None:
    """A text as it stands in the code, with gaps for what differs."""
    if isinstance(node, ast.Constant):
        value = node.value.decode("latin1") if isinstance(node.value, bytes) else node.value
        return value if isinstance(value, str) else None
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else GAP for part in node.values)
    return None


@functools.cache
def trees() -> dict[Path, ast.Module]:
    paths = [path for path in SOURCE.rglob("*.py") if "_pb2" not in path.name and "demo" not in path.parts]
    return {path: ast.parse(path.read_text()) for path in paths}


@functools.cache
def cython() -> dict[Path, str]:
    return {path: path.read_text() for kind in ("pyx", "pxi") for path in SOURCE.rglob(f"*.{kind}")}


def said() -> Iterator[str]:
    """All texts of the code."""
    for tree in trees().values():
        yield from filter(None, map(template, ast.walk(tree)))
    for text in cython().values():
        for _, literal in LITERAL.findall(text):
            yield re.sub(r"\{[^}]*\}|%[ds]", GAP, literal)


def told() -> dict[str, str]:
    """Texts that a person meets for certain, and where they are."""
    found: dict[str, str] = {}
    for path, tree in trees().items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in TOLD and len(node.args) > TOLD[name]:
                argument = node.args[TOLD[name]]
                for each in [argument.body, argument.orelse] if isinstance(argument, ast.IfExp) else [argument]:
                    if text := template(each):
                        found[text] = f"{path.relative_to(SOURCE)}:{node.lineno}"
    for path, text in cython().items():
        for match in re.finditer(TOLD_IN_CYTHON, text):
            arguments = text[match.end() : closing(text, match.end())].partition("hint=")[0]
            for _, literal in LITERAL.findall(arguments):
                line = text.count("\n", 0, match.start()) + 1
                found[re.sub(r"\{[^}]*\}|%[ds]", GAP, literal)] = f"{path.relative_to(SOURCE)}:{line}"
    return {text: where for text, where in found.items() if " " in text.replace(GAP, "").strip()}


def closing(text: str, start: int) -> int:
    depth, end = 1, start
    while depth and end < len(text):
        depth += {"(": 1, ")": -1}.get(text[end], 0)
        end += 1
    return end


def test_each_message_of_the_page_is_said_by_the_code() -> None:
    everything = sorted(set(said()))
    listed = messages()
    assert len(listed) > 250
    longest = {text: max((part.strip() for part in text.split(GAP)), key=len) for text in listed}
    lost = [
        text
        for text, found in listed.items()
        if not any(longest[text] in each and found.search(each) for each in everything)
    ]
    assert lost == []


def test_each_message_of_the_code_is_on_the_page() -> None:
    found = told()
    assert len(found) > 200
    listed = messages()
    missing = [
        f"{where}: {text}"
        for text, where in found.items()
        # In Cython a text may be one part of several that are joined.
        if not any(one.search(text) or text.strip(f"{GAP}: ") in shown for shown, one in listed.items())
    ]
    assert missing == []


def test_each_answer_of_the_tunnel_is_on_the_page() -> None:
    page = (DOCS / "troubleshooting.md").read_text()
    for code, answer in ANSWERS.items():
        if code:
            assert f"`{answer.text}`" in page, code
            assert not answer.http or f"| {answer.http} |" in page, code
            assert answer.grpc.name in page, code
            assert not answer.ws_close or f"| {answer.ws_close} |" in page, code
