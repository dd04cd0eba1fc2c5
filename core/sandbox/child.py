"""The zygote process, which has loaded the function and forks children, and the loop of a child.

Imports as little as possible: the parent waits for the zygote's start, and each child shares what is loaded here.
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
from functools import partial

from core.images import ImageRejectedError
from core.sandbox.limits import (
    close_all_but,
    confine,
    find_prctl,
    grant_seconds,
    ignore_signals,
    keep_freed_memory,
)
from core.sandbox.process import (
    CONTROL_REPLY,
    CONTROL_REQUEST,
    FORK,
    MAX_CHARACTERS,
    REPLY_HEAD,
    REQUEST_HEAD,
    SandboxOutcome,
)

Function = Callable[..., bytes]
"""Takes an item's bytes and keyword arguments; returns bytes, or raises `ImageRejectedError`."""


def main() -> None:
    """Run a zygote that was started as a new process."""
    ignore_signals()
    run(socket.socket(fileno=int(sys.argv[1])), load(sys.argv[2]), has_threads="threads" in sys.argv[3:])


def run(control: socket.socket, function: Function, *, has_threads: bool = False) -> None:
    """Fork and kill children, of which each may have threads, until the parent closes its end of the socket."""
    ignore_signals()
    limits = partial(confine, parent=os.getpid(), prctl=find_prctl(), has_threads=has_threads)
    # Nothing that a child writes may reach the log.
    devnull = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(devnull, descriptor)
    os.close(devnull)
    keep_freed_memory()
    gc.enable()  # its parent may have none while it starts
    gc.freeze()  # so that a child's garbage collector does not write to, and so copy, the shared memory
    children: set[int] = set()
    while request := receive(control, CONTROL_REQUEST.size):
        kind, number = CONTROL_REQUEST.unpack(request)
        if kind == FORK:
            _fork(control, function, partial(limits, number), children)
        else:
            control.sendall(CONTROL_REPLY.pack(kill_child(number, children)))


def load(name: str) -> Function:
    """Return the function that ``module:function`` names."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)  # type: ignore[no-any-return]


def receive(channel: socket.socket, size: int) -> bytes:
    """Return the next `size` bytes, or nothing once the other end is closed."""
    data = channel.recv(size, socket.MSG_WAITALL)
    return data if len(data) == size else b""


def kill_child(child: int, children: set[int]) -> int:
    """Kill a child unless it has ended; return its wait status, or -ECHILD if it is not one of `children`."""
    if child not in children:
        return -errno.ECHILD
    children.remove(child)
    os.kill(child, signal.SIGKILL)  # no other process can have its id before the wait below
    return os.waitpid(child, 0)[1]


def serve(channel: socket.socket, function: Function, missing: list[str]) -> None:
    """Process items until the other end is closed."""
    _reply(channel, SandboxOutcome.READY, " ".join(missing).encode())
    while head := receive(channel, REQUEST_HEAD.size):
        cpu_seconds, length, size = REQUEST_HEAD.unpack(head)
        arguments, item = receive(channel, length), receive(channel, size)  # a slice would copy all of the item
        grant_seconds(cpu_seconds)
        _reply(channel, *process_item(function, item, arguments))


def process_item(function: Function, data: bytes, arguments: bytes) -> tuple[SandboxOutcome, bytes]:
    """Return the outcome of an item and the body of the reply."""
    try:
        return SandboxOutcome.DONE, function(data, **json.loads(arguments))
    except ImageRejectedError as error:
        return SandboxOutcome.REJECTED, json.dumps([error.code, error.message[:MAX_CHARACTERS]]).encode()
    except MemoryError:
        return SandboxOutcome.NO_MEMORY, b""
    except Exception as error:  # noqa: BLE001 (the edge: each error is reported, and the next item gets its turn)
        return SandboxOutcome.RAISED, f"{type(error).__name__}: {error}"[:MAX_CHARACTERS].encode("ascii", "replace")


def _fork(
    control: socket.socket,
    function: Function,
    limits: Callable[[], list[str]],
    children: set[int],
) -> None:
    child_end, parent_end = socket.socketpair()
    with child_end, parent_end:
        try:
            child = os.fork()
        except OSError as error:
            control.sendall(CONTROL_REPLY.pack(-(error.errno or 1)))
            return
        if child == 0:
            _run_child(child_end.fileno(), function, limits)
        children.add(child)
        socket.send_fds(control, [CONTROL_REPLY.pack(child)], [parent_end.fileno()])


def _run_child(channel: int, function: Function, limits: Callable[[], list[str]]) -> None:
    """Run a child until its process ends; never return."""
    status = 1
    try:
        close_all_but(channel)
        connection = socket.socket(fileno=channel)
        serve(connection, function, limits())
        status = 0
    finally:
        os._exit(status)


def _reply(channel: socket.socket, outcome: SandboxOutcome, body: bytes) -> None:
    head = REPLY_HEAD.pack(outcome, len(body))
    sent = channel.sendmsg([head, body])
    if sent < len(head) + len(body):
        channel.sendall((head + body)[sent:])


if __name__ == "__main__":
    main()
