"""Fixtures of the web tier that several folders or modules share; a module names those that it takes.

`table = memory_table` gives the tests of a module a job table in memory.
"""

import socket
from collections.abc import Iterator

import pytest
from flask import Flask

from core.config import Config
from core.jobs.store import JobStore
from services.table import Table
from tests.conftest import ConfigMaker
from tests.support.api import compiled_once
from tests.support.memory_aws.dynamodb import MemoryTable
from tests.support.memory_aws.s3 import MemoryBucket
from tests.support.memory_aws.sqs import MemoryQueue
from tests.support.people import MemoryPool, access_of
from web_tier.app import create_app
from web_tier.auth.context import AuthServices


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


@pytest.fixture
def connection() -> Iterator[socket.socket]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours


@pytest.fixture
def memory_table() -> Table:
    """The job table, in memory."""
    return MemoryTable()


@pytest.fixture
def sign_in_config(make_config: ConfigMaker) -> Config:
    """A configuration with sign-in that requires no second factor."""
    return make_config(auth={"mode": "cognito"})


@pytest.fixture
def sign_in_access(pool: MemoryPool, table: Table) -> AuthServices:
    return access_of(table, pool)


@pytest.fixture
def sign_in_app(config: Config, access: AuthServices, table: Table) -> Flask:
    """A web tier with sign-in."""
    return create_app(config, store=JobStore(table), auth=access)
