"""Files with secrets that others can read."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def exposure(path: Path) -> str | None:
    """A warning about a file with secrets that others of this machine may read."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return None
    credential = os.environ.get("CREDENTIALS_DIRECTORY", "")  # systemd guards what it puts there
    if os.name != "posix" or not stat.S_ISREG(mode) or (credential and path.is_relative_to(credential)):
        return None
    if not mode & (stat.S_IRGRP | stat.S_IROTH | stat.S_IWGRP | stat.S_IWOTH):
        return None
    return f"{path} is open to other users of this machine (mode {stat.S_IMODE(mode):04o}); chmod 600 {path}"
