"""Writes the files of a bundle from an untrusted source, with their size bounded and their digests checked."""

import hashlib
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from pathlib import Path
from typing import IO, Final

from core.bundle_facts import MANIFEST_NAME, MAX_BUNDLE_BYTES
from core.bundle_manifest import BundleDigestError, BundleFormatError, Manifest

_CHUNK_BYTES: Final = 2**20

Content = Generator[bytes, None, None]
"""The content of a file in pieces; it is closed once it is read, or refused."""


def chunks(file: IO[bytes]) -> Content:
    """Yield the content of a file, and close it."""
    with closing(file):
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk


def write_files(folder: Path, place: object, manifest: Manifest, text: bytes, read: Callable[[str], Content]) -> None:
    """Write the files of the bundle at `place`, which `read` reads by name, and its ``bundle.json``.

    Raises:
        BundleFormatError: they have more than `MAX_BUNDLE_BYTES` bytes together.
        BundleDigestError: a file is not the one that the bundle was built with.
    """
    left = MAX_BUNDLE_BYTES
    for name, sha256 in manifest.files.items():
        with closing(read(name)) as content:
            left -= write_file(folder / name, f"{place}/{name}", content, left, sha256)
    (folder / MANIFEST_NAME).write_bytes(text)


def write_file(
    path: Path, source: object, content: Iterable[bytes], max_bytes: int, sha256: str | None = None
) -> int:
    """Write a file from an untrusted source, which could fill the disk; return its bytes.

    Raises:
        BundleFormatError: the source has more than `max_bytes` bytes.
        BundleDigestError: the file has another digest than `sha256`.
    """
    written, digest = 0, hashlib.sha256()
    with path.open("wb") as file:
        for chunk in content:
            written += len(chunk)
            if written > max_bytes:
                raise BundleFormatError(f"{source} is larger than {max_bytes} bytes: no bundle is")
            digest.update(chunk)
            file.write(chunk)
    if sha256 is not None:
        check_digest(source, digest.hexdigest(), sha256)
    return written


def check_digest(file: object, actual: str, expected: str) -> None:
    """Raise BundleDigestError if a file of a bundle is not the one that the bundle was built with."""
    if actual != expected:
        raise BundleDigestError(
            f"{file} has SHA-256 {actual}, but the bundle was built with {expected}: "
            "the file was changed or damaged, restore or build the bundle again"
        )
