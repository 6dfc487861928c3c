"""A server's tokens file, as a test writes it again and again."""

from pathlib import Path

from fasttunnel.control.tokens import digest_of, token_lines


class TokenFile:
    """Tokens by themselves: the token "shop-1" has the name "shop" unless it is given another."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._entries: dict[str, str] = {}

    def __str__(self) -> str:
        return str(self.path)

    def put(self, token: str, name: str | None = None, **fields: object) -> str:
        """Add a token, or change what it permits; returns it."""
        name = name or token.rpartition("-")[0]
        self._entries[token] = token_lines(name, digest_of(token.encode()), **fields)
        self._write("\n".join(self._entries.values()) or "tokens = []\n")
        return token

    def drop(self, token: str) -> None:
        del self._entries[token]
        self._write("\n".join(self._entries.values()) or "tokens = []\n")

    def spoil(self) -> None:
        """Somebody makes a mistake in it."""
        self._write("\n".join(self._entries.values()) + '\n[[tokens]]\nname = "oops"\nhash = "plain-text-s3cret"\n')

    def _write(self, text: str) -> None:
        # As careful editors do: the file is whole at any time.
        fresh = self.path.with_suffix(".new")
        fresh.write_text(text)
        fresh.chmod(0o600)
        fresh.replace(self.path)
