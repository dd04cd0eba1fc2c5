"""The network of a machine: a network namespace with the cloud on loopback and a link to the metadata service.

No other route leads out of the namespace (man 7 network_namespaces). The metadata service has a namespace of its own
at the other end of the link: in the machine's namespace it would occupy port 80. Both ends disappear with the sockets
of the hypervisor that created them; a later hypervisor creates new ones.

A thread enters a namespace only for itself, and a socket or process that it creates there stays in it. Each call
therefore runs in a thread that ends with it. (`os.setns` and `os.unshare` need Python 3.12.)
"""

import asyncio
import contextlib
import ctypes
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from localcloud.machines.metadata import METADATA_ADDRESS

METADATA_PORT = 80

BACKLOG = 512

# cloud-init does not configure a device of such a name as a network card.
_MACHINE_END, _SERVICE_END = "veth-metadata", "veth-machine"

_MACHINE_ADDRESS = "169.254.169.1"


def listen_in(pid: int, cloud: tuple[str, int]) -> tuple[socket.socket, socket.socket]:
    """Return sockets that listen for a process's machine, at its metadata service's address and the cloud's.

    Raises:
        OSError: the machine has ended, or the network cannot be created.
    """
    with contextlib.ExitStack() as undo:
        at_cloud = undo.enter_context(in_network_of(pid, lambda: _listen_at_cloud(cloud)))
        metadata = undo.enter_context(in_new_network(lambda: _listen_for_metadata(pid)))
        in_network_of(pid, lambda: ip(*_up(_MACHINE_END, _MACHINE_ADDRESS, METADATA_ADDRESS)))
        undo.pop_all()
    return metadata, at_cloud


def _listen_at_cloud(cloud: tuple[str, int]) -> socket.socket:
    ip("link set lo up")
    with contextlib.suppress(OSError):
        ip(f"link delete {_MACHINE_END}")  # left by a hypervisor that was just killed
    return socket.create_server(cloud, backlog=BACKLOG)


def _listen_for_metadata(machine_pid: int) -> socket.socket:
    peer = f"peer name {_MACHINE_END} netns {network_of(machine_pid)}"
    ip(f"link add {_SERVICE_END} type veth {peer}", *_up(_SERVICE_END, METADATA_ADDRESS, _MACHINE_ADDRESS))
    return socket.create_server((METADATA_ADDRESS, METADATA_PORT), backlog=BACKLOG)


def _up(device: str, address: str, peer: str) -> tuple[str, ...]:
    # Without multicast, since a resolver in the machine would query its link for each name, and wait.
    return f"address add {address} peer {peer} dev {device}", f"link set {device} multicast off addrgenmode none up"


_T = TypeVar("_T")

_CLONE_NEWNET = 0x40000000

_IP_SECONDS = 10

_libc = ctypes.CDLL(None, use_errno=True)


class SameNetworkError(OSError):
    """Raised when a process that should have its own network has the network of this process."""


class IpCommandError(OSError):
    """Raised when `ip` rejects a line; the message has the lines and the reason."""


def in_new_network(what: Callable[[], _T]) -> _T:
    """Call `what` in a new namespace, which lives as long as a socket or a process in it.

    Raises:
        OSError: this process may not create namespaces, since it is not root.
    """
    return _call_in_namespace(lambda: _call(_libc.unshare, _CLONE_NEWNET), what)


def in_network_of(pid: int, what: Callable[[], _T]) -> _T:
    """Call `what` in the namespace of a process.

    Raises:
        SameNetworkError: the namespace is that of this process.
        OSError: the process does not exist, or this process is not root.
    """
    path = network_of(pid)
    if path.readlink() == Path("/proc/self/ns/net").readlink():
        raise SameNetworkError(f"process {pid} has no network of its own")
    namespace = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return _call_in_namespace(lambda: _call(_libc.setns, namespace, _CLONE_NEWNET), what)
    finally:
        os.close(namespace)


def network_of(pid: int) -> Path:
    """Return the file that represents the namespace of a process."""
    return Path(f"/proc/{pid}/ns/net")


def ip(*lines: str) -> None:
    """Configure the network of this thread with lines of `ip -batch` (iproute2); lines before a failed one apply.

    Raises:
        IpCommandError: a line failed.
    """
    done = subprocess.run(
        ["ip", "-batch", "-"],
        input="\n".join(lines),
        capture_output=True,
        text=True,
        timeout=_IP_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        raise IpCommandError(f"ip -batch refuses one of {lines}: {done.stderr.strip()}")


def _call_in_namespace(enter: Callable[[], None], what: Callable[[], _T]) -> _T:
    def both() -> _T:
        enter()
        return what()

    with ThreadPoolExecutor(1, thread_name_prefix="netns") as thread:
        return thread.submit(both).result()


def _call(function: Callable[..., int], *arguments: int) -> None:
    if function(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


CHUNK = 256 * 1024


class ConnectionRelay:
    """Relays connections from a listening socket to an address, in its own thread, until it is closed."""

    def __init__(self, listener: socket.socket, target: tuple[str, int]) -> None:
        self._listener, self._target = listener, target
        self._loop = asyncio.new_event_loop()
        self._closed = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="relay", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Close every connection and stop listening."""
        self._loop.call_soon_threadsafe(self._closed.set)
        self._thread.join()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        connections: set[asyncio.Task[None]] = set()

        # Not a coroutine: asyncio.start_server of Python 3.11 reports each of its cancelled tasks as an error.
        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connection = asyncio.create_task(self._carry(reader, writer))
            connections.add(connection)
            connection.add_done_callback(connections.discard)

        server = await asyncio.start_server(accept, sock=self._listener)
        await self._closed.wait()
        server.close()  # the runner cancels the remaining connections

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with _ending(writer), contextlib.suppress(OSError):  # closed if nothing listens at the target
            far_reader, far_writer = await asyncio.open_connection(*self._target)
            with _ending(far_writer):
                try:  # until both directions are done or one side disconnected
                    async with asyncio.TaskGroup() as both:
                        both.create_task(_pump(reader, far_writer))
                        both.create_task(_pump(far_reader, writer))
                except* OSError:
                    pass


@contextlib.contextmanager
def _ending(writer: asyncio.StreamWriter) -> Iterator[None]:
    """Close a connection at the end; abort it if the relay closes."""
    try:
        yield
    except asyncio.CancelledError:
        writer.transport.abort()
        raise
    finally:
        writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(CHUNK):
        writer.write(data)
        await writer.drain()
    with contextlib.suppress(OSError):
        writer.write_eof()
