"""Which system is loaded: one on this machine, unless it is said in so many words that another may be."""

import ipaddress
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

from services.errors import FleetsightError

ALLOW_FLAG = "--i-may-load-this-target"


class TargetError(FleetsightError):
    """Raised when the target is no address, or one that may not be loaded without being asked for."""


@dataclass(frozen=True)
class Target:
    """An HTTP server; `base_url` ends without a slash. `anywhere`: it, and what it leads to, may be elsewhere."""

    base_url: str
    host: str
    port: int
    secure: bool
    anywhere: bool = False

    def check(self, url: str) -> None:
        """Check that an address which this server handed out may be loaded, as the server itself.

        Raises:
            TargetError: when it is none, or is elsewhere and only this machine may be loaded.
        """
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise TargetError(f"{self.base_url} leads to {url!r}, which is no address of a web server")
        if not self.anywhere and not _is_here(parts.hostname):
            raise TargetError(
                f"{self.base_url} leads to {url}, which is not on this machine: if you may load both, say so with "
                f"{ALLOW_FLAG}"
            )


def parse_target(url: str, *, anywhere: bool) -> Target:
    """Return the server at `url`.

    Args:
        url: scheme, host and port.
        anywhere: also take one that is not on this machine.

    Raises:
        TargetError: when `url` is none, or is elsewhere and `anywhere` is not set.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as error:
        raise TargetError(f"--url {url}: {error}") from error
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.path not in {"", "/"}:
        raise TargetError(f"--url {url}: not of the form http://127.0.0.1:8000")
    if not anywhere and not _is_here(parts.hostname):
        raise TargetError(f"--url {url} is not on this machine: if you may load it, say so with {ALLOW_FLAG}")
    return Target(url.rstrip("/"), parts.hostname, port, parts.scheme == "https", anywhere)


def _is_here(host: str) -> bool:
    """Return whether every address of `host` is a loopback address."""
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(host, None)}
    except OSError as error:
        raise TargetError(f"--url: there is no host {host!r} ({error.strerror})") from error
    return all(ipaddress.ip_address(address).is_loopback for address in found)
