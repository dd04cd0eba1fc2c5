"""The client of the local cloud's control endpoint.

It needs only the standard library: the hypervisor must start faster than an SDK can be imported.
"""

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from localcloud.access_keys import owner_key


class CloudUnreachableError(OSError):
    """Raised when the cloud does not answer, or answers with an error."""


class NotLaunchedError(LookupError):
    """Raised when the cloud does not know an instance."""


@dataclass(frozen=True)
class InstanceWork:
    """An instance that is not terminated, as the control endpoint lists it: see `ec2.fleet.LaunchedInstance`."""

    id: str
    state: str
    generation: int
    stuck: bool
    boot_delay_seconds: float


class ControlClient:
    """Calls the control endpoint over one kept-alive connection. Not thread-safe.

    The time limit for each answer is in addition to the wait time of a long poll.
    """

    def __init__(self, endpoint_url: str, timeout_seconds: float = 10.0) -> None:
        parts = urlsplit(endpoint_url)
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port)
        self._timeout = timeout_seconds

    def get(self, path: str, *, wait_seconds: float = 0) -> dict[str, Any]:
        """GET ``/_embedded/<path>``; raises as `call` does."""
        return self.call("GET", path, wait_seconds=wait_seconds)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def call(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, wait_seconds: float = 0
    ) -> dict[str, Any]:
        """Call ``/_embedded/<path>`` with a JSON body.

        Raises:
            CloudUnreachableError: no answer, or an error.
            NotLaunchedError: the answer is 404.
        """
        content = None if body is None else json.dumps(dict(body))
        try:
            self._connection.timeout = self._timeout + wait_seconds
            if self._connection.sock is not None:
                self._connection.sock.settimeout(self._connection.timeout)
            headers = {"Authorization": owner_key().control_authorization}
            self._connection.request(method, f"/_embedded/{path}", content, headers)
            response = self._connection.getresponse()
            answer: dict[str, Any] = json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._connection.close()
            raise CloudUnreachableError(f"{method} /_embedded/{path}: {error!r}") from error
        if response.status == http.HTTPStatus.NOT_FOUND:
            raise NotLaunchedError(answer.get("error", path))
        if response.status != http.HTTPStatus.OK:
            raise CloudUnreachableError(f"{method} /_embedded/{path}: {response.status} {answer.get('error')}")
        return answer
