"""Multipart forms, read part by part as they arrive (RFC 7578).

Flask would collect the whole form first: up to 500 KB of each file in memory, and an open temporary file for each
larger one. A form of a thousand files fits into neither. The data of a file that is larger than allowed is counted
and dropped.
"""

import base64
import quopri
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

from werkzeug.datastructures import Headers
from werkzeug.exceptions import BadRequest, RequestEntityTooLarge
from werkzeug.sansio.multipart import NEED_DATA, Data, Epilogue, Event, Field, File, MultipartDecoder

from web_tier.http.parameters import clean_filename

Read = Callable[[int], bytes]
"""Returns up to so many bytes of a request's body, and none at its end."""

CHUNK_BYTES = 128 * 1024
MAX_BUFFER_BYTES = 512 * 1024
"""Maximum bytes that wait for the end of a part's header; also bounds a form without such an end."""

MAX_HEADER_BYTES = 16 * 1024
"""Maximum bytes of the header of a part. A byte of a header takes 300 times as long as one of a file: werkzeug parses
headers in Python."""

SPARE_HEADER_BYTES, HEADER_BYTES_OF_A_PART = 512 * 1024, 256
"""Maximum bytes of the headers of all parts together: the first number, and the second one for each part received."""

MAX_FIELD_BYTES = 8 * 1024
SPARE_PARTS = 20
"""Fields that a form may have in addition to its files."""

MAX_EMPTY_INPUTS = 10_000
"""File inputs of a form that may be left empty."""

_DECODERS: Mapping[str, Callable[[bytes], bytes]] = {
    "base64": base64.b64decode,
    "quoted-printable": quopri.decodestring,
}
"""Content-Transfer-Encodings of a part that change its bytes; RFC 7578, 4.7 asks clients to use none."""

_LONE_BACKSLASH = re.compile(rb'(?<!\\)(?:\\\\)*+\\(?!["\\])')
_LINE_ENDS = re.compile("%0[AD]")
"""Line ends in a name, as browsers send them: https://html.spec.whatwg.org/#multipart-form-data."""


@dataclass(frozen=True)
class Upload:
    """A file of a form.

    Attributes:
        data: empty when its `size` (bytes) is more than allowed.
        position: of its image among those of the job, if the client chose one.
        left: files that the client still has for the job, with this one, if it says so.
    """

    filename: str
    data: bytes
    size: int
    field: str = ""
    position: int | None = None
    left: int | None = None


@dataclass(frozen=True, slots=True)
class FormField:
    """A field of a form that is not a file."""

    name: str
    value: str


def read_parts(read: Read, boundary: str, *, max_files: int, max_file_bytes: int) -> Iterator[Upload | FormField]:
    """Yield the parts of a form as they arrive, except file inputs that were left empty.

    Raises:
        BadRequest: the form is malformed or ends early, or a part has a header that is too long, or binary data
            without a filename.
        RequestEntityTooLarge: it has more than `max_files` files or is larger than the body may be.
    """
    decoder = _FormDecoder(boundary.encode(), MAX_BUFFER_BYTES, max_parts=max_files + MAX_EMPTY_INPUTS)
    part = _Part("", None, 0)
    files = form_fields = 0
    for event in _events(read, decoder):
        if isinstance(event, File):
            coding = event.headers.get("Content-Transfer-Encoding", "").lower()
            part = _Part(event.name, _LINE_ENDS.sub("", event.filename), max_file_bytes, coding)
        elif isinstance(event, Field):
            part = _Part(event.name, None, MAX_FIELD_BYTES)
        elif isinstance(event, Data):
            part.add(event.data)
            is_empty_input = part.filename == "" and not part.size
            if not event.more_data and not is_empty_input:
                files, form_fields = files + (part.filename is not None), form_fields + (part.filename is None)
                if files > max_files:
                    raise RequestEntityTooLarge(f"the form has more than {max_files} files")
                if form_fields > SPARE_PARTS:
                    raise RequestEntityTooLarge(f"the form has more than {SPARE_PARTS} fields that are no files")
                yield part.finish()


@dataclass(frozen=True)
class _BoundarySearch:
    """Werkzeug's pattern of a boundary, tried only where `mark` is: elsewhere it takes 0.3 ms for a small photo."""

    pattern: re.Pattern[bytes]
    mark: bytes

    def search(self, data: bytes | bytearray) -> re.Match[bytes] | None:
        at = data.find(self.mark)
        return None if at < 0 else self.pattern.search(data, max(0, at - len(b"\r\n")))


class _FormDecoder(MultipartDecoder):
    """Reads names that clients do not encode: in ISO 8859-1, and with the backslashes of a path."""

    def __init__(self, boundary: bytes, max_form_memory_size: int, *, max_parts: int) -> None:
        super().__init__(boundary, max_form_memory_size, max_parts=max_parts)
        self.boundary_re: Any = _BoundarySearch(self.boundary_re, b"--" + boundary)
        self._header_bytes_left = SPARE_HEADER_BYTES

    def _parse_headers(self, data: bytes | bytearray) -> Headers:
        if len(data) > MAX_HEADER_BYTES:
            raise BadRequest(
                f"the header of a part of the form has {len(data)} bytes, and {MAX_HEADER_BYTES} are allowed: "
                "give the file a shorter name"
            )
        self._header_bytes_left += HEADER_BYTES_OF_A_PART - len(data)
        if self._header_bytes_left < 0:
            raise RequestEntityTooLarge("the names of the files are too long in all")
        # A backslash that is not before \ or " is itself; werkzeug would drop it, as RFC 9110, 5.6.4 says.
        whole = _LONE_BACKSLASH.sub(rb"\g<0>\\", bytes(data))
        return super()._parse_headers(whole.decode(errors="replace").encode())


def _events(read: Read, decoder: MultipartDecoder) -> Iterator[Event]:
    boundary = b"--" + decoder.boundary
    try:
        while not isinstance(event := decoder.next_event(), Epilogue):
            if event is not NEED_DATA:
                yield event
                continue
            # Werkzeug 3.1 counts the CR before a boundary as a part of the file unless two bytes after the boundary
            # are there, so the decoder receives more while its data ends with a boundary.
            while data := read(CHUNK_BYTES):
                decoder.receive_data(data)
                if boundary not in decoder.buffer[-len(boundary) - 1 :]:
                    break
            else:
                decoder.receive_data(None)
    except ValueError as error:
        raise BadRequest("the form is malformed or ends early; send it again") from error


@dataclass
class _Part:
    """A part that is being read; beyond `limit` its data is dropped."""

    name: str | None
    filename: str | None
    limit: int
    coding: str = ""
    size: int = 0
    content: BytesIO = field(default_factory=BytesIO)

    def add(self, data: bytes) -> None:
        if self.filename is None and b"\0" in data:
            raise BadRequest(f"the part {str(self.name)[:80]!r} is a file without a filename: give it one")
        self.size += len(data)
        if self.size <= self.limit:
            self.content.write(data)
        else:
            self.content.close()

    def finish(self) -> Upload | FormField:
        # Without a copy. Pieces to join would be in memory twice, and the kernel takes 2 µs for each new page.
        data = b"" if self.content.closed else self.content.getvalue()
        self.content.close()
        if self.filename is None:
            return FormField(self.name or "", data.decode(errors="replace"))
        if data and self.coding in _DECODERS:
            with suppress(ValueError):  # what is not in that encoding is no image either
                data = _DECODERS[self.coding](data)
                self.size = len(data)
        return Upload(clean_filename(self.filename), data, self.size, self.name or "")
