"""Which names this page may be called by: those of the configuration, and what needs no name server to be reached.

A name that an attacker points at us (DNS rebinding), and one that only a header claims, must not become the origin
of our pages. IP addresses are taken as they are: no attacker can point one elsewhere.
"""

import ipaddress
import re
from collections.abc import Collection
from typing import Final
from urllib.parse import urlsplit

from flask import Flask, request
from werkzeug.exceptions import MisdirectedRequest

_AUTHORITY: Final = re.compile(r"(?:([a-z0-9.-]+)|\[([a-f0-9:.]+)\])(?::\d{1,5})?", re.ASCII | re.IGNORECASE)
_MAX_SHOWN = 80


def refuse_other_hosts(app: Flask, hosts: Collection[str], bound_to: str) -> None:
    """Refuse each request to `app` that is not for one of `hosts`, `bound_to`, localhost or an IP address."""
    names = {name.lower() for name in (*hosts, bound_to, "localhost")}
    app.before_request(lambda: _refuse(names))


def is_called(authority: str, names: Collection[str]) -> bool:
    """Return whether `authority`, a host with or without a port, is an IP address or one of `names` (lower case).

    A name with a dot at its end is another name: to browsers it is another origin.
    """
    found = _AUTHORITY.fullmatch(authority)
    if found is None:
        return False
    name, address = found.groups()
    if address is not None:
        return _is_address(address, 6)
    return name.lower() in names or _is_address(name, 4)


def claimed_authority(target: str) -> str | None:
    """Return the authority in a request's target in absolute form (RFC 9112, 3.2.2), None in any other form."""
    if target.startswith(("/", "*")) or "://" not in target:
        return None
    try:
        return urlsplit(target).netloc
    except ValueError:
        return ""


def _is_address(text: str, version: int) -> bool:
    try:
        return ipaddress.ip_address(text).version == version
    except ValueError:
        return False


def _refuse(names: Collection[str]) -> None:
    asked = request.headers.get("Host", "")
    claimed = claimed_authority(str(request.environ.get("RAW_URI", "/")))
    if not is_called(asked, names) or (claimed is not None and claimed.lower() != asked.lower()):
        name = (claimed or asked)[:_MAX_SHOWN]
        raise MisdirectedRequest(f"this server is not called {name!r}; its operator can add a name (web.hosts)")
