"""Connections passed on to a service with a pause before each request: what a far-away service feels like.

The pause comes once for each request, after its head has arrived and before the service sees any of it. So a body in
many pieces, an answer and the wait of a long poll add nothing to it, and connecting costs nothing either.
"""

import argparse
import asyncio
import json
import re
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlsplit

_WITHOUT_BODY: Final = (b"204", b"304")


MAX_HEAD_BYTES: Final = 2**18
"""Bytes; also how much of a body is held at once."""

_SIGNED_FOR: Final = re.compile(rb"Credential=[^/]+/\d{8}/[^/]+/([a-z0-9-]+)/aws4_request")


@dataclass(frozen=True)
class Peer:
    """One end of a connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


@dataclass(frozen=True)
class Head:
    """The first line of a message and its header fields, with names in lower case."""

    raw: bytes
    first_line: list[bytes]
    fields: Mapping[bytes, bytes]

    @classmethod
    def parse(cls, raw: bytes) -> "Head":
        """Return what `raw`, up to and with its empty line, says."""
        first, *lines = raw.split(b"\r\n")[:-2]
        named = (line.partition(b":") for line in lines)
        return cls(raw, first.split(b" ", 2), {name.lower(): value.strip() for name, _, value in named})

    @property
    def service(self) -> str:
        """The service that a request is signed for, such as ``s3``; empty where there is no signature."""
        signed = _SIGNED_FOR.search(self.fields.get(b"authorization", b""))
        return signed[1].decode() if signed else ""

    @property
    def chunked(self) -> bool:
        """Whether the body comes in chunks, each with its length before it."""
        return b"chunked" in self.fields.get(b"transfer-encoding", b"").lower()

    @property
    def length(self) -> int | None:
        """Bytes of the body, where the head says."""
        length = self.fields.get(b"content-length")
        return None if length is None else int(length)

    @property
    def last(self) -> bool:
        """Whether the sender closes the connection after this message."""
        return b"HTTP/1.0" in self.first_line or self.fields.get(b"connection", b"").lower() == b"close"


@dataclass
class Relay:
    """Passes connections on to a service.

    Args:
        host: the service's.
        port: the service's.
        delays: seconds before each request, by the service that it is signed for; others go on at once.
        sleep: waits that long.
    """

    host: str
    port: int
    delays: Mapping[str, float]
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    calls: Counter[str] = field(default_factory=Counter)
    """Requests that were delayed, by service."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass one client's connection on until either end closes it, which is no error."""
        client = Peer(reader, writer)
        try:
            service = Peer(*await asyncio.open_connection(self.host, self.port, limit=MAX_HEAD_BYTES))
            try:
                while await self._exchange(client, service):
                    pass
            finally:
                service.writer.close()
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            client.writer.close()

    async def _exchange(self, client: Peer, service: Peer) -> bool:
        """Pass one request and its answer on; return whether the connection can be used again."""
        request = await read_head(client)
        seconds = self.delays.get(request.service)
        if seconds is not None:
            self.calls[request.service] += 1
            await self.sleep(seconds)
        service.writer.write(request.raw)
        if b"expect" in request.fields:
            # The client waits with its body until the service wants it (RFC 9110, section 10.1.1).
            interim = await _pass_head(service, client)
            if interim.first_line[1] != b"100":
                await _pass_answer_body(interim, request, service, client)
                return False
        if request.chunked:
            await pass_chunks(client, service)
        else:
            await pass_bytes(client, service, request.length or 0)
        answer = await _pass_head(service, client)
        while answer.first_line[1].startswith(b"1"):
            answer = await _pass_head(service, client)
        return await _pass_answer_body(answer, request, service, client) and not (answer.last or request.last)


async def _pass_answer_body(answer: Head, request: Head, service: Peer, client: Peer) -> bool:
    """Pass the body on; False where it ended with the connection."""
    if request.first_line[0] == b"HEAD" or answer.first_line[1] in _WITHOUT_BODY:
        return True
    if answer.chunked:
        await pass_chunks(service, client)
    elif answer.length is not None:
        await pass_bytes(service, client, answer.length)
    else:
        await pass_rest(service, client)
        return False
    return True


async def _pass_head(source: Peer, sink: Peer) -> Head:
    head = await read_head(source)
    sink.writer.write(head.raw)
    return head


async def read_head(peer: Peer) -> Head:
    """Read the head of a peer's next message.

    Raises:
        asyncio.IncompleteReadError: the peer has closed the connection.
    """
    return Head.parse(await peer.reader.readuntil(b"\r\n\r\n"))


async def pass_bytes(source: Peer, sink: Peer, count: int) -> None:
    """Pass `count` bytes on.

    Raises:
        asyncio.IncompleteReadError: the source has closed the connection before.
    """
    while count:
        data = await source.reader.read(min(count, MAX_HEAD_BYTES))
        if not data:
            raise asyncio.IncompleteReadError(b"", count)
        await _send(sink, data)
        count -= len(data)


async def pass_chunks(source: Peer, sink: Peer) -> None:
    """Pass chunks and trailer fields on (RFC 9112, section 7.1); raises as `pass_bytes`."""
    while size := int((await _pass_line(source, sink)).split(b";")[0], 16):
        await pass_bytes(source, sink, size + 2)
    while await _pass_line(source, sink) != b"\r\n":
        pass


async def _pass_line(source: Peer, sink: Peer) -> bytes:
    line = await source.reader.readuntil(b"\r\n")
    await _send(sink, line)
    return line


async def pass_rest(source: Peer, sink: Peer) -> None:
    """Pass on all that comes until the source closes the connection."""
    while data := await source.reader.read(MAX_HEAD_BYTES):
        await _send(sink, data)


async def _send(sink: Peer, data: bytes) -> None:
    sink.writer.write(data)
    await sink.writer.drain()


HOST: Final = "127.0.0.1"

ROOT: Final = Path(__file__).resolve().parents[1]

CONNECTIONS: Final = 1024

STOP_SECONDS: Final = 10.0


class DelayedCloud:
    """A delaying proxy before the cloud at `url`, for as long as the context lasts.

    Args:
        url: the cloud's endpoint.
        delays: seconds that each call takes longer, by service (``s3``, ``sqs``).
        lifeline: read end of a pipe; the proxy ends when the pipe ends.
    """

    def __init__(self, url: str, delays: Mapping[str, float], lifeline: int) -> None:
        self._url, self._delays, self._lifeline = url, delays, lifeline
        self.calls: dict[str, int] = {}

    def __enter__(self) -> Self:
        """Start the process; its socket listens already, so there is no need to wait for it."""
        with socket.create_server((HOST, 0), backlog=CONNECTIONS) as listener:
            self.endpoint_url = f"http://{HOST}:{listener.getsockname()[1]}"
            options = [
                *("--cloud", self._url, "--fd", str(listener.fileno()), "--lifeline-fd", str(self._lifeline)),
                *(f"--delay={service}={seconds}" for service, seconds in self._delays.items()),
            ]
            self._process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.relay", *options],
                pass_fds=[listener.fileno(), self._lifeline],
                cwd=ROOT,
                stdout=subprocess.PIPE,
            )
        self.pid = self._process.pid
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the process; from now on `calls` says how many it has delayed, by service."""
        self._process.terminate()
        try:
            said, _ = self._process.communicate(timeout=STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            said, _ = self._process.communicate()
        self.calls = json.loads(said or "{}")


async def proxy(listener: socket.socket, relay: Relay, lifeline: int) -> None:
    """Relay every connection until SIGTERM, or until the lifeline ends."""
    ended, loop = asyncio.Event(), asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    loop.add_reader(lifeline, ended.set)  # nothing is written to it: readable means that its other end has gone
    server = await asyncio.start_server(relay.serve, sock=listener, limit=MAX_HEAD_BYTES)
    await ended.wait()
    server.close()


def main() -> None:
    """Run the proxy that the command line describes."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.relay", description=__doc__)
    parser.add_argument("--cloud", required=True, help="URL of the cloud")
    parser.add_argument("--fd", type=int, required=True, help="number of an inherited listening socket")
    parser.add_argument("--lifeline-fd", type=int, required=True, help="end when this pipe ends")
    parser.add_argument("--delay", action="append", default=[], metavar="SERVICE=SECONDS")
    options = parser.parse_args()
    place = urlsplit(options.cloud)
    delays = {service: float(seconds) for service, _, seconds in (each.partition("=") for each in options.delay)}
    relay = Relay(place.hostname or HOST, place.port or 80, delays)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole foreground group; the parent ends us
    asyncio.run(proxy(socket.socket(fileno=options.fd), relay, options.lifeline_fd))
    print(json.dumps(relay.calls))


if __name__ == "__main__":
    main()
