"""Fixtures of the web tier that several folders or modules share; a module names those that it takes.

`table = memory_table` gives the tests of a module a job table in memory.
"""

import json
import logging
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from core.logs import AUDIT_LOGGER
from services.table import Table
from tests.support.api import compiled_once
from tests.support.memory_aws.dynamodb import MemoryTable
from tests.support.memory_aws.s3 import MemoryBucket
from tests.support.memory_aws.sqs import MemoryQueue


@pytest.fixture(scope="session", autouse=True)
def compiled() -> Iterator[None]:
    with compiled_once():
        yield


@pytest.fixture
def bucket() -> MemoryBucket:
    return MemoryBucket()


@pytest.fixture
def queue() -> MemoryQueue:
    return MemoryQueue()


@dataclass(frozen=True)
class LoggedEvent:
    """An event of the audit trail, as the log has it."""

    action: str
    user: str
    address: str
    details: dict[str, str]
    request_id: str


AuditLog = Callable[[], list[LoggedEvent]]


@pytest.fixture
def audit_log(caplog: pytest.LogCaptureFixture) -> AuditLog:
    """Return a function that returns the events of the audit trail, in their order."""
    caplog.set_level(logging.INFO, AUDIT_LOGGER)

    def events() -> list[LoggedEvent]:
        lines = [vars(record) for record in caplog.records if record.name == AUDIT_LOGGER]
        names = ("action", "user", "address", "request_id")
        return [LoggedEvent(**{n: line[n] for n in names}, details=json.loads(line["details"])) for line in lines]

    return events


@pytest.fixture
def connection() -> Iterator[socket.socket]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours


@pytest.fixture
def memory_table() -> Table:
    """The job table, in memory."""
    return MemoryTable()
