"""Facts about a model bundle for the parts that do not run it, read from ``bundle.json`` only."""

import hashlib
import lzma
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import IO, Final, NoReturn

from core.bundle_manifest import BundleDigestError, BundleFormatError, BundleMissingError, Manifest, parse_manifest
from core.images import Framing
from services.errors import ObjectTooLargeError

MANIFEST_NAME: Final = "bundle.json"

PUBLISHED = "models"
"""Folder of the model bucket with the published bundles (`core/published_bundles.py`): workers only read it."""

MAX_MANIFEST_BYTES: Final = 64 * 2**20
"""Maximum bytes of a ``bundle.json``: no more of one is read."""

MAX_BUNDLE_BYTES: Final = 4 * 2**30
"""Maximum bytes of a bundle's files together; eight times what the largest ResNet of torchvision takes."""

MAX_EXPANSION: Final = 100
"""Maximum size of the unpacked files, in multiples of the zip. Weights hardly shrink, and a graph to a twentieth."""

ZIP_ERRORS: Final = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError)
"""Errors of a zip that is damaged or encrypted; other errors of bzip2 are an OSError."""

_MAX_CARD_TEXT: Final = 200
"""Characters of a text in a model card."""

# One slash, since a `Path`, which the configuration contains, has dropped the other.
IN_S3 = re.compile(r"s3:/{1,2}(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])/(?P<key>.+?)/*")
"""The location of a bundle in S3: the key of a zip, or a prefix without its last slash."""


@dataclass(frozen=True)
class BundleFacts:
    """What a bundle states about itself; nothing, by default, of one that cannot be read.

    Attributes:
        digest: SHA-256 of everything that affects a result, as results state it.
        labels: one per class, in the order of the probabilities.
        messages: a message for the user by label.
        precision: how the network computes: fp32, bf16, int8 or exact.
        short_side: pixels to which it scales the shorter side of an image, at most.
        seen: which part of a picture the network sees.
        card: what else its builder states for people, as names and texts.
    """

    digest: str | None = None
    labels: Sequence[str] = ()
    messages: Mapping[str, str] = field(default_factory=dict)
    name: str | None = None
    precision: str = "fp32"
    short_side: int | None = None
    seen: Framing | None = None
    card: Sequence[tuple[str, str]] = ()


def check_pin(place: object, actual: str, pinned: str | None) -> None:
    """Raise BundleDigestError if the bundle at `place` is not that of `worker.bundle_sha256`; None pins none.

    `actual` is the SHA-256 of its ``bundle.json``, which contains those of its other files, or of the zip.
    """
    if pinned is not None and actual != pinned.lower():
        raise BundleDigestError(
            f"{place} has SHA-256 {actual}, but worker.bundle_sha256 is {pinned}, so nothing of it is read: restore "
            "the bundle, or set the key to the new value if you trust it"
        )


def facts_in(manifest: bytes, place: str) -> BundleFacts:
    """Return the facts in the ``bundle.json`` of the bundle at `place`.

    Raises:
        BundleFormatError, BundleDigestError: it is not that of a bundle.
    """
    stated = parse_manifest(place, manifest)
    framing = stated.preprocess.framing
    return BundleFacts(
        stated.digest,
        stated.labels,
        stated.messages,
        stated.name,
        stated.precision,
        max(framing.resize),
        framing,
        tuple(model_card(stated)),
    )


def model_card(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Yield what a bundle states of its model for people: network, input, source, licence and accuracy.

    The provenance is free in form, and has no part in an answer.
    """
    provenance, (resize, crop, fit, _, interpolation) = manifest.provenance, manifest.preprocess.framing
    whole = f" of {resize[0]}" if fit == "crop" else ""
    measured = provenance.get("measured")
    of_images = [
        f"{100 * each['accuracy']:.4g}% of {each['images']:,} {name.replace('_', ' ')} images"
        for name, each in (measured.items() if isinstance(measured, dict) else ())
        if isinstance(each, dict) and isinstance(each.get("accuracy"), float) and isinstance(each.get("images"), int)
    ]
    for name, text in (
        ("Network", manifest.architecture),
        ("Input", f"{crop[0]} x {crop[1]} pixels, {fit}{whole}, {interpolation}"),
        ("Source", provenance.get("url") or provenance.get("source")),
        ("Licence", provenance.get("licence")),
        ("Accuracy", ", ".join(of_images)),
    ):
        if text and isinstance(text, str):
            yield name, " ".join(text.split())[:_MAX_CARD_TEXT]


def _no_s3(_bucket: str, _key: str) -> NoReturn:
    raise FileNotFoundError("only bundles on this machine are read here")


def read_manifest(bundle: Path, get: Callable[[str, str], bytes] = _no_s3, sha256: str | None = None) -> bytes:
    """Return the ``bundle.json`` of a bundle in a folder or zip, or under ``s3://bucket/prefix``.

    `get` returns an object, by bucket and key, and need not read more than `MAX_MANIFEST_BYTES` of it; `sha256` pins
    the bundle (`worker.bundle_sha256`).

    Raises:
        BundleMissingError: there is none.
        BundleFormatError: it is too large, or cannot be read.
        BundleDigestError: it is not the pinned one.
        botocore.exceptions.BotoCoreError, ClientError, NotFoundError: from `get`.
    """
    try:
        return _manifest(bundle, get, sha256)
    except (FileNotFoundError, NotADirectoryError) as error:  # one reason, or places would tell which files exist
        raise BundleMissingError(
            f"no bundle can be read at {bundle}: it has no {MANIFEST_NAME}; "
            "build one with `./scripts/fleetsight model build`"
        ) from error
    except (OSError, KeyError, ObjectTooLargeError, *ZIP_ERRORS) as error:
        raise BundleFormatError(f"no bundle can be read at {bundle}: {error}; restore or build it again") from error


def _manifest(bundle: Path, get: Callable[[str, str], bytes], sha256: str | None) -> bytes:
    if bundle.suffix.lower() == ".zip" and bundle.is_file():
        with bundle.open("rb") as file:
            check_pin(bundle, hashlib.file_digest(file, "sha256").hexdigest(), sha256)
            with bundle_zip(file) as (archive, top), archive.open(f"{top}{MANIFEST_NAME}") as packed:
                return _read(packed, bundle)
    if (found := IN_S3.fullmatch(str(bundle))) is None:
        with (bundle / MANIFEST_NAME).open("rb") as file:
            manifest = _read(file, bundle)
    elif found["key"].lower().endswith(".zip"):
        raise BundleFormatError(f"{bundle} is too large to fetch for its bundle.json: unpack it to a prefix")
    else:
        manifest = _read(BytesIO(get(found["bucket"], f"{found['key']}/{MANIFEST_NAME}")), bundle)
    check_pin(bundle / MANIFEST_NAME, hashlib.sha256(manifest).hexdigest(), sha256)
    return manifest


@contextmanager
def bundle_zip(file: IO[bytes]) -> Iterator[tuple[zipfile.ZipFile, str]]:
    """Open the zip of a bundle; return it with what comes before the bundle's names: nothing, or one folder.

    Nothing is unpacked yet. What is read from it has no more bytes than the zip states, which are bounded here.

    Raises:
        FileNotFoundError: it holds no bundle.
        zipfile.BadZipFile: it is no zip, or unpacks to more than a bundle can be.
    """
    with zipfile.ZipFile(file) as archive:
        packed, size = file.seek(0, os.SEEK_END), sum(entry.file_size for entry in archive.infolist())
        if size > min(MAX_BUNDLE_BYTES, MAX_EXPANSION * packed):
            raise zipfile.BadZipFile(
                f"it unpacks to {size:,} bytes: a bundle has at most {MAX_BUNDLE_BYTES:,}, and at most "
                f"{MAX_EXPANSION} times its zip's"
            )
        tops = [name.removesuffix(MANIFEST_NAME) for name in archive.namelist() if name.endswith(MANIFEST_NAME)]
        tops = [top for top in tops if not top or (top.endswith("/") and top.count("/") == 1)]
        if not tops:
            raise FileNotFoundError(f"{MANIFEST_NAME} is not in it")
        yield archive, min(tops, key=len)


def _read(manifest: IO[bytes], bundle: Path) -> bytes:
    content = manifest.read(MAX_MANIFEST_BYTES + 1)
    if len(content) > MAX_MANIFEST_BYTES:
        raise BundleFormatError(f"{MANIFEST_NAME} of {bundle} has more than {MAX_MANIFEST_BYTES} bytes")
    return content
