"""How the upload page reads zips, which Python's zipfile and other programs write."""

import io
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.support.node import call

pytestmark = pytest.mark.processes

CONTENT = b"content"

_LIST = """
async (module, path, maxBytes) => {
    const { zipFiles } = await import(module);
    const { openAsBlob } = await import("node:fs");
    try {
        const files = await zipFiles(await openAsBlob(path), maxBytes);
        const first = await files[0].open().then((blob) => blob.text(), (error) => error.message);
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


def listed(folder: Path, archive: bytes) -> Any:
    """List a zip as the page does; return the number of its files, some names and the first content, or the error."""
    path = folder / "a.zip"
    path.write_bytes(archive)
    return call(_LIST, str(ROOT / "web_tier" / "static" / "upload" / "zip.js"), str(path), 1_000)


@pytest.mark.parametrize("modulo", [False, True])
def test_a_zip_of_more_files_than_16_bits_count_is_listed_whole(tmp_path: Path, modulo: bool) -> None:
    assert listed(tmp_path, counted(modulo=modulo))["count"] == MANY


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
    tmp_path: Path, archive: bytes, names: list[str]
) -> None:
    assert listed(tmp_path, archive) == {"count": len(names), "names": names, "first": CONTENT.decode()}


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
def test_what_is_no_whole_zip_is_refused_with_the_reason(tmp_path: Path, archive: bytes, error: str) -> None:
    assert listed(tmp_path, archive) == {"error": error}
