"""The hypervisor's line to the cloud: JSON over one kept-alive connection, with nothing but the standard library.

The hypervisor starts in a fraction of the time that an SDK takes to import.
"""

import http.client
import json
from typing import Any
from urllib.parse import urlsplit

from localcloud.access_keys import owner_key
from localcloud.user_pools.mailbox import Mail


class CloudUnreachableError(OSError):
    """Raised when the cloud does not answer, or answers with an error of its own."""


class NotLaunchedError(LookupError):
    """Raised when the cloud does not know an instance."""


class ControlClient:
    """Calls the control endpoint. Not for use by two threads at once.

    Args:
        endpoint_url: the cloud's URL.
        timeout_seconds: for each answer, beyond the time that a long poll asks for.
    """

    def __init__(self, endpoint_url: str, timeout_seconds: float = 10.0) -> None:
        parts = urlsplit(endpoint_url)
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port)
        self._timeout = timeout_seconds

    def get(self, path: str, *, wait_seconds: float = 0) -> dict[str, Any]:
        """GET ``/_embedded/<path>``.

        Raises:
            CloudUnreachableError: no answer, or an error.
            NotLaunchedError: the answer is 404.
        """
        return self._call("GET", path, None, wait_seconds)

    def send(self, method: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """POST or PUT a JSON body to ``/_embedded/<path>``; raises as `get` does."""
        return self._call(method, path, json.dumps(body), 0)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _call(self, method: str, path: str, body: str | None, wait_seconds: float) -> dict[str, Any]:
        try:
            status, answer = self._exchange(method, path, body, wait_seconds)
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._connection.close()
            raise CloudUnreachableError(f"{method} /_embedded/{path}: {error!r}") from error
        if status == http.HTTPStatus.NOT_FOUND:
            raise NotLaunchedError(answer.get("error", path))
        if status != http.HTTPStatus.OK:
            raise CloudUnreachableError(f"{method} /_embedded/{path}: {status} {answer.get('error')}")
        return answer

    def _exchange(self, method: str, path: str, body: str | None, wait_seconds: float) -> tuple[int, dict[str, Any]]:
        self._connection.timeout = self._timeout + wait_seconds
        if self._connection.sock is not None:
            self._connection.sock.settimeout(self._connection.timeout)
        headers = {"Authorization": owner_key().control_authorization}
        self._connection.request(method, f"/_embedded/{path}", body, headers)
        response = self._connection.getresponse()
        return response.status, json.loads(response.read())


def mails(endpoint_url: str) -> list[Mail]:
    """Return the mails that the user pools of a cloud would have sent, oldest first.

    Raises:
        CloudUnreachableError: no answer, or an error.
    """
    client = ControlClient(endpoint_url)
    try:
        return [Mail(**mail) for mail in client.get("mail")["mail"]]
    finally:
        client.close()
