"""How the page reads zips, which Python's zipfile and other programs write."""

import base64
import io
import zipfile
from collections.abc import Callable
from functools import cache

import pytest
from playwright.sync_api import Page

pytestmark = pytest.mark.processes

CONTENT = b"content"

_LIST = """
async ([bytes, maxBytes]) => {
    const { zipFiles } = await import("/static/upload/zip.js");
    const content = new Blob([Uint8Array.from(atob(bytes), (character) => character.charCodeAt(0))]);
    try {
        const files = await zipFiles(content, maxBytes);
        const first = files[0] ? await files[0].open().then((blob) => blob.text(), (error) => error.message) : "";
        return { count: files.length, names: files.slice(0, 5).map((file) => file.name), first };
    } catch (error) {
        return { error: error.message };
    }
}
"""


def zip_of(*names: str, compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w", compression) as archive:
        for name in names:
            archive.writestr(zipfile.ZipInfo(name), CONTENT, compression)
    return body.getvalue()


def zip64_entry() -> bytes:
    """Return a zip whose list of files has the sizes and the offset of its file in 64 bits."""
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w") as archive:
        archive.writestr("a.jpg", CONTENT)
        archive.filelist[0].header_offset += 2**32  # zipfile writes the field
    end = bytearray(body.getvalue())
    at = end.index((2**32).to_bytes(8, "little"))
    end[at : at + 8] = bytes(8)
    return bytes(end)


def with_names(archive: bytes, names: dict[bytes, bytes]) -> bytes:
    for name, replacement in names.items():
        archive = archive.replace(name, replacement)
    return archive


MANY = 70_000


@cache
def many() -> bytes:
    """Return a zip of `MANY` files that counts them in a zip64 record."""
    return zip_of(*(f"{number:05}.png" for number in range(MANY)), compression=zipfile.ZIP_STORED)


def counted(*, modulo: bool) -> bytes:
    """Return the zip of `MANY` files as it is, or counted modulo 65,536, as macOS does."""
    archive = bytearray(many())
    if modulo:
        del archive[-22 - 20 - 56 : -22]
        archive[-14:-10] = 2 * (MANY % 65_536).to_bytes(2, "little")
    return bytes(archive)


@pytest.fixture
def listed(module_page: Page) -> Callable[[bytes], dict[str, object]]:
    """List a zip as the page does."""

    def list_files(archive: bytes) -> dict[str, object]:
        found: dict[str, object] = module_page.evaluate(_LIST, [base64.b64encode(archive).decode(), 1_000])
        return found

    return list_files


@pytest.mark.parametrize("modulo", [False, True])
def test_a_zip_of_more_files_than_16_bits_count_is_listed_whole(
    listed: Callable[[bytes], dict[str, object]], modulo: bool
) -> None:
    assert listed(counted(modulo=modulo))["count"] == MANY


@pytest.mark.parametrize(
    ("archive", "names"),
    [
        (
            with_names(zip_of("Ba1m.jpg", "Ba2m.jpg"), {b"Ba1m": b"Ba\x84m", b"Ba2m": b"Ba\x81m"}),
            ["Baäm.jpg", "Baüm.jpg"],
        ),
        (with_names(zip_of("Baxxm.jpg"), {b"Baxxm": "Baäm".encode()}), ["Baäm.jpg"]),
        (zip_of("Bäm.jpg", "漢字.jpg"), ["Bäm.jpg", "漢字.jpg"]),
        (with_names(zip_of("d/a.jpg"), {b"d/a.jpg": b"d\\a.jpg"}), ["d/a.jpg"]),
        (b"#!/bin/sh\n" + bytes(900) + zip_of("a.jpg"), ["a.jpg"]),
        (zip64_entry(), ["a.jpg"]),
    ],
    ids=["code page 437", "UTF-8 without its flag", "UTF-8", "backslash", "bytes before it", "zip64"],
)
def test_a_file_of_a_zip_has_the_name_that_was_written_and_its_content(
    listed: Callable[[bytes], dict[str, object]], archive: bytes, names: list[str]
) -> None:
    assert listed(archive) == {"count": len(names), "names": names, "first": CONTENT.decode()}


@pytest.mark.parametrize(
    ("archive", "error"),
    [
        (zip_of(), "the zip has no files"),
        (zip_of("folder/"), "the zip has no files"),
        (b"PK", "this is not a zip, or it is incomplete"),
        (zip_of("a.jpg", "b.jpg").replace(b"PK\1\2", b"PK\1\1", 1), "the zip is damaged"),
        (zip_of("a.jpg")[20:], "the zip is damaged"),
    ],
    ids=["empty", "only folders", "no zip", "damaged", "without its start"],
)
def test_what_is_no_whole_zip_is_refused_with_the_reason(
    listed: Callable[[bytes], dict[str, object]], archive: bytes, error: str
) -> None:
    assert listed(archive) == {"error": error}
