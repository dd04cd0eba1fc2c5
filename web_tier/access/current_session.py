"""The session that the current request is known by, if it is by one."""

from typing import cast

from flask import g

from web_tier.access.sessions import OpenSession


def set_session(opened: OpenSession | None) -> None:
    """Let the current request be known by `opened`."""
    g.session = opened


def known_session() -> OpenSession | None:
    """Return the session of the current request, None where it is known by something else or not at all."""
    return cast(OpenSession | None, g.get("session"))
