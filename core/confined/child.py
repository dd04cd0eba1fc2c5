"""The zygote, which has loaded the function and forks children, and what each child does all its life.

Imports as little as it can: its parent waits for its start, and each child shares what is here.
"""

import errno
import gc
import importlib
import json
import os
import signal
import socket
import sys
from collections.abc import Callable

from core.confined.forget import close_all_but
from core.confined.limits import Prctl, confine, find_prctl, grant_seconds, ignore_signals
from core.confined.seccomp import SetFilter, find_filter
from core.confined.wire import ANSWER, ASK, ITEM, MAX_CHARACTERS, NEW, TOLD, Outcome
from core.image_errors import ImageRejectedError

Function = Callable[..., bytes]
"""Takes an item's bytes and named arguments; returns bytes, or raises `ImageRejectedError`."""


def main() -> None:
    """Be a zygote, started afresh."""
    ignore_signals()
    run(socket.socket(fileno=int(sys.argv[1])), load(sys.argv[2]))


def run(control: socket.socket, function: Function) -> None:
    """Fork children as long as the parent of this process holds the other end of its socket."""
    ignore_signals()
    prctl, set_filter = find_prctl(), find_filter()
    _say_no_more()
    gc.freeze()  # so that no child copies what all share, just to look for garbage in it
    children: set[int] = set()
    while asked := receive(control, ASK.size):
        kind, number = ASK.unpack(asked)
        if kind == NEW:
            _fork(control, function, number, prctl, set_filter, children)
        else:
            control.sendall(TOLD.pack(end(number, children)))


def load(name: str) -> Function:
    """Return the function that ``module:function`` names."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)  # type: ignore[no-any-return]


def receive(channel: socket.socket, size: int) -> bytes:
    """Return the next `size` bytes; none once the other end is closed."""
    data = channel.recv(size, socket.MSG_WAITALL)
    return data if len(data) == size else b""


def end(child: int, children: set[int]) -> int:
    """End one of our children that has not ended by itself; return how it ended, as waitpid tells it."""
    if child not in children:
        return -errno.ECHILD
    children.remove(child)
    os.kill(child, signal.SIGKILL)  # until it has been waited for, no other process has its id
    return os.waitpid(child, 0)[1]


def serve(channel: socket.socket, function: Function, missing: list[str]) -> None:
    """Answer item after item until the other end is closed."""
    _say(channel, Outcome.READY, " ".join(missing).encode())
    while head := receive(channel, ITEM.size):
        seconds, length, size = ITEM.unpack(head)
        both = receive(channel, length + size)
        grant_seconds(seconds)
        _say(channel, *outcome(function, both[length:], both[:length]))


def outcome(function: Function, data: bytes, arguments: bytes) -> tuple[Outcome, bytes]:
    """Return what becomes of an item, and what there is to say of it."""
    try:
        return Outcome.DONE, function(data, **json.loads(arguments))
    except ImageRejectedError as error:
        return Outcome.REJECTED, json.dumps([error.code, error.message[:MAX_CHARACTERS]]).encode()
    except MemoryError:
        return Outcome.NO_MEMORY, b""
    except Exception as error:  # noqa: BLE001 (the edge: each error is reported, and the next item gets its turn)
        return Outcome.RAISED, f"{type(error).__name__}: {error}"[:MAX_CHARACTERS].encode("ascii", "replace")


def _fork(
    control: socket.socket,
    function: Function,
    memory_bytes: int,
    prctl: Prctl | None,
    set_filter: SetFilter | None,
    children: set[int],
) -> None:
    ours, theirs = socket.socketpair()
    zygote = os.getpid()
    with ours, theirs:
        try:
            child = os.fork()
        except OSError as error:
            control.sendall(TOLD.pack(-(error.errno or 1)))
            return
        if child == 0:
            _live(ours.fileno(), function, memory_bytes, zygote, prctl, set_filter)
        children.add(child)
        socket.send_fds(control, [TOLD.pack(child)], [theirs.fileno()])


def _live(
    channel: int,
    function: Function,
    memory_bytes: int,
    zygote: int,
    prctl: Prctl | None,
    set_filter: SetFilter | None,
) -> None:
    """Be a child until the end of this process; never return."""
    status = 1
    try:
        close_all_but(channel)
        connection = socket.socket(fileno=channel)
        missing = confine(memory_bytes, zygote, prctl, set_filter)
        serve(connection, function, missing)
        status = 0
    finally:
        os._exit(status)


def _say(channel: socket.socket, kind: Outcome, body: bytes) -> None:
    head = ANSWER.pack(kind, len(body))
    sent = channel.sendmsg([head, body])
    if sent < len(head) + len(body):
        channel.sendall((head + body)[sent:])


def _say_no_more() -> None:
    """Let nothing that a child writes reach our log."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(nowhere, descriptor)
    os.close(nowhere)


if __name__ == "__main__":
    main()
