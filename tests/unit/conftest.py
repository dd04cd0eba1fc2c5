"""Unit tests start no process: a test that needs one, or an emulated cloud, which is one, is an integration test."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.table import Table
from tests.support.memory_aws.dynamodb import MemoryTable

STARTS = frozenset({"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.system", "os.exec"})
"""Python's audit events of everything that starts a process: https://docs.python.org/3/library/audit_events.html"""

UNIT_TESTS = tuple(
    Path(__file__).parents[2] / folder for folder in ("tests/unit", "localcloud/tests/unit", "client/tests/unit")
)

_running: list[str] = []
"""The id of the unit test that runs, or nothing between two."""


def _refuse_processes(event: str, arguments: tuple[object, ...]) -> None:
    if event in STARTS and _running:
        raise RuntimeError(f"{_running[0]} starts a process ({event} {arguments[:1]}): move it to tests/integration")


sys.addaudithook(_refuse_processes)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Watch for processes while a unit test runs, its fixtures included.

    pytest asks this of the tests of all folders that run together.
    """
    if any(folder in item.path.parents for folder in UNIT_TESTS):
        _running.append(item.nodeid)
    try:
        return (yield)
    finally:
        _running.clear()


@pytest.fixture
def table() -> Table:
    """A job table in memory, in place of the wire's; `tests/integration/services` holds both to one contract."""
    return MemoryTable()
