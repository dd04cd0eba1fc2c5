"""Rules for every module: exceptions from security rules, requests to the outside, and imports."""

import ast
import re
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.conftest import ROOT

FOLDERS = (
    "services",
    "core",
    "localcloud",
    "app_tier",
    "web_tier",
    "ami",
    "client",
    "scripts",
    "benchmarks",
    "tests",
)
MARK = re.compile(r"# (?:nosec|noqa: [A-Z0-9, ]*\bS\d{3})")
CODES = re.compile(r"(?:nosec|noqa:|\b[A-Z]{1,4}\d{3}\b|[\W_])+")


def reason(line: str) -> str:
    """Return the words behind the codes of an exception."""
    return CODES.sub(" ", line[MARK.search(line).start() :]).strip()  # type: ignore[union-attr]


def exceptions() -> Iterator[tuple[Path, int, str]]:
    """Yield every line that asks for an exception."""
    for folder in FOLDERS:
        for file in sorted((ROOT / folder).rglob("*.py")):
            if file != Path(__file__):
                lines = enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
                yield from ((file, number, line) for number, line in lines if MARK.search(line))


def test_every_exception_from_a_security_rule_has_its_reason_in_words() -> None:
    found = list(exceptions())
    assert found
    assert [f"{file.relative_to(ROOT)}:{number}" for file, number, line in found if len(reason(line)) < 5] == []


def test_each_program_cleans_what_it_prints_on_a_terminal() -> None:
    modules = [*(ROOT / "scripts").rglob("*.py"), ROOT / "client/fleetsight_client/cli.py"]
    programs = {path for path in modules if "__main__" in path.read_text() or path.name == "cli.py"}
    assert programs
    assert {
        path for path in modules if re.search(r"^\s*clean_terminal_output\(\)", path.read_text(), re.MULTILINE)
    } == programs


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
    # The endpoint of a client that botocore has made, by botocore's certificates.
    "services/json_calls.py": {"botocore", "http.client", "socket", "ssl"},
    # The instance metadata service, at its one address or the environment's.
    "services/metadata.py": {"urllib.request"},
    # The key set of the configured OpenID provider, by botocore's certificates; and its other endpoints, by Authlib.
    "core/tokens.py": {"botocore", "urllib3"},
    "web_tier/auth/provider.py": {"requests"},
    # Between processes of this machine: an empty datagram to a socket without a file; sockets that are there already.
    "services/demand_signal.py": {"socket"},
    "core/sandbox/": {"socket", "subprocess"},
    "web_tier/http/slow_clients.py": {"socket"},
    # Asks the kernel whether a viewer has closed, and shuts down its connection.
    "web_tier/results/live_feed.py": {"socket"},
}
"""Modules and folders that can send something somewhere, and by what. None takes an address from a request."""

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


def imported_modules(sources: Mapping[str, str]) -> dict[str, set[str]]:
    """Return which of these modules each one imports, also within functions and for types alone."""
    found: dict[str, set[str]] = {}
    for name, source in sources.items():
        names: set[str] = set()
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        found[name] = names & sources.keys() - {name}
    return found


def import_cycle(sources: Mapping[str, str]) -> list[str]:
    """Return modules that import each other in turn, or an empty list."""
    try:
        TopologicalSorter(imported_modules(sources)).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_modules_import_each_other_not_within_functions_either() -> None:
    paths = [path for folder in FOLDERS if folder != "tests" for path in (ROOT / folder).rglob("*.py")]
    names = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__").removeprefix("client."): path
        for path in paths
    }
    assert len(names) == len(paths)
    assert import_cycle({name: path.read_text() for name, path in names.items()}) == []


PACKAGES = {"localcloud": {"localcloud"}, "client": {"client", "fleetsight_client"}}
"""The packages of their own, and what of this project each may import, its tests included."""


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_of_its_own_imports_nothing_else_of_this_project(package: str) -> None:
    others = {*FOLDERS, "fleetsight_client"} - PACKAGES[package]
    found = {}
    for path in (ROOT / package).rglob("*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
        if imported := {name for name in names if name.partition(".")[0] in others}:
            found[str(path.relative_to(ROOT))] = imported
    assert found == {}


CLOCK_OF_THE_MACHINE = re.compile(r"\b(?:time\.time|datetime\.now|datetime\.utcnow|ULID\(\)|gmtime\(\))")
MAY_READ_IT = {"services/clock.py", "services/clients.py", "services/json_calls.py"}
"""The clock itself, and what AWS or a library compares with the machine's clock."""


@pytest.mark.parametrize(
    ("pattern", "places"),
    [(CLOCK_OF_THE_MACHINE, MAY_READ_IT), (re.compile(r"threading\.Thread\("), set())],
    ids=["the clock of the machine", "a start of a thread that may not end"],
)
def test_the_server_does_in_few_modules_what_is_easily_wrong(pattern: re.Pattern[str], places: set[str]) -> None:
    modules = (
        file for folder in ("services", "core", "web_tier", "app_tier") for file in (ROOT / folder).rglob("*.py")
    )
    found = {str(file.relative_to(ROOT)) for file in modules if pattern.search(file.read_text(encoding="utf-8"))}
    assert found == places
