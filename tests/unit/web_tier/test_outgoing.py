"""No request goes from here to an address that a user gave: only named modules can send any at all."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

CAN_CONNECT = {
    "aiohttp",
    "asyncio",
    "boto3",
    "botocore",
    "ftplib",
    "http.client",
    "httpx",
    "imaplib",
    "obstore",
    "poplib",
    "requests",
    "smtplib",
    "socket",
    "ssl",
    "subprocess",
    "telnetlib",
    "urllib.request",
    "urllib3",
    "webbrowser",
    "xmlrpc",
}

KNOWN = {
    # The cloud's own addresses, of configuration and botocore's models.
    "services/clients.py": {"botocore", "obstore"},
    "services/s3.py": {"obstore"},
    # The instance metadata service, at its one address or the environment's.
    "services/metadata.py": {"urllib.request"},
    # The key set of the configured user pool, by botocore's certificates.
    "core/tokens.py": {"botocore", "urllib3"},
    # Between this machine's processes: sockets that are there already.
    "core/sandbox/": {"socket", "subprocess"},
    "web_tier/slow_clients.py": {"socket"},
}
"""Modules and folders that can send something somewhere, and by what; none takes an address from a request."""

NOTHING_SENT = {"botocore.exceptions", "obstore.exceptions"}


def modules(folder: str) -> Iterator[Path]:
    """Yield the modules that a machine of the web tier runs."""
    yield from (ROOT / folder).rglob("*.py")


def clients_in(path: Path) -> set[str]:
    """Return what a module imports that could open a connection; imports for types alone are none."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        if not any(name in NOTHING_SENT for name in names):
            found |= {can for can in CAN_CONNECT for name in names if name == can or name.startswith(f"{can}.")}
    return found


@pytest.mark.parametrize("folder", ["web_tier", "core", "services"])
def test_only_known_modules_can_send_a_request(folder: str) -> None:
    unknown = {}
    for path in modules(folder):
        name = str(path.relative_to(ROOT))
        allowed = [
            by for known, by in KNOWN.items() if name == known or (known.endswith("/") and name.startswith(known))
        ]
        if others := clients_in(path) - set().union(*allowed):
            unknown[name] = others
    assert unknown == {}


@pytest.mark.parametrize("known", KNOWN)
def test_the_list_names_nothing_that_is_gone(known: str) -> None:
    place = ROOT / known
    there = [clients_in(path) for path in ([place] if place.is_file() else place.rglob("*.py"))]
    assert set().union(*there) >= KNOWN[known]


@pytest.mark.parametrize(
    "line",
    [
        "import requests",
        "from urllib.request import urlopen",
        "from urllib import request",
        "import http.client as x",
    ],
)
def test_a_new_way_out_would_be_found(tmp_path: Path, line: str) -> None:
    module = tmp_path / "new.py"
    module.write_text(line)
    assert clients_in(module)
