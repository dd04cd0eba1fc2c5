"""The web tier in the test's own process, over a table, buckets and a queue in memory."""

from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from core.config import Config, parse_config
from core.jobs.buckets import OutputBucket
from core.jobs.store import JobStore
from services.s3 import Bucket
from services.sqs import Queue
from tests.conftest import ConfigMaker, shipped_values
from tests.support.api import AppMaker
from tests.support.fixtures import compiled  # noqa: F401
from tests.support.memory_aws.s3 import MemoryBucket
from tests.support.memory_aws.sqs import MemoryQueue
from tests.support.unsandboxed import inspect
from web_tier.app import create_app
from web_tier.auth.context import AuthServices
from web_tier.http.backend import backend_of


@pytest.fixture
def make_config() -> ConfigMaker:
    """Make configurations of a web tier: `make_config(web={"max_open_jobs": 1})`."""

    def make(**changes: dict[str, Any]) -> Config:
        values = shipped_values()
        for section, keys in changes.items():
            values[section] |= keys
        return parse_config(values)

    return make


@pytest.fixture
def config(make_config: ConfigMaker) -> Config:
    return make_config()


@pytest.fixture
def input_bucket() -> MemoryBucket:
    return MemoryBucket()


@pytest.fixture
def output_bucket() -> Bucket:
    return MemoryBucket()


@pytest.fixture
def requests_queue() -> MemoryQueue:
    return MemoryQueue()


@pytest.fixture
def make_app(
    make_config: ConfigMaker,
    store: JobStore,
    input_bucket: MemoryBucket,
    output_bucket: Bucket,
    requests_queue: MemoryQueue,
) -> AppMaker:
    def make(
        *,
        bucket: Bucket = input_bucket,
        queue: Queue = requests_queue,
        auth: AuthServices | None = None,
        **changes: dict[str, Any],
    ) -> Flask:
        config = make_config(**changes)
        app = create_app(config, store=store, input_bucket=bucket, request_queue=queue, auth=auth, inspect=inspect)
        backend_of(app).outputs = OutputBucket(output_bucket)
        return app

    return make


@pytest.fixture
def client(make_app: AppMaker) -> FlaskClient:
    return make_app().test_client()
