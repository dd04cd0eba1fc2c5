"""Step 1 of an image's way in: the files of a multipart form, one after the other as they arrive.

Flask would collect the whole form first: up to 500 KB of each file in memory, an open temporary file for each larger
one. A form of a thousand files fits into neither, so it is read part by part (RFC 7578), and a file that is larger
than allowed is counted but not kept.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from werkzeug.exceptions import BadRequest, RequestEntityTooLarge
from werkzeug.sansio.multipart import NEED_DATA, Data, Epilogue, Event, Field, File, MultipartDecoder

from web_tier.intake.names import shown_filename

CHUNK_BYTES = 64 * 1024
MAX_BUFFER_BYTES = 512 * 1024
"""Most that may wait for the end of a part's header; also bounds a form that never has one."""

MAX_FIELD_BYTES = 8 * 1024
SPARE_PARTS = 20
"""Fields that a form may have beside its files."""


class ByteStream(Protocol):
    """A request's body."""

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes, none at the end."""
        ...


@dataclass(frozen=True, slots=True)
class Upload:
    """A file of a form, in its `field`; `data` is empty when its `size` (bytes) is more than allowed."""

    filename: str
    data: bytes
    size: int
    field: str = ""


@dataclass(frozen=True, slots=True)
class FormField:
    """A field of a form that is not a file."""

    name: str
    value: str


def read_parts(
    stream: ByteStream, boundary: str, *, max_files: int, max_file_bytes: int
) -> Iterator[Upload | FormField]:
    """Yield the parts of a form as they arrive; a file input that was left empty is no part.

    Raises:
        BadRequest: when the form is malformed or ends early.
        RequestEntityTooLarge: when it has more than `max_files` files or is larger than the stream may be.
    """
    decoder = MultipartDecoder(boundary.encode(), MAX_BUFFER_BYTES, max_parts=max_files + SPARE_PARTS)
    part = _Part("", None, 0)
    files = 0
    for event in _events(stream, decoder):
        if isinstance(event, File):
            files += 1
            part = _Part(event.name, event.filename, max_file_bytes)
        elif isinstance(event, Field):
            part = _Part(event.name, None, MAX_FIELD_BYTES)
        elif isinstance(event, Data):
            part.add(event.data)
            if not event.more_data and not part.left_empty:
                if files > max_files:
                    raise RequestEntityTooLarge
                yield part.finished()


def _events(stream: ByteStream, decoder: MultipartDecoder) -> Iterator[Event]:
    try:
        while not isinstance(event := decoder.next_event(), Epilogue):
            if event is NEED_DATA:
                _feed(decoder, stream)
            else:
                yield event
    except ValueError as error:
        raise BadRequest("the form is malformed or ends early; send it again") from error


def _feed(decoder: MultipartDecoder, stream: ByteStream) -> None:
    """Give the decoder the next piece, and more as long as it ends with a boundary.

    Werkzeug 3.1 takes the CR before a boundary for the file's unless two bytes behind the boundary are there.
    """
    boundary = b"--" + decoder.boundary
    while True:
        data = stream.read(CHUNK_BYTES)
        decoder.receive_data(data or None)
        if not data or boundary not in decoder.buffer[-len(boundary) - 1 :]:
            return


@dataclass
class _Part:
    name: str | None
    filename: str | None
    limit: int
    size: int = 0
    chunks: list[bytes] = field(default_factory=list)

    def add(self, data: bytes) -> None:
        self.size += len(data)
        if self.size <= self.limit:
            self.chunks.append(data)
        else:
            self.chunks.clear()

    @property
    def left_empty(self) -> bool:
        return self.filename == "" and self.size == 0

    def finished(self) -> Upload | FormField:
        data = b"".join(self.chunks)
        self.chunks.clear()
        if self.filename is None:
            return FormField(self.name or "", data.decode(errors="replace"))
        return Upload(shown_filename(self.filename), data, self.size, self.name or "")
