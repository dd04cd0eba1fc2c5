"""The demand signal: tells a controller on the same machine that a queue has new messages.

SQS cannot report that, so a controller must count the messages again and again. With this signal it may count them
less often while there are none. The signal is a hint: it carries nothing, and a lost one only delays the controller
until its next count. It is a datagram to a Linux socket with an abstract name, which needs no file, and which no web
page can reach. A process without such sockets, or on another machine, sends and receives none.
"""

import hashlib
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from services.sqs import OutgoingMessage, Queue


def _address(queue_url: str) -> str:
    return f"\0fleetsight-demand-{hashlib.sha256(queue_url.encode()).hexdigest()[:32]}"


@dataclass(frozen=True)
class SignallingQueue(Queue):
    """A queue that sends the demand signal after messages."""

    def send(self, messages: Sequence[OutgoingMessage]) -> list[OutgoingMessage]:
        """Send `messages` as a queue does, also the signal if some may have been accepted."""
        try:
            return super().send(messages)
        finally:
            # An error: such sockets do not exist here, or no controller listens or has read the last signals.
            with suppress(AttributeError, OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)
                sender.sendto(b"", _address(self.url))


@dataclass
class DemandListener:
    """Receives the signals of a queue, in one process of a machine; for one thread."""

    queue_url: str
    _socket: socket.socket | None = field(default=None, init=False)

    def listen(self) -> bool:
        """Discard the signals so far; return False if there will be none, since another process receives them."""
        if self._socket is None:
            with suppress(AttributeError, OSError):
                created = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                try:
                    created.bind(_address(self.queue_url))
                except OSError:
                    created.close()
                    raise
                self._socket = created
        if self._socket is None:
            return False
        while self.wait(0):
            pass
        return True

    def wait(self, seconds: float) -> bool:
        """Wait up to `seconds` for a signal; return whether one has arrived. `listen` must have returned True."""
        if self._socket is None:
            return False
        self._socket.settimeout(seconds)
        try:
            self._socket.recv(1)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Stop receiving."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
