"""Types of options in words, as errors and docs/configuration.md say them."""

from __future__ import annotations

from typing import Any, get_args, get_origin

import msgspec
from msgspec import inspect


def of_fields(struct: type[Any]) -> dict[str, Any]:
    """The type of each field, with its bounds."""
    return {field.name: field.type for field in msgspec.structs.fields(struct)}


def is_list(wanted: Any) -> bool:
    """Asked for every option at each start, so without msgspec's long look at a type."""
    return any(get_origin(kind) is tuple for kind in (wanted, *get_args(wanted)))


def is_text(wanted: Any) -> bool:
    return isinstance(_plain(wanted), inspect.StrType)


def in_words(wanted: Any) -> str:
    """Such as "a whole number of at least 1024"."""
    return _words(_plain(wanted))


def _plain(wanted: Any) -> inspect.Type:
    """Without the None of what may be left away."""
    found = inspect.type_info(wanted)
    if isinstance(found, inspect.UnionType):
        found = next(one for one in found.types if not isinstance(one, inspect.NoneType))
    return found


def _words(found: inspect.Type) -> str:
    if isinstance(found, inspect.BoolType):
        return "true or false"
    if isinstance(found, inspect.IntType):
        return "a whole number" + _bounds(found)
    if isinstance(found, inspect.FloatType):
        return "a number" + _bounds(found)
    if isinstance(found, inspect.LiteralType):
        return " or ".join(f'"{value}"' for value in found.values)
    if isinstance(found, inspect.VarTupleType):
        each = found.item_type
        return "a list of texts" if isinstance(each, inspect.StrType) else f"a list of {_words(each)}"
    if isinstance(found, inspect.StrType) and found.max_length is not None:
        return f"a text of at most {found.max_length} characters"
    return "a text"


def _bounds(found: inspect.IntType | inspect.FloatType) -> str:
    if found.gt is not None:
        return f" above {found.gt:g}" + (f" and up to {int(found.le)}" if found.le is not None else "")
    if found.ge is None:
        return ""
    if found.le is None or found.le >= 2**53:
        return f" of at least {found.ge:g}"
    return f" from {int(found.ge)} to {int(found.le)}"
