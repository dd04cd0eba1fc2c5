"""gunicorn's threaded worker, whose threads wait a moment for the next request of a kept-alive connection.

Stock gthread hands a connection back to its main thread after each answer and gets it again for the next request:
a pipe, a selector and a thread change for each, where a busy client has sent its next request already.
"""

import select
import time
from typing import Any

from gunicorn.workers.gthread import ThreadWorker  # type: ignore[import-untyped]

LINGER_MILLISECONDS = 20


class LingeringWorker(ThreadWorker):  # type: ignore[misc]
    """A thread keeps its connection for as long as requests follow each other closely."""

    def handle(self, conn: Any) -> Any:
        """Answer the request that has come, and those that come soon after it.

        Returns:
            What gunicorn's own ``handle`` does: true when the connection can be used again.
        """
        result = super().handle(conn)
        while result is True and self.alive and _readable(conn):
            result = super().handle(conn)
        return result

    def _keepalive_after(self, conn: Any, keepalive: bool) -> bool:
        """Keep no connection once the server stops."""
        return bool(super()._keepalive_after(conn, keepalive)) and self.alive

    def _cap_keepalive(self, _deadline: float) -> None:
        """Close idle connections at once when the server stops; gunicorn waits two seconds for more requests."""
        super()._cap_keepalive(time.monotonic())


def _readable(conn: Any) -> bool:
    if conn.parser.unreader.buf.getvalue():  # of the next request, read along with the last
        return True
    poll = select.poll()
    poll.register(conn.sock, select.POLLIN)
    return bool(poll.poll(LINGER_MILLISECONDS))
