"""A child process as its parent sees it, the messages between the two, and the errors.

A small image takes a child some 0.15 ms, so the overhead counts: as few system calls as possible, since each releases
the interpreter lock and waits for it again.
"""

import socket
import struct
import time
from enum import IntEnum
from typing import Final

from core.images import ImageRejectedError
from services.errors import FleetsightError

CONTROL_REQUEST: Final = struct.Struct("<cQ")
"""To the zygote: `FORK` and the bytes of memory of the new child, or `KILL` and the process id of a child."""

FORK, KILL = b"n", b"e"

CONTROL_REPLY: Final = struct.Struct("<q")
"""From the zygote: the process id of the new child, or the wait status of the old one; or -errno."""

REQUEST_HEAD: Final = struct.Struct("<dII")
"""To a child: seconds of CPU time, bytes of the arguments, bytes of the item. The arguments and the item follow."""

REPLY_HEAD: Final = struct.Struct("<BI")
"""From a child: a `SandboxOutcome`, and the number of bytes that follow."""

MAX_CHARACTERS: Final = 500
"""Characters of the message of a rejection or an error."""

MAX_MESSAGE_BYTES: Final = 8_192
"""Bytes of a rejection or an error: JSON may write a character as twelve bytes."""

START_SECONDS: Final = 30.0
"""Seconds that a forked child may take until it is ready."""

NETWORK_SECONDS: Final = 120.0
NETWORK_BYTES: Final = 16 * 2**30
"""Time of an answer of a network, and of the processor for it, and address space of its process.

The first answer includes the load. Weights of 2 GB take a third of either.
"""

FIRST_BYTES: Final = 2**16
"""Bytes of a reply that are read at once."""


class SandboxOutcome(IntEnum):
    """What a reply reports. Replies are untrusted, so none is unpickled."""

    READY = 0  # of no item: sent once, with the limits that could not be set
    DONE = 1
    REJECTED = 2
    NO_MEMORY = 3
    RAISED = 4


class SandboxError(FleetsightError):
    """Base of the errors of a sandboxed call, except the function's own rejection."""


class TooCostlyError(SandboxError):
    """Raised when an item took more time or memory than it may."""


class StarvedError(TooCostlyError):
    """Raised when an item got no reply in time, or no memory: another process of the machine may be the cause."""


class CrashedError(SandboxError):
    """Raised when an item ended its child twice, or when the child sent an invalid reply."""


class PoolUnavailableError(SandboxError):
    """Raised when no child can be started at the moment; the item was not processed."""


class MissingLimitsError(PoolUnavailableError):
    """Raised when this system cannot set all limits of a child, and all are required."""

    remedy = (
        "Use Linux on x86-64 or arm64, not emulated; or set sandbox.limits to best_effort, for your own images only."
    )

    def __init__(self, missing: str) -> None:
        self.found = f"this system cannot limit what a process that opens images may do: it refuses {missing}"
        super().__init__(f"{self.found}. {self.remedy}")


class ProcessGoneError(Exception):
    """Raised when a child had ended before it received a whole item; the item was not processed."""


class ProtocolError(Exception):
    """Raised when a child sends an invalid reply."""


def rejection_of(error: Exception) -> ImageRejectedError:
    """Return the rejection, for its owner, of an image that ended its child with this error."""
    if isinstance(error, TooCostlyError):
        return ImageRejectedError(
            "too_costly",
            "decoding it takes more time or memory than an image may: save it again as JPEG or PNG, or smaller",
        )
    return ImageRejectedError(
        "undecodable", "it is damaged in a way that no decoder gets over: save it again as JPEG or PNG"
    )


class SandboxProcess:
    """A child process, used by one thread at a time.

    Attributes:
        items: number of items sent to it.
        owner: the owner of all of them; None before the first.
    """

    def __init__(self, pid: int, channel: socket.socket) -> None:
        self.pid, self._channel, self.items = pid, channel, 0
        self.owner: str | None = None

    def wait_until_ready(self, timeout: float) -> str:
        """Wait until the child is ready; from then on wait up to `timeout` seconds for each reply.

        Returns:
            The limits that the child's platform lacks.

        Raises:
            OSError, ProtocolError: the child did not become ready.
        """
        self._set_timeout(START_SECONDS)
        outcome, message = self._read_reply(MAX_MESSAGE_BYTES, time.monotonic() + START_SECONDS)
        if outcome != SandboxOutcome.READY:
            raise ProtocolError
        self._set_timeout(timeout)
        return bytes(message).decode("ascii", "replace")

    def request(
        self, data: bytes, arguments: bytes, cpu_seconds: float, timeout: float, max_bytes: int
    ) -> tuple[SandboxOutcome, bytes | bytearray]:
        """Send an item with its keyword arguments as JSON; return the reply, which must be complete after `timeout`.

        Raises:
            ProcessGoneError: the child had ended before.
            TimeoutError: the child did not reply in time.
            OSError: the child has ended.
            ProtocolError: the reply is invalid.
        """
        self.items += 1
        deadline = time.monotonic() + timeout
        try:
            self._send(REQUEST_HEAD.pack(cpu_seconds, len(arguments), len(data)) + arguments, data)
            return self._read_reply(max_bytes, deadline)
        except BlockingIOError as error:
            raise TimeoutError from error

    def close(self) -> None:
        """Close the socket: the child ends by itself unless it is processing an item."""
        self._channel.close()

    def _set_timeout(self, seconds: float) -> None:
        """Let the kernel end each wait, which needs no system call of its own."""
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

    def _read_reply(self, max_bytes: int, deadline: float) -> tuple[SandboxOutcome, bytes | bytearray]:
        first = self._channel.recv(REPLY_HEAD.size + FIRST_BYTES)
        if not first:
            raise ConnectionResetError("it closed its end")
        try:
            kind, size = REPLY_HEAD.unpack_from(first)  # a child sends the head at once
            outcome = SandboxOutcome(kind)
        except (struct.error, ValueError) as error:
            raise ProtocolError from error
        beginning = first[REPLY_HEAD.size :]
        if len(beginning) > size or size > (max_bytes if outcome is SandboxOutcome.DONE else MAX_MESSAGE_BYTES):
            raise ProtocolError
        return outcome, beginning if len(beginning) == size else self._read_rest(beginning, size, deadline)

    def _read_rest(self, beginning: bytes, size: int, deadline: float) -> bytearray:
        body = bytearray(size)
        body[: len(beginning)] = beginning
        left = memoryview(body)[len(beginning) :]
        while left:
            count = self._channel.recv_into(left, 0, socket.MSG_WAITALL)
            if not count:
                raise ConnectionResetError("it closed its end")
            left = left[count:]
            if left and time.monotonic() > deadline:
                raise TimeoutError
        return body
