"""Bodies of requests: multipart forms, the names in them, their bounds, and clients that are slow."""

import base64
import quopri
import socket
import sys
import unicodedata
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from itertools import repeat
from unittest.mock import Mock

import pytest
from gunicorn.http.body import Body, ChunkedReader, LengthReader
from gunicorn.http.errors import NoMoreData
from gunicorn.http.unreader import IterUnreader, SocketUnreader
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.exceptions import BadRequest, HTTPException, RequestEntityTooLarge, RequestTimeout, UnprocessableEntity
from werkzeug.sansio.multipart import MultipartDecoder

from fleetsight_client.names import shown_name
from tests.support import fixtures
from tests.support.clocks import PlayedClock
from tests.support.jobs import NOW
from web_tier.http.parameters import MAX_FILENAME_BYTES, clean_filename, clean_job_name, job_name_of_files
from web_tier.http.parsing import json_text
from web_tier.http.slow_clients import GRACE_SECONDS, TimeoutStream, bound_connection
from web_tier.uploads.multipart import (
    CHUNK_BYTES,
    MAX_BUFFER_BYTES,
    MAX_HEADER_BYTES,
    SPARE_PARTS,
    FormField,
    Upload,
    _FormDecoder,
    read_parts,
)
from web_tier.uploads.request_body import decoded, positioned_files

BOUNDARY = "the-boundary"


def form(*parts: tuple[str, bytes], end: bool = True) -> bytes:
    """Return a form of `(content disposition, body)` parts."""
    lines = b"".join(
        f"--{BOUNDARY}\r\nContent-Disposition: form-data; {disposition}\r\n\r\n".encode() + body + b"\r\n"
        for disposition, body in parts
    )
    return lines + (f"--{BOUNDARY}--\r\n".encode() if end else b"")


def read(body: bytes, max_files: int = 10, max_file_bytes: int = 1000) -> list[Upload | FormField]:
    return list(read_parts(BytesIO(body).read, BOUNDARY, max_files=max_files, max_file_bytes=max_file_bytes))


def test_files_and_fields_come_in_the_order_of_the_form_without_empty_inputs() -> None:
    body = form(
        ('name="name"', "für Oma".encode()),
        ('name="f"; filename="a.jpg"', b"one"),
        ('name="f"; filename=""', b""),
        ('name="g"; filename="a.jpg"', b""),
        ('name="f"; filename="large.jpg"', b"x" * 1001),
    )
    assert read(body) == [
        FormField("name", "für Oma"),
        Upload("a.jpg", b"one", 3, "f"),
        Upload("a.jpg", b"", 0, "g"),
        Upload("large.jpg", b"", 1001, "f"),  # counted, and not kept
    ]


@pytest.mark.parametrize(
    ("disposition", "filename"),
    [
        (b'name="f"; filename="b_\xe9.jpg"', "b_\ufffd.jpg"),
        (b'name="\xe9"; filename="a.jpg"', "a.jpg"),
        (rb'name="f"; filename="C:\Users\me\a.jpg"', "a.jpg"),
        (rb'name="f"; filename="C:\\Users\\me\\a.jpg"', "a.jpg"),
        (rb'name="f"; filename="\\server\share\a.jpg"', "a.jpg"),
        (rb'name="f"; filename="day1\a.jpg"', "day1/a.jpg"),
        (rb'name="f"; filename="a\"b.jpg"', 'a"b.jpg'),
        (b'name="f"; filename="a%22b%0D%0Ac.jpg"', 'a"bc.jpg'),
        (b"name=f; filename=a.jpg", "a.jpg"),
        (b"filename=\"a.jpg\"; name=f; filename*=UTF-8''%C3%A9.jpg", "é.jpg"),
        (b'name=f; filename*0="a"; filename*1=".jpg"', "a.jpg"),
    ],
)
def test_a_name_in_any_notation_of_a_client_costs_at_most_itself(disposition: bytes, filename: str) -> None:
    body = form(("PLACE", b"one"), ('name="g"; filename="b.jpg"', b"two")).replace(b"PLACE", disposition)
    assert [(part.filename, part.data) for part in read(body) if isinstance(part, Upload)] == [
        (filename, b"one"),
        ("b.jpg", b"two"),
    ]


@pytest.mark.parametrize(
    ("coding", "sent"),
    [
        ("base64", base64.encodebytes(bytes(range(256)))),
        ("Quoted-Printable", quopri.encodestring(bytes(range(256)))),
        ("binary", bytes(range(256))),
    ],
)
def test_a_part_in_a_transfer_encoding_is_decoded(coding: str, sent: bytes) -> None:
    body = form((f'name="f"; filename="a"\r\nContent-Transfer-Encoding: {coding}', sent))
    assert read(body) == [Upload("a", bytes(range(256)), 256, "f")]


def test_file_inputs_that_were_left_empty_do_not_count() -> None:
    body = form(*[('name="f"; filename=""', b"")] * 2_000, ('name="f"; filename="a"', b"x"))
    assert read(body, max_files=1) == [Upload("a", b"x", 1, "f")]


def test_a_file_without_a_filename_is_refused_with_the_name_of_its_part() -> None:
    with pytest.raises(BadRequest, match="'image' is a file without a filename"):
        read(form(('name="f"; filename="a"', b"x"), ('name="image"', b"\xff\xd8\xff\xe0\0\x10JFIF")))


@given(st.lists(st.binary(max_size=900), max_size=8), st.integers(1, 50))
def test_any_content_arrives_unchanged_however_it_is_cut_into_pieces(contents: list[bytes], piece: int) -> None:
    class Slow(BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(piece)

    body = form(*[('name="f"; filename="a"', content) for content in contents])
    found = list(read_parts(Slow(body).read, BOUNDARY, max_files=10, max_file_bytes=1000))
    assert [part.data for part in found if isinstance(part, Upload)] == contents


@given(st.lists(st.sampled_from([b"\r\n", b"\n", b"\r", b"--", b"x", f"--{BOUNDARY}".encode()]), max_size=12))
def test_the_quick_search_finds_the_boundaries_that_werkzeug_finds(pieces: list[bytes]) -> None:
    data, boundary = b"".join(pieces), BOUNDARY.encode()
    found = _FormDecoder(boundary, MAX_BUFFER_BYTES, max_parts=1).boundary_re.search(data)
    expected = MultipartDecoder(boundary).boundary_re.search(data)
    assert (found and found.span()) == (expected and expected.span())


def test_more_files_than_allowed_are_too_many() -> None:
    body = form(*[('name="f"; filename="a"', b"x")] * 3)
    assert len(read(body, max_files=3)) == 3
    with pytest.raises(RequestEntityTooLarge):
        read(body, max_files=2)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no form at all",
        form(('name="f"; filename="a"', b"x"), end=False),
        form(('name="f"; filename="a"', b"x"))[:-12],
        f"--{BOUNDARY}\r\nContent-Type: text/plain\r\n\r\nx\r\n--{BOUNDARY}--\r\n".encode(),
        f"--{BOUNDARY}\r\nContent-Disposition: form-data; name=\xff\r\n\r\n".encode("latin-1"),
    ],
    ids=["empty", "no form", "no end", "cut", "no disposition", "not utf-8"],
)
def test_a_form_that_is_malformed_or_ends_early_is_refused(body: bytes) -> None:
    with pytest.raises(BadRequest):
        read(body)


class Endless:
    """A client that sends `start` and then `piece` for ever, and counts what was read of it."""

    def __init__(self, start: bytes, piece: bytes) -> None:
        self._start, self._piece, self.sent = start, piece, 0

    def read(self, size: int, /) -> bytes:
        data = self._start or (self._piece * (size // len(self._piece) + 1))[:size]
        self._start = b""
        self.sent += len(data)
        return data


@pytest.mark.parametrize(
    ("start", "piece"),
    [
        (b"", b"no boundary "),
        (f"--{BOUNDARY}\r\nContent-Disposition: form-data; name=".encode(), b"a header without an end "),
        (b"", form(('name="f"', b"x"), end=False)),
        (b"", form(('name="f"; filename="a.jpg"', b"x"), end=False)),
    ],
    ids=["no part", "a header", "fields", "files"],
)
def test_a_form_that_goes_on_and_on_is_cut_off_before_it_fills_the_memory(start: bytes, piece: bytes) -> None:
    client = Endless(start, piece)
    with pytest.raises(RequestEntityTooLarge):
        list(read_parts(client.read, BOUNDARY, max_files=5, max_file_bytes=1000))
    assert client.sent <= MAX_BUFFER_BYTES + (SPARE_PARTS + 5) * CHUNK_BYTES


def steps_of(parse: Callable[[], object]) -> int:
    """Return how many functions the interpreter calls to parse a body, or to refuse it."""
    calls, profiler = 0, sys.getprofile()

    def count(_frame: object, event: str, _function: object) -> None:
        nonlocal calls
        calls += event in {"call", "c_call"}

    sys.setprofile(count)
    try:
        with suppress(HTTPException):
            parse()
    finally:
        sys.setprofile(profiler)
    return calls


def form_of_headers(count: int, size: int) -> bytes:
    return form(*[(f'name="f"; filename="{chr(92) * size}"', b"x")] * count)


@pytest.mark.parametrize(
    ("parse", "body"),
    [
        (lambda body: read(body, max_files=1_000), form_of_headers(6, 240_000)),
        (lambda body: read(body, max_files=1_000), form_of_headers(300, MAX_HEADER_BYTES - 200)),
        (json_text, rb"\u0041" + rb"\\" * 500_000),
        (lambda body: decoded(body.decode()), b"Q\n" * 400_000),
        (lambda body: clean_filename(body.decode()), b"a/" * 500_000),
    ],
    ids=["long headers", "many headers", "escapes", "short lines", "name"],
)
def test_row_71_no_byte_of_a_body_takes_many_steps(parse: Callable[[bytes], object], body: bytes) -> None:
    assert steps_of(lambda: parse(body)) < 0.4 * len(body)


def test_a_part_with_a_long_header_is_refused_with_what_to_do() -> None:
    with pytest.raises(BadRequest, match="give the file a shorter name"):
        read(form_of_headers(1, MAX_HEADER_BYTES))
    assert len(read(form_of_headers(1, MAX_HEADER_BYTES - 200))) == 1


def test_a_form_of_a_thousand_files_with_the_longest_names_is_read() -> None:
    body = form(*[(f'name="images"; filename="{number:0700}"', b"x") for number in range(1_000)])
    assert len(read(body, max_files=1_000)) == 1_000


def test_a_field_that_is_too_long_is_dropped_and_not_kept() -> None:
    assert read(form(('name="name"', b"x" * 2**20))) == [FormField("name", "")]


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ("IMG_1.jpg", "IMG_1.jpg"),
        ("day1/inner/IMG_1.jpg", "day1/inner/IMG_1.jpg"),
        ("day1\\IMG_1.jpg", "day1/IMG_1.jpg"),
        ("./day1//IMG_1.jpg", "day1/IMG_1.jpg"),
        ("day1/\r\n/ IMG_1.jpg ", "day1/IMG_1.jpg"),
        ("/home/me/cat.jpg", "cat.jpg"),
        ("\\\\server\\share\\cat.jpg", "cat.jpg"),
        ("day1/.\x00./cat.jpg", "cat.jpg"),
        ("../../etc/passwd", "passwd"),
        ("C:\\photos\\cat.jpg", "cat.jpg"),
        ("a\x00b\r\nc.jpg", "abc.jpg"),
        ("\u202egpj.exe", "gpj.exe"),
        ("שלום 😀.jpg", "שלום 😀.jpg"),
        ("<img onerror>.jpg", "<img onerror>.jpg"),
        ("folder/", "unnamed"),
        ("..", "unnamed"),
        ("day1/..", "unnamed"),
        ("", "unnamed"),
        ("x" * 800 + ".jpg", "x" * 696 + ".jpg"),
        ("ü" * 400 + "/a.jpg", "ü" * 347 + "/a.jpg"),
        ("x../" + "b" * 697, "b" * 697),
        ("x./" + "b" * 698, "b" * 698),
    ],
)
def test_a_filename_keeps_its_relative_path_and_nothing_that_breaks_a_line(sent: str, shown: str) -> None:
    assert clean_filename(sent) == shown_name(sent) == shown


@given(st.text(max_size=400) | st.text("aü/\\.: \x00\u202e", max_size=400))
def test_any_name_becomes_short_printable_text_that_can_be_stored(sent: str) -> None:
    assert shown_name(sent) == clean_filename(sent)
    for shown in (clean_filename(sent), clean_job_name(sent, "default")):
        assert 1 <= len(shown.encode()) <= MAX_FILENAME_BYTES
        assert not any(unicodedata.category(character) in {"Cc", "Cs"} for character in shown)
    assert not {"", ".", ".."} & set(clean_filename(sent).split("/"))


@pytest.mark.parametrize(
    ("filenames", "name"),
    [
        (["holiday/a.jpg", "holiday/inner/b.jpg"], "holiday"),
        (["holiday/a.jpg", "work/b.jpg"], "2 images, 1 Mar 12:00 UTC"),
        (["holiday/a.jpg", "b.jpg"], "2 images, 1 Mar 12:00 UTC"),
        (["IMG_0001.jpg"], "IMG_0001"),
        ([f"{'x' * 80}.jpg"], "x" * 60),
        (["a.jpg"] * 1_001, "1,001 images, 1 Mar 12:00 UTC"),
    ],
)
def test_a_job_without_a_name_is_named_after_its_files(filenames: list[str], name: str) -> None:
    assert clean_job_name(" \t", job_name_of_files(filenames, NOW)) == name
    assert clean_job_name("mine", job_name_of_files(filenames, NOW)) == "mine"


FIRST, SECOND = Upload("a", b"", 0), Upload("b", b"", 0)


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"note": "x"}, [(None, None), (None, None)]),
        ({"note": "x", "positions": "7,2"}, [(7, None), (2, None)]),
        ({"positions": "7,2", "remaining": "30"}, [(7, 32), (2, 31)]),
        ({"remaining": "30"}, [(None, 31), (None, 31)]),
        ({"remaining": "0", "positions": "0,1"}, [(0, 2), (1, 1)]),
    ],
)
def test_files_have_what_the_fields_before_them_say(
    fields: dict[str, str], found: list[tuple[int | None, int | None]]
) -> None:
    parts: list[Upload | FormField] = [*(FormField(*each) for each in fields.items()), FIRST, SECOND]
    assert [(upload.position, upload.left) for upload in positioned_files(iter(parts))] == found


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("positions", value) for value in ("", "1", "1,2,3", "1;2", "-1,2", "1,12345678", "1,\u0662")),
        *(("remaining", value) for value in ("", "-1", "1,2", "1e3", "1234567890", "\u0662")),
    ],
)
def test_a_field_that_does_not_fit_the_files_is_refused(name: str, value: str) -> None:
    with pytest.raises(UnprocessableEntity, match=f"{name} must come before the files"):
        list(positioned_files(iter([FormField(name, value), FIRST, SECOND])))


@pytest.mark.parametrize("field", [FormField("positions", "0"), FormField("remaining", "1")])
def test_a_field_that_comes_after_a_file_or_twice_is_refused(field: FormField) -> None:
    wrong: tuple[list[Upload | FormField], ...] = ([FIRST, field], [field, field, FIRST])
    for parts in wrong:
        with pytest.raises(UnprocessableEntity, match=f"{field.name} must come before the files"):
            list(positioned_files(iter(parts)))


connection = fixtures.connection


class Trickle(BytesIO):
    """A client that sends `piece` bytes every `seconds`, by a clock of its own."""

    def __init__(self, piece: int, seconds: float) -> None:
        super().__init__()
        self.now, self._piece, self._seconds = 0.0, piece, seconds

    def read(self, size: int | None = -1, /) -> bytes:
        self.now += self._seconds
        return b"x" * self._piece

    def clock(self) -> float:
        return self.now


def test_a_trickling_client_times_out_after_the_grace(connection: socket.socket) -> None:
    client = Trickle(piece=1, seconds=1)
    body = TimeoutStream(client, connection, clock=PlayedClock(client.clock))
    with pytest.raises(RequestTimeout):
        for _ in range(100):
            body.read(1000)
    assert GRACE_SECONDS <= client.now <= GRACE_SECONDS + 1


def test_a_client_that_stalls_is_told_how_much_has_arrived(connection: socket.socket) -> None:
    server, client = socket.socketpair()
    with server, client:
        client.sendall(b"x" * 1_800)
        server.settimeout(0.05)
        body = TimeoutStream(Body(LengthReader(SocketUnreader(server), 5_000)), connection, 5_000)
        with pytest.raises(RequestTimeout, match="stalled after 1800 of 5000 bytes"):
            body.read()


def test_a_read_gathers_what_comes_in_small_packets(connection: socket.socket) -> None:
    server, client = socket.socketpair(type=socket.SOCK_DGRAM)
    with server, client:
        for _ in range(100):
            client.send(b"xy")
        body = TimeoutStream(Body(LengthReader(SocketUnreader(server), 1_000)), connection, 1_000)
        assert body.read(200) == b"xy" * 100, "thousands of pieces would take many times the memory of their bytes"


def test_a_body_of_known_length_ends_before_the_next_request(connection: socket.socket) -> None:
    server, client = socket.socketpair()
    with server, client:
        unreader = SocketUnreader(server)
        unreader.unread(b"with the head, ")
        client.sendall(b"and after it, and the next request")
        body = TimeoutStream(Body(LengthReader(unreader, 27)), connection, 27)
        assert [body.read(10), body.read(100), body.read(100)] == [b"with the h", b"ead, and after it", b""]
        assert server.recv(100) == b", and the next request"


def test_a_slow_but_steady_client_does_not_time_out(connection: socket.socket) -> None:
    client = Trickle(piece=2048, seconds=1)
    body = TimeoutStream(client, connection, clock=PlayedClock(client.clock))
    assert sum(len(body.read(4096)) for _ in range(300)) == 300 * 2048


def test_a_client_that_never_fills_a_read_times_out(connection: socket.socket) -> None:
    class Blocked(BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            connection.recv(size or 0)  # as gunicorn does: nothing comes, and nothing ends it
            raise NoMoreData

    with pytest.raises(RequestTimeout):
        TimeoutStream(Blocked(), connection, read_seconds=0.05).read(10)


def test_a_body_in_chunks_of_a_byte_is_refused(connection: socket.socket) -> None:
    chunks = IterUnreader(repeat(b"1\r\nx\r\n" * 1_000))
    head = Mock(limit_request_field_size=8_190, max_buffer_headers=32_768)
    body = TimeoutStream(Body(ChunkedReader(head, chunks)), connection)
    with pytest.raises(BadRequest, match="chunks of a few bytes"):
        while body.read(65_536):
            pass


def test_only_the_wait_for_the_client_counts(connection: socket.socket) -> None:
    client = Trickle(piece=10, seconds=0)
    body = TimeoutStream(client, connection, clock=PlayedClock(client.clock))
    for _ in range(10):
        body.read(10)
        client.now += 100  # between two reads
    assert body.read(10)


def test_a_body_is_unbounded_if_the_server_hides_its_connection() -> None:
    stream = BytesIO(b"body")
    environ = {"wsgi.input": stream}
    assert bound_connection(environ, has_body=True) is None
    assert environ["wsgi.input"] is stream
