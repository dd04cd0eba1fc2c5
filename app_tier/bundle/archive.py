"""A bundle in a zip: its files at the top, or all in one folder, as `zip -r` writes them."""

import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

from app_tier.bundle.cache import cache_folder, kept, write_file
from app_tier.bundle.errors import BundleDigestError, BundleFormatError, BundleMissingError
from app_tier.bundle.load import Bundle, check_pin, parse_manifest
from app_tier.bundle.manifest import MANIFEST_NAME, file_digest

_CHUNK: Final = 2**20
_MAX_MANIFEST_BYTES: Final = 64 * 2**20


def load_zip(path: Path, cache: Path | None = None, sha256: str | None = None) -> Bundle:
    """Open the bundle in zip `path`, unpacked once into the cache; `sha256` pins the zip.

    Raises:
        BundleMissingError: the zip holds no bundle.
        BundleFormatError: it is no zip, or its ``bundle.json`` is not one.
        BundleDigestError: a file of the bundle is missing or was changed, or it is not the pinned zip.
    """
    digest = file_digest(path)
    check_pin(path, digest, sha256)
    return kept(digest, lambda folder: unpack(path, folder), cache or cache_folder())


def unpack(path: Path, folder: Path) -> None:
    """Write the bundle in zip `path` into `folder`.

    Only what its ``bundle.json`` lists is taken, under the plain names that a manifest allows; a zip cannot write
    anywhere else.

    Raises:
        BundleError: as `load_zip`.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _unpack(archive, path, folder)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise BundleFormatError(f"{path} is damaged or no zip ({error}): make or fetch it again") from error


def _unpack(archive: zipfile.ZipFile, path: Path, folder: Path) -> None:
    top = _top(archive, path)
    entry = archive.getinfo(f"{top}{MANIFEST_NAME}")
    with archive.open(entry) as file:
        text = file.read(_MAX_MANIFEST_BYTES)
    (folder / MANIFEST_NAME).write_bytes(text)
    for name in parse_manifest(f"{MANIFEST_NAME} in {path}", text).files:
        try:
            with archive.open(f"{top}{name}") as file:
                write_file(folder / name, _chunks(file))
        except KeyError as error:
            raise BundleDigestError(f"{path} lacks {name}: make it again from the bundle's folder") from error


def _top(archive: zipfile.ZipFile, path: Path) -> str:
    """Return what stands before the bundle's names: nothing, or one folder with its slash."""
    tops = [name.removesuffix(MANIFEST_NAME) for name in archive.namelist() if name.endswith(MANIFEST_NAME)]
    tops = [top for top in tops if not top or (top.endswith("/") and top.count("/") == 1)]
    if not tops:
        raise BundleMissingError(f"no model bundle in {path} ({MANIFEST_NAME} is not in it): zip a bundle's folder")
    return min(tops, key=len)


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    while chunk := file.read(_CHUNK):
        yield chunk
