"""One child, seen by the process that gives it items: a process, and the socket to it.

A small image takes a child some 0.15 ms, so what is done around it counts: as few calls as there can be, since each
lets go of the interpreter and waits for it again.
"""

import socket
import struct
import time
from typing import Final

from core.confined.wire import ANSWER, ITEM, MAX_WORDS, Outcome

PROMPT_SECONDS: Final = 30.0
"""How long a child that has been forked may take to begin."""

FIRST_BYTES: Final = 2**16
"""Of an answer, read at once."""


class ProcessGoneError(Exception):
    """Raised when a child had ended before it had all of an item, which is as good as it was."""


class ProtocolError(Exception):
    """Raised when a child says something that is no answer."""


class SandboxProcess:
    """Used by one thread at a time.

    Args:
        pid: of its process.
        channel: the socket to it.

    Attributes:
        items: how many it has been given.
    """

    def __init__(self, pid: int, channel: socket.socket) -> None:
        self.pid, self._channel, self.items = pid, channel, 0

    def begun(self, patience: float) -> str:
        """Wait until it serves; from now on wait up to `patience` seconds for each answer.

        Returns:
            Which limits its platform lacks.

        Raises:
            OSError, ProtocolError: it does not.
        """
        self._wait_for(PROMPT_SECONDS)
        kind, words = self._answer(MAX_WORDS, time.monotonic() + PROMPT_SECONDS)
        if kind != Outcome.READY:
            raise ProtocolError
        self._wait_for(patience)
        return bytes(words).decode("ascii", "replace")

    def ask(
        self, data: bytes, arguments: bytes, seconds: float, patience: float, most: int
    ) -> tuple[Outcome, bytes | bytearray]:
        """Give it an item and return its answer.

        Args:
            data: the item.
            arguments: the named ones, as JSON.
            seconds: of processor time that the item may take.
            patience: seconds until the answer must be here.
            most: bytes of the answer.

        Raises:
            ProcessGoneError: it was not there any more.
            TimeoutError: it has not answered.
            OSError: it has ended.
            ProtocolError: what it says is no answer.
        """
        self.items += 1
        deadline = time.monotonic() + patience
        try:
            self._send(ITEM.pack(seconds, len(arguments), len(data)) + arguments, data)
            return self._answer(most, deadline)
        except BlockingIOError as error:
            raise TimeoutError from error

    def close(self) -> None:
        """Let go of it: it ends by itself unless it is at work."""
        self._channel.close()

    def _wait_for(self, seconds: float) -> None:
        """Let the system end each wait, which takes no call of its own."""
        limit = struct.pack("@ll", int(seconds), int(seconds % 1 * 1e6))
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            self._channel.setsockopt(socket.SOL_SOCKET, option, limit)

    def _send(self, head: bytes, data: bytes) -> None:
        try:
            sent = self._channel.sendmsg((head, data)) - len(head)
            if sent < 0:
                raise TimeoutError
            if sent < len(data):
                self._channel.sendall(memoryview(data)[sent:])
        except ConnectionError as error:
            raise ProcessGoneError from error

    def _answer(self, most: int, deadline: float) -> tuple[Outcome, bytes | bytearray]:
        first = self._channel.recv(ANSWER.size + FIRST_BYTES)
        if not first:
            raise ConnectionResetError("it closed its end")
        outcome, size = _head_of(first)
        begun = first[ANSWER.size :]
        if len(begun) > size or size > (most if outcome is Outcome.DONE else MAX_WORDS):
            raise ProtocolError
        return outcome, begun if len(begun) == size else self._rest(begun, size, deadline)

    def _rest(self, begun: bytes, size: int, deadline: float) -> bytearray:
        body = bytearray(size)
        body[: len(begun)] = begun
        left = memoryview(body)[len(begun) :]
        while left:
            count = self._channel.recv_into(left, 0, socket.MSG_WAITALL)
            if not count:
                raise ConnectionResetError("it closed its end")
            left = left[count:]
            if left and time.monotonic() > deadline:
                raise TimeoutError
        return body


def _head_of(said: bytes) -> tuple[Outcome, int]:
    """Return what an answer begins with; it comes at once."""
    try:
        kind, size = ANSWER.unpack_from(said)
        return Outcome(kind), size
    except (struct.error, ValueError) as error:
        raise ProtocolError from error
