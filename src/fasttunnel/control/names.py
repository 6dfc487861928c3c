"""Names of clients under the server's domain: NAME.example.com for those that name no host of their own."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator

from fasttunnel import limits
from fasttunnel.control.words import new_name
from fasttunnel.errors import ConfigError

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")  # RFC 1035 2.3.1, RFC 1123 2.1
_ATTEMPTS = 64


def check_name(text: str) -> str:
    """The normal form of a name: one label, in lower case. Raises ConfigError."""
    name = text.lower()
    if not _LABEL.fullmatch(name) or name[2:4] == "--":  # RFC 5891 4.2.3.1: "xn--" looks like what it is not
        raise ConfigError(
            f"{text!r} cannot be a name under a domain", hint="it has letters, digits and hyphens, such as brisk-otter"
        )
    return name


class Names:
    """Who has which name. One that has gone keeps it for as long as its routes are remembered (limits.OUTAGE_S).

    Owners are clients (Login.owner); members are their tunnels, compared by identity.
    """

    def __init__(self, domain: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.domain = domain
        self._clock = clock
        self._held: dict[str, _Held] = {}  # by name; those without members in the order in which they were left
        self._of_owner: dict[str, str] = {}
        self._of_member: dict[object, str] = {}

    def host(self, name: str) -> str:
        return f"{name}.{self.domain}"

    def name_in(self, host: str) -> str:
        """The label in front of the domain; empty: the host is none of those that are given."""
        label, _, rest = host.partition(".")
        return label if self.domain and rest == self.domain and _LABEL.fullmatch(label) else ""

    def is_free(self, name: str, owner: str) -> bool:
        """Whether this owner may have it."""
        held = self._held.get(name)
        if held is not None and not held.members and held.until_s <= self._clock():
            self._forget(name)
            return True
        return held is None or held.owner == owner

    def candidates(self, owner: str) -> Iterator[str]:
        """What a client may be called that does not say: as before, or something new."""
        if owner in self._of_owner:
            yield self._of_owner[owner]
        for attempt in range(_ATTEMPTS):
            # Where many are taken, there are more of these.
            yield new_name() + (f"-{secrets.randbelow(10_000)}" if attempt > _ATTEMPTS // 2 else "")

    def conflict(self, hosts: Iterable[str], owner: str) -> str | None:
        """A host that a client names, and that is the name of another client."""
        return next((host for host in hosts if (name := self.name_in(host)) and not self.is_free(name, owner)), None)

    def enter(self, member: object, name: str, owner: str) -> None:
        """A tunnel of the owner is up under this name, which is free for it."""
        held = self._held.get(name)
        if held is None or held.owner != owner:
            held = self._held[name] = _Held(owner)
        held.members.add(member)
        self._of_owner[owner] = self._of_member[member] = name

    def leave(self, member: object) -> None:
        """A tunnel has ended. No error when it has no name, or none any more."""
        name = self._of_member.pop(member, "")
        held = self._held.get(name)
        if held is None:
            return
        held.members.discard(member)
        if not held.members:
            held.until_s = self._clock() + limits.OUTAGE_S
            self._held[name] = self._held.pop(name)
            self._trim()

    def _trim(self) -> None:
        """Those that were left are forgotten in time, and the oldest when they are too many."""
        now = self._clock()
        left = [name for name, held in self._held.items() if not held.members]
        for index, name in enumerate(left):
            if self._held[name].until_s <= now or len(left) - index > limits.REMEMBERED_ROUTES:
                self._forget(name)

    def _forget(self, name: str) -> None:
        held = self._held.pop(name)
        if self._of_owner.get(held.owner) == name:
            del self._of_owner[held.owner]


class _Held:
    def __init__(self, owner: str) -> None:
        self.owner = owner
        self.members: set[object] = set()
        self.until_s = 0.0
