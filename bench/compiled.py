"""What bench._native has, imported when it is first used: to tell the options of a command nothing is compiled."""

from __future__ import annotations

import importlib
from typing import Any


def __getattr__(name: str) -> Any:
    return getattr(importlib.import_module("bench._native"), name)
