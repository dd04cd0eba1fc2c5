"""Clients by which CloudFormation and Auto Scaling call other services, with the owner's key, as any client does."""

import functools
import threading
from collections.abc import Iterable
from typing import Any

from localcloud.access_keys import owner_key
from localcloud.page_guard import WsgiApp

_addresses: list[str] = []
"""The URL of the cloud of this process, once it has received a request."""

_lock = threading.Lock()


def learning_the_address(aws: WsgiApp) -> WsgiApp:
    """Return the application of all APIs, which takes over the address of the cloud from the first request."""

    def answer(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if not _addresses:
            _addresses.append(f"http://{environ['SERVER_NAME']}:{environ['SERVER_PORT']}")
        return aws(environ, start_response)

    return answer


def client(service: str, region: str) -> Any:
    """Return a client of a service, without retries: each call is made once."""
    with _lock:
        return _client(_addresses[0], service, region)


@functools.cache
def _client(address: str, service: str, region: str) -> Any:
    import botocore.session
    from botocore.config import Config

    return botocore.session.Session().create_client(
        service,
        region_name=region,
        endpoint_url=address,
        aws_access_key_id=owner_key().id,
        aws_secret_access_key=owner_key().secret,
        config=Config(retries={"total_max_attempts": 1}, read_timeout=60, max_pool_connections=50),
    )
