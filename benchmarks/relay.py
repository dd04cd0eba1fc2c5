"""Connections passed on to a service with a pause before each request: what a far-away service feels like.

The pause comes once for each request, after its head has arrived and before the service sees any of it. So a body in
many pieces, an answer and the wait of a long poll add nothing to it, and connecting costs nothing either.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from benchmarks.http_messages import MAX_HEAD_BYTES, Head, Peer, pass_bytes, pass_chunks, pass_rest, read_head

_WITHOUT_BODY: Final = (b"204", b"304")


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
                service.close()
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            client.close()

    async def _exchange(self, client: Peer, service: Peer) -> bool:
        """Pass one request and its answer on; tell whether the connection can be used again."""
        request = await read_head(client)
        await self._pause(request)
        service.writer.write(request.raw)
        if b"expect" in request.fields:
            # The client waits with its body until the service wants it (RFC 9110, section 10.1.1).
            interim = await _pass_head(service, client)
            if interim.first_line[1] != b"100":
                await _pass_answer_body(interim, request, service, client)
                return False
        await _pass_request_body(request, client, service)
        return await _pass_answer(request, service, client)

    async def _pause(self, request: Head) -> None:
        seconds = self.delays.get(request.service)
        if seconds is not None:
            self.calls[request.service] += 1
            await self.sleep(seconds)


async def _pass_request_body(request: Head, client: Peer, service: Peer) -> None:
    if request.chunked:
        await pass_chunks(client, service)
    else:
        await pass_bytes(client, service, request.length or 0)


async def _pass_answer(request: Head, service: Peer, client: Peer) -> bool:
    """Pass the answer on; tell whether the connection can be used again."""
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
