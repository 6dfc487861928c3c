"""What may be done with the first URL once it is known: shown for a phone to read, opened in a browser."""

import io
import threading
import webbrowser
from collections.abc import Callable

from rich.console import Console

from fasttunnel.errors import ConfigError


def first_url(console: Console, qr: bool, browser: bool) -> Callable[[str], None]:
    """Raises ConfigError when it cannot be done."""
    draw = _drawer() if qr else None

    def told(url: str) -> None:
        if draw is not None:
            console.print(draw(url), markup=False, highlight=False, soft_wrap=True)
        if browser and url.startswith("http"):  # it may wait for the browser to end
            threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()

    return told


def _drawer() -> Callable[[str], str]:
    try:
        import segno
    except ImportError:
        raise ConfigError("--qr needs segno", hint="pip install 'fasttunnel[qr]'") from None

    def draw(url: str) -> str:
        text = io.StringIO()
        segno.make(url, micro=False).terminal(text, compact=True)
        return text.getvalue()

    return draw
