"""Multipart forms, and the names in them."""

import unicodedata
from collections.abc import Sequence
from io import BytesIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from werkzeug.exceptions import BadRequest, RequestEntityTooLarge

from web_tier.text import clean_filename, clean_job_name
from web_tier.uploads.multipart import MAX_BUFFER_BYTES, FormField, Upload, read_parts

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


def test_files_and_fields_come_in_the_order_of_the_form() -> None:
    body = form(
        ('name="name"', "für Oma".encode()),
        ('name="f"; filename="a.jpg"', b"one"),
        ('name="g"; filename="a.jpg"', b""),
    )
    assert read(body) == [FormField("name", "für Oma"), Upload("a.jpg", b"one", 3, "f"), Upload("a.jpg", b"", 0, "g")]


def test_a_file_input_that_was_left_empty_is_no_file() -> None:
    assert read(form(('name="f"; filename=""', b""))) == []


def test_a_file_larger_than_allowed_is_counted_and_not_kept() -> None:
    [upload] = read(form(('name="f"; filename="a.jpg"', b"x" * 1001)))
    assert upload == Upload("a.jpg", b"", 1001, "f")


@settings(max_examples=50)
@given(st.lists(st.binary(max_size=900), max_size=8), st.integers(1, 50))
def test_any_content_arrives_unchanged_however_it_is_cut_into_pieces(contents: list[bytes], piece: int) -> None:
    class Slow(BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(piece)

    body = form(*[('name="f"; filename="a"', content) for content in contents])
    found = list(read_parts(Slow(body).read, BOUNDARY, max_files=10, max_file_bytes=1000))
    assert [part.data for part in found if isinstance(part, Upload)] == contents


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


@pytest.mark.parametrize(
    "start", [b"", f"--{BOUNDARY}\r\nContent-Disposition: ".encode()], ids=["preamble", "header"]
)
def test_a_header_without_end_does_not_fill_the_memory(start: bytes) -> None:
    class Endless:
        sent = 0

        def read(self, size: int, /) -> bytes:
            self.sent += size
            return start if self.sent == size and start else b"x" * size

    stream = Endless()
    with pytest.raises(RequestEntityTooLarge):
        list(read_parts(stream.read, BOUNDARY, max_files=1, max_file_bytes=1))
    assert stream.sent <= 2 * MAX_BUFFER_BYTES


def test_too_many_fields_are_too_many_parts() -> None:
    fields: Sequence[tuple[str, bytes]] = [('name="n"', b"v")] * 40
    with pytest.raises(RequestEntityTooLarge):
        read(form(*fields), max_files=1)


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ("IMG_1.jpg", "IMG_1.jpg"),
        ("../../etc/passwd", "passwd"),
        ("C:\\photos\\cat.jpg", "cat.jpg"),
        ("a\x00b\r\nc.jpg", "abc.jpg"),
        ("\u202egpj.exe", "gpj.exe"),
        ("שלום 😀.jpg", "שלום 😀.jpg"),
        ("<img onerror>.jpg", "<img onerror>.jpg"),
        ("folder/", "unnamed"),
        ("", "unnamed"),
        ("x" * 300, "x" * 255),
    ],
)
def test_a_filename_is_shown_without_its_path_and_without_what_breaks_a_line(sent: str, shown: str) -> None:
    assert clean_filename(sent) == shown


@given(st.text(max_size=400))
def test_any_name_becomes_short_printable_text_that_can_be_stored(sent: str) -> None:
    for shown in (clean_filename(sent), clean_job_name(sent)):
        assert 1 <= len(shown) <= 255
        assert not any(unicodedata.category(character) in {"Cc", "Cs"} for character in shown)
        shown.encode()


def test_a_job_without_a_name_is_untitled() -> None:
    assert clean_job_name(" \t") == "untitled"
