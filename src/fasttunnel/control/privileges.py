"""Running as somebody who may do less, once the ports are open."""

from __future__ import annotations

import os
import pwd

from fasttunnel.errors import ConfigError


def find_user(name: str) -> pwd.struct_passwd:
    """Raises ConfigError when there is no such user, or when we may not become it."""
    try:
        user = pwd.getpwnam(name)
    except KeyError:
        raise ConfigError(f"there is no user {name!r}") from None
    if os.geteuid() not in (0, user.pw_uid):
        raise ConfigError(f"only root can go on as {name!r}", hint="start it as root, or leave the user away")
    return user


def become(user: pwd.struct_passwd) -> None:
    """For good: groups first, for only root may change them. Open files and sockets stay open. Raises ConfigError."""
    if os.geteuid() != 0:
        return  # it is us
    try:
        os.initgroups(user.pw_name, user.pw_gid)
        os.setgid(user.pw_gid)
        os.setuid(user.pw_uid)
    except PermissionError:
        raise ConfigError(
            f"cannot go on as {user.pw_name!r}",
            detail="this root may not change its user (it lacks CAP_SETUID or CAP_SETGID, as in some containers)",
            hint="run it as that user from the start",
        ) from None
    if user.pw_uid != 0:
        try:
            os.setuid(0)
        except PermissionError:
            return
        raise RuntimeError(f"still root after becoming {user.pw_name}")  # a system that would let us back
