"""The cloud learns its own address from the first request."""

import pytest

from localcloud.clients import Loopback


def test_address_comes_from_the_first_request() -> None:
    loopback = Loopback()
    with pytest.raises(RuntimeError, match="before its first request"):
        loopback.client("ec2", "us-east-1")
    loopback.learn_address({"SERVER_NAME": "127.0.0.1", "SERVER_PORT": "5001"})
    loopback.learn_address({"SERVER_NAME": "127.0.0.1", "SERVER_PORT": "1"})
    client = loopback.client("ec2", "eu-west-1")
    assert (client.meta.endpoint_url, client.meta.region_name) == ("http://127.0.0.1:5001", "eu-west-1")
    assert loopback.client("ec2", "eu-west-1") is client
