"""Facts about a model bundle for the parts that do not run it, read from ``bundle.json`` only."""

import hashlib
import json
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
from typing import IO, Any, Final, TypeGuard

from services.errors import FleetsightError, ObjectTooLargeError

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

_FORMER: Final[Mapping[str, object]] = {"fit": "crop", "fill": [0, 0, 0], "interpolation": "bilinear"}
"""The only preprocessing that there was before a bundle could state another."""

TEXT_PATTERN: Final = r"^[^\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]*$"
"""Texts that a manifest may state: no control characters but for tabs and the ends of lines, and no overrides of the
direction, which would show another text on the terminals and pages of all users."""

MAX_TEXT: Final = 10_000
"""Characters of one of these texts."""

_TEXT: Final = re.compile(TEXT_PATTERN)

_MAX_CARD_TEXT: Final = 200
"""Characters of a text in a model card."""

# One slash, since a `Path`, which the configuration contains, has dropped the other.
IN_S3 = re.compile(r"s3:/{1,2}(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])/(?P<key>.+?)/*")
"""The location of a bundle in S3: the key of a zip, or a prefix without its last slash."""


class BundleUnreadableError(FleetsightError):
    """Raised when a bundle does not exist, or its ``bundle.json`` cannot be read."""


@dataclass(frozen=True)
class SeenPart:
    """Which part of a picture a network sees, as its bundle states it.

    Attributes:
        fit: crop, stretch or pad, as of `core.bundle_manifest.Preprocess`.
        resize, crop: height and width, in pixels.
    """

    fit: str
    resize: tuple[int, int]
    crop: tuple[int, int]


@dataclass(frozen=True)
class BundleFacts:
    """What a bundle states about itself.

    Attributes:
        digest: SHA-256 of everything that affects a result, as results state it; None if the bundle does not state
            it.
        labels: one per class, in the order of the probabilities.
        messages: a message for the user by label.
        name: name of the model; None if the bundle does not state it.
        precision: how the network computes: fp32, bf16, int8 or exact.
        short_side: pixels to which it scales the shorter side of an image, at most; None if the bundle does not state
            them.
        seen: which part of a picture the network sees; None if the bundle does not state it.
        card: what else its builder states for people, as names and texts.
    """

    digest: str | None = None
    labels: Sequence[str] = ()
    messages: Mapping[str, str] = field(default_factory=dict)
    name: str | None = None
    precision: str = "fp32"
    short_side: int | None = None
    seen: SeenPart | None = None
    card: Sequence[tuple[str, str]] = ()


def manifest_digest(manifest: Mapping[str, Any]) -> str:
    """Return the digest of a bundle, by which results name it, from the JSON contents of its ``bundle.json``.

    It is the SHA-256 of all that decides an answer: files, preprocessing, labels and precision. Provenance, messages,
    and fields that this release does not know have no part.

    Raises:
        ValueError, KeyError, TypeError, AttributeError, OverflowError: these are not its contents.
    """
    precision, preprocess = manifest.get("precision", "fp32"), manifest["preprocess"]
    decisive: dict[str, Any] = {
        **{name: manifest[name] for name in ("architecture", "files", "labels")},
        # JSON has one type of numbers: 1 and 1.0 mean the same.
        "preprocess": {
            **{name: _whole_size(preprocess[name]) for name in ("resize", "crop")},
            **{name: [float(each) for each in preprocess[name]] for name in ("mean", "std")},
            # Bundles from before there was a choice keep their digest.
            **{name: preprocess[name] for name, former in _FORMER.items() if preprocess.get(name, former) != former},
        },
    }
    if precision != "fp32":  # bundles from before there was a choice keep their digest
        margin = manifest.get("margin")
        decisive |= {"precision": precision, "margin": None if margin is None else float(margin)}
    if manifest.get("first") == "int8":  # so do those that compute bf16 first, whether they state it or not
        decisive["first"] = "int8"
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def _whole_size(size: float | list[float]) -> int | list[int]:
    return [_whole(each) for each in size] if isinstance(size, list) else _whole(size)


def _whole(number: float) -> int:
    if int(number) != number:
        raise ValueError(f"{number} is no whole number")
    return int(number)


def check_pin(place: object, actual: str, pinned: str | None, error: type[Exception]) -> None:
    """Raise `error` if the bundle at `place` is not the one that `worker.bundle_sha256` pins; None pins none.

    `actual` is the SHA-256 of its ``bundle.json``, which contains those of its other files, or of the zip.
    """
    if pinned is not None and actual != pinned.lower():
        raise error(
            f"{place} has SHA-256 {actual}, but worker.bundle_sha256 is {pinned}, so nothing of it is read: restore "
            "the bundle, or set the key to the new value if you trust it"
        )


def read_facts(bundle: Path, get: Callable[[str, str], bytes], sha256: str | None = None) -> BundleFacts:
    """Return the facts of a bundle in a folder or zip, or under ``s3://bucket/prefix``.

    `get` returns an object, by bucket and key, and need not read more than `MAX_MANIFEST_BYTES` of it; `sha256` pins
    the bundle (`worker.bundle_sha256`).

    Raises:
        BundleUnreadableError: it does not exist, cannot be read, or is not the pinned one.
        botocore.exceptions.BotoCoreError, ClientError, NotFoundError: from `get`.
    """
    return facts_in(read_manifest(bundle, get, sha256), str(bundle))


def facts_in(manifest: bytes, place: str = MANIFEST_NAME) -> BundleFacts:
    """Return the facts in the ``bundle.json`` of the bundle at `place`.

    Raises:
        BundleUnreadableError: it is not that of a bundle.
    """
    try:
        stated = json.loads(manifest)
        resize = stated.get("preprocess", {}).get("resize")
        short_side = max(resize) if isinstance(resize, list) else resize
        facts = BundleFacts(
            stated.get("digest"),
            tuple(stated["labels"]),
            dict(stated.get("messages", {})),
            stated.get("name"),
            stated.get("precision", "fp32"),
            short_side if isinstance(short_side, int) else None,
            _seen_part(stated),
            tuple(model_card(stated)),
        )
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise BundleUnreadableError(f"no bundle can be read at {place}: {error}") from error
    texts = [
        *(facts.precision, *facts.labels, *facts.messages, *facts.messages.values()),
        *(each for each in (facts.digest, facts.name) if each is not None),
    ]
    if not isinstance(stated["labels"], list) or not all(map(is_text, texts)):
        raise BundleUnreadableError(
            f"no bundle can be read at {place}: its name, digest, precision, labels or messages are no text, or have "
            "control characters"
        )
    if unknown := facts.messages.keys() - set(facts.labels):
        raise BundleUnreadableError(
            f"no bundle can be read at {place}: it has a message for {min(unknown)[:60]!r}, which is no label"
        )
    return facts


def is_text(value: object) -> TypeGuard[str]:
    """Return whether a value is a text that a manifest may state."""
    return isinstance(value, str) and len(value) <= MAX_TEXT and _TEXT.fullmatch(value) is not None


def _seen_part(stated: Mapping[str, Any]) -> SeenPart | None:
    stated_spec = stated.get("preprocess")
    spec: dict[str, Any] = {**_FORMER, **stated_spec} if isinstance(stated_spec, dict) else {}
    stated_sizes = (spec.get("resize"), spec.get("crop"))
    sizes: list[Any] = [each if isinstance(each, list) else [each] * 2 for each in stated_sizes]
    is_stated = {len(size) for size in sizes} == {2}
    is_stated = is_stated and all(type(side) is int and side > 0 for size in sizes for side in size)
    if not is_stated or spec["fit"] not in ("crop", "stretch", "pad"):
        return None
    (down, across), (height, width) = sizes
    return SeenPart(spec["fit"], (down, across), (height, width))


def model_card(stated: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what a ``bundle.json`` states of its model for people: network, input, source, licence and accuracy.

    Nothing of it is checked, and it may lack all of it: it has no part in an answer.
    """
    provenance = stated["provenance"] if isinstance(stated.get("provenance"), dict) else {}
    shown = ""
    if seen := _seen_part(stated):
        whole = f" of {seen.resize[0]}" if seen.fit == "crop" else ""
        filter_name = stated["preprocess"].get("interpolation", _FORMER["interpolation"])
        shown = f"{seen.crop[0]} x {seen.crop[1]} pixels, {seen.fit}{whole}, {filter_name}"
    measured = provenance.get("measured")
    of_images = [
        f"{100 * each['accuracy']:.4g}% of {each['images']:,} {name.replace('_', ' ')} images"
        for name, each in (measured.items() if isinstance(measured, dict) else ())
        if isinstance(each, dict) and isinstance(each.get("accuracy"), float) and isinstance(each.get("images"), int)
    ]
    for name, text in (
        ("Network", stated.get("architecture")),
        ("Input", shown),
        ("Source", provenance.get("url") or provenance.get("source")),
        ("Licence", provenance.get("licence")),
        ("Accuracy", ", ".join(of_images)),
    ):
        if text and is_text(text):
            yield name, " ".join(text.split())[:_MAX_CARD_TEXT]


def read_manifest(bundle: Path, get: Callable[[str, str], bytes], sha256: str | None = None) -> bytes:
    """Return the ``bundle.json`` of a bundle, as `read_facts` finds it.

    Raises:
        BundleUnreadableError: it does not exist, is too large, cannot be read, or is not the pinned one.
        botocore.exceptions.BotoCoreError, ClientError, NotFoundError: from `get`.
    """
    try:
        return _manifest(bundle, get, sha256)
    except (FileNotFoundError, NotADirectoryError) as error:  # one reason, or places would tell which files exist
        raise BundleUnreadableError(f"no bundle can be read at {bundle}: it has no {MANIFEST_NAME}") from error
    except (OSError, KeyError, ObjectTooLargeError, *ZIP_ERRORS) as error:
        raise BundleUnreadableError(f"no bundle can be read at {bundle}: {error}") from error


def _manifest(bundle: Path, get: Callable[[str, str], bytes], sha256: str | None) -> bytes:
    if bundle.suffix.lower() == ".zip" and bundle.is_file():
        with bundle.open("rb") as file:
            check_pin(bundle, hashlib.file_digest(file, "sha256").hexdigest(), sha256, BundleUnreadableError)
            with bundle_zip(file) as (archive, top), archive.open(f"{top}{MANIFEST_NAME}") as packed:
                return _read(packed, bundle)
    if (found := IN_S3.fullmatch(str(bundle))) is None:
        with (bundle / MANIFEST_NAME).open("rb") as file:
            manifest = _read(file, bundle)
    elif found["key"].lower().endswith(".zip"):
        raise BundleUnreadableError(f"{bundle} is too large to fetch for its bundle.json: unpack it to a prefix")
    else:
        manifest = _read(BytesIO(get(found["bucket"], f"{found['key']}/{MANIFEST_NAME}")), bundle)
    check_pin(bundle / MANIFEST_NAME, hashlib.sha256(manifest).hexdigest(), sha256, BundleUnreadableError)
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
        raise BundleUnreadableError(f"{MANIFEST_NAME} of {bundle} has more than {MAX_MANIFEST_BYTES} bytes")
    return content
