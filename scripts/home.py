"""The folder of logs, samples, models and states of running systems."""

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from services.errors import FleetsightError

DEFAULT_PORTS: Final = {"http": 80, "https": 443}

HOME_VARIABLE: Final = "FLEETSIGHT_HOME"
"""Names the folder where it is not the checkout's: a container cannot write to that one."""


def home_of(checkout: Path, environment: Mapping[str, str]) -> Path:
    """Return the folder of a checkout."""
    return Path(environment.get(HOME_VARIABLE) or checkout / ".fleetsight").absolute()


ROOT: Final = Path(__file__).resolve().parents[1]
"""This checkout; commands are called in any folder, and processes of the system run in this one."""

HOME: Final = home_of(ROOT, os.environ)
"""The folder of this checkout."""

MODELS_FOLDER: Final = HOME / "models"
"""Where `fleetsight model build` puts bundles, unless it is told where, and `run.sh --model NAME` looks for them."""


class AddressError(FleetsightError):
    """Raised when a text is no address of a web server, or an address is not on this machine."""


def address_of(url: str) -> tuple[str, int]:
    """Return the host and the port of a URL.

    Raises:
        AddressError: it is no address of a web server.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or DEFAULT_PORTS.get(parts.scheme)
    except ValueError:
        raise AddressError(f"{url!r} is not an address such as http://127.0.0.1:8000") from None
    if host is None or port is None or parts.scheme not in DEFAULT_PORTS:
        raise AddressError(f"{url!r} is not an address such as http://127.0.0.1:8000")
    return host, port


def is_this_machine(host: str) -> bool:
    """Return whether a host's addresses belong to this machine: only then can a socket be bound to them."""
    try:
        for family, kind, protocol, _, address in socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM):
            with socket.socket(family, kind, protocol) as probe:
                probe.bind(address)
    except OSError:
        return False
    return True


def run_folder(home: Path, url: str) -> Path:
    """Return the folder of the system that `./scripts/run.sh` serves, or served last, at a URL.

    Raises:
        AddressError: it is no address of a web server, or not on this machine.
    """
    host, port = address_of(url)
    if not is_this_machine(host):
        raise AddressError(f"{url} is not on this machine")
    return home / f"run-{port}"
