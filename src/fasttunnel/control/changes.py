"""What a configuration that has been read again changes of the one that runs, and what of that needs a restart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, NamedTuple, TypeVar

import msgspec

from fasttunnel.control.config import ON_OR_OFF, ClientConfig, RouteSpec, Secret, ServerConfig, applies
from fasttunnel.control.schema import toml

C = TypeVar("C", ServerConfig, ClientConfig)

_SHOWN: Final = 200  # characters of a value


class Change(NamedTuple):
    option: str
    text: str  # for a person; secrets are not in it


@dataclass(frozen=True)
class Changes(Generic[C]):
    """`config` is the one to go on with, in which what needs a restart is as before."""

    config: C
    changed: tuple[Change, ...]
    needs_restart: tuple[str, ...]  # options that were to change

    @property
    def names(self) -> frozenset[str]:
        """Of the options that change now."""
        return frozenset(change.option for change in self.changed)

    def lines(self) -> list[str]:
        """One for each change."""
        return [f"{change.option} {change.text}" for change in self.changed] or ["nothing has changed"]

    @property
    def rest(self) -> str:
        """What stays as it is, in words."""
        return f"needs a restart: {', '.join(self.needs_restart)}"


def compare(running: C, wanted: C) -> Changes[C]:
    """Raises ConfigError where what can change does not go together with what cannot."""
    old, new = msgspec.structs.asdict(running), msgspec.structs.asdict(wanted)
    different = [name for name in old if old[name] != new[name]]
    kept = _kept(type(running), different, old, new)
    config = msgspec.structs.replace(wanted, **{name: old[name] for name in kept}) if kept else wanted
    changed = [change for name in different if name not in kept for change in _told(name, old[name], new[name])]
    return Changes(config, tuple(changed), tuple(name for name in different if name in kept))


def _kept(
    kind: type[ServerConfig] | type[ClientConfig], different: Sequence[str], old: dict[str, Any], new: dict[str, Any]
) -> set[str]:
    """What needs a restart."""
    kept = {name for name in different if applies(kind)[name] == "restart"}
    for name, belonging in ON_OR_OFF[kind].items():
        if bool(old[name]) != bool(new[name]):
            kept |= {name, *belonging} & set(different)
    return kept


def _told(name: str, old: Any, new: Any) -> list[Change]:
    if name == "routes":
        return [Change(name, text) for text in _routes(old, new)]
    if isinstance(old, Secret) or isinstance(new, Secret):
        word = "changed" if old and new else "set" if new else "taken away"
        return [Change(name, f"({word})")]
    return [Change(name, f"{_shown(old)} -> {_shown(new)}")]


def _routes(old: Sequence[RouteSpec], new: Sequence[RouteSpec]) -> list[str]:
    """Those that come, go, or are served in another way."""
    before, after = {_place(spec): spec for spec in old}, {_place(spec): spec for spec in new}
    texts = [f"- {spec}" for place, spec in before.items() if place not in after]
    texts += [f"+ {spec}" for place, spec in after.items() if place not in before]
    texts += [
        f"{_shown(before[place])} -> {_shown(spec)}"
        for place, spec in after.items()
        if place in before and before[place] != spec
    ]
    return texts or [f"{_shown(old)} -> {_shown(new)}"]  # in another order, or twice


def _place(spec: RouteSpec) -> tuple[object, ...]:
    """What requests it takes."""
    return spec.route.host, spec.route.path_prefix, spec.route.grpc_service, spec.route.protocols


def _shown(value: object) -> str:
    text = "none" if value is None or value == "" else toml(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
