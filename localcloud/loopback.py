"""How services of the local cloud call each other: as anybody does, by its address, in the name of its owner.

CloudFormation makes resources and Auto Scaling launches instances by the same calls that a user makes, so what comes
of them is the same.
"""

import functools
import threading
from typing import Any

from localcloud.access_keys import owner_key


class Loopback:
    """The address at which this cloud is reached, and clients of it."""

    def __init__(self) -> None:
        self._address: str | None = None
        self._making = threading.Lock()

    def heard_at(self, environ: dict[str, Any]) -> None:
        """Take the address from the first request that comes."""
        if self._address is None:
            self._address = f"http://{environ['SERVER_NAME']}:{environ['SERVER_PORT']}"

    @property
    def address(self) -> str:
        """Where this cloud is.

        Raises:
            RuntimeError: it has not been called yet.
        """
        if self._address is None:
            raise RuntimeError("the local cloud does not know its address before its first request")
        return self._address

    def client(self, service: str, region: str) -> Any:
        """Return a client of a service of this cloud; it tries nothing again, so that each call is made once."""
        with self._making:
            return _client(self.address, service, region)


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


loopback = Loopback()
"""Of this process; one cloud is one process."""
