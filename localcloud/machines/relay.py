"""Carries connections from one listening socket to an address elsewhere: a machine's way out of its own network."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Coroutine, Iterator

CHUNK = 256 * 1024


class Relay:
    """Takes connections until it is closed, in a thread of its own, and passes on what either side sends.

    Args:
        listener: listens already, in any network; closed with the relay.
        target: host and port that each connection leads to.
    """

    def __init__(self, listener: socket.socket, target: tuple[str, int]) -> None:
        self._listener, self._target = listener, target
        self._loop = asyncio.new_event_loop()
        self._closed = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="relay", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Cut every connection and stop listening."""
        self._loop.call_soon_threadsafe(self._closed.set)
        self._thread.join()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        connections: set[asyncio.Task[None]] = set()

        # No coroutine: asyncio.start_server of Python 3.11 complains of each of its tasks that is cancelled.
        def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connection = asyncio.create_task(self._carry(reader, writer))
            connections.add(connection)
            connection.add_done_callback(connections.discard)

        server = await asyncio.start_server(take, sock=self._listener)
        await self._closed.wait()
        server.close()  # and the runner cancels the connections that are left

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with _ending(writer), contextlib.suppress(OSError):  # nothing listens there: it ends, as a refused one would
            far_reader, far_writer = await asyncio.open_connection(*self._target)
            with _ending(far_writer):
                await _both(_pump(reader, far_writer), _pump(far_reader, writer))


@contextlib.contextmanager
def _ending(writer: asyncio.StreamWriter) -> Iterator[None]:
    """Close a connection at the end, and at once, with data on its way, when the relay closes."""
    try:
        yield
    except asyncio.CancelledError:
        writer.transport.abort()
        raise
    finally:
        writer.close()


async def _both(*directions: Coroutine[None, None, None]) -> None:
    """Carry until both are done, or one side is gone, and so the other has no peer."""
    try:
        async with asyncio.TaskGroup() as both:
            for direction in directions:
                both.create_task(direction)
    except* OSError:
        pass


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(CHUNK):
        writer.write(data)
        await writer.drain()
    with contextlib.suppress(OSError):
        writer.write_eof()
