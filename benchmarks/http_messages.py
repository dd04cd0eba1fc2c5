"""HTTP/1.1 messages as far as tells where each ends (RFC 9112, section 6), passed on byte for byte."""

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

MAX_HEAD_BYTES: Final = 2**18
"""Bytes; also how much of a body is held at once."""

_SIGNED_FOR: Final = re.compile(rb"Credential=[^/]+/\d{8}/[^/]+/([a-z0-9-]+)/aws4_request")


@dataclass(frozen=True)
class Peer:
    """One end of a connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def close(self) -> None:
        """Close the connection without waiting for it."""
        self.writer.close()


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
