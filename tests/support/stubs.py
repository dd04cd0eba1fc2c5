"""AWS's clients that answer what a test says, checked against botocore's models."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import boto3
from botocore.stub import Stubber


@contextmanager
def stubbed(service: str) -> Iterator[Stubber]:
    """Yield the stub of a client of `service`; every answer that was added must have been asked for at the end."""
    client = cast(Any, boto3.client)(service, region_name="us-east-1")
    with Stubber(client) as stub:
        yield stub
        stub.assert_no_pending_responses()
