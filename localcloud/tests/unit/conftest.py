"""The same moto twice: through the direct calls, and as stock; and its EC2 alone."""

from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.config import Config
from moto import mock_aws

from localcloud.dispatch import DirectCalls, MotoServices
from localcloud.patches import apply_patches
from localcloud.tests.support.wsgi_clients import ClientPair, CountingApplication, WsgiClient


@pytest.fixture(scope="session")
def moto() -> ClientPair:
    """Return clients of the patched moto of this process. It keeps its state: each test uses names of its own."""
    apply_patches("core")
    stock = CountingApplication(MotoServices())
    return ClientPair(WsgiClient(DirectCalls(stock)), WsgiClient(stock), stock)


@pytest.fixture
def ec2(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return a client, which tries once, of the patched EC2 of a new account."""
    monkeypatch.setenv("MOTO_EC2_LOAD_DEFAULT_AMIS", "false")
    apply_patches("ec2")
    with mock_aws():
        yield boto3.client("ec2", "us-east-1", config=Config(retries={"total_max_attempts": 1}))
