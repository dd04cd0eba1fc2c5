"""A model bundle: a network and all that is needed to run it, in one folder or zip; its manifest and how to open it.

``bundle.json`` is the manifest: it describes the bundle. A zip is unpacked once into the cache. No file of a bundle
is used before its digest has been checked. `app_tier.bundle_s3` fetches bundles from S3; it is a module of its own,
so that a worker can open a bundle while botocore is imported.
"""

import hashlib
import json
import mmap
import os
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, Any, Final, Literal, Self

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError, model_validator

from core.bundle_facts import LABEL_PATTERN, MAX_MANIFEST_BYTES, check_pin, manifest_digest

FORMAT_VERSION: Final = 1
MANIFEST_NAME: Final = "bundle.json"
IR_NAME: Final = "model.xml"
IR_WEIGHTS_NAME: Final = "model.bin"
INT8_IR_NAME: Final = "model-int8.xml"
INT8_WEIGHTS_NAME: Final = "model-int8.bin"
TORCH_NAME: Final = "model.pt2"

LowPrecision = Literal["bf16", "int8"]
"""The number types of a network that computes fast at a low precision."""

NumberType = Literal["fp32", "bf16", "int8"]
"""The number types that a network computes in."""

Precision = Literal["fp32", "bf16", "int8", "exact"]
"""How a bundle answers; ``exact`` is bf16 or int8 first, and fp32 again where that could have changed the label."""

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""SHA-256, in lower-case hexadecimal."""

Label = Annotated[str, Field(pattern=f"^{LABEL_PATTERN}$")]

DEMO_BUNDLE: Final = Path(__file__).parent / "demo" / "bundle"
"""The bundle that comes with the project: ten everyday things and twenty road signs."""

MAX_FILE_BYTES: Final = 2 * 2**30
"""Maximum bytes of one file of a bundle; four times what the largest ResNet of torchvision takes."""

MAX_CACHED: Final = 20
"""Bundles that the cache keeps, those that were used last: as many as jobs may choose from."""

Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[Finite, Field(gt=0)]

MAX_SIDE: Final = 4096
"""Longest side of a network's input, in pixels."""

_CHUNK: Final = 2**20
_BUILD_ONE: Final = "build one with `./scripts/fleetsight model build`"
_BUILD_AGAIN: Final = "build it again with `./scripts/fleetsight model build`"


class BundleError(Exception):
    """Raised when a bundle cannot be used or built; each message names the fault and what to do."""


class BundleMissingError(BundleError):
    """Raised when a named place contains no bundle."""


class BundleFormatError(BundleError):
    """Raised when ``bundle.json`` cannot be read or is not valid."""


class BundleDigestError(BundleError):
    """Raised when a file of a bundle is missing or is not the one that the bundle was built with."""


class BundleBuildError(BundleError):
    """Raised when a bundle cannot be built from the given network and options."""


class EngineError(BundleError):
    """Raised when no engine of that name exists, or the engine cannot run the bundle on this machine."""


class Preprocess(BaseModel):
    """What is done to an image before the network sees it; part of a bundle's manifest.

    Attributes:
        resize: pixels of the short side.
        crop: pixels of the central square, at most ``resize``; the network's input size.
        mean: per channel (R, G, B), on a scale of 0 to 1.
        std: per channel, on the same scale.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    resize: int = Field(ge=1, le=MAX_SIDE)
    crop: int = Field(ge=1, le=MAX_SIDE)
    mean: tuple[Finite, Finite, Finite]
    std: tuple[Positive, Positive, Positive]

    @property
    def input_size(self) -> int:
        """Height and width of the network's input, in pixels."""
        return self.crop

    @model_validator(mode="after")
    def _crop_fits(self) -> Self:
        if self.crop > self.resize:
            raise ValueError(f"crop {self.crop} is larger than resize {self.resize}: make it smaller or equal")
        return self


class Agreement(BaseModel):
    """How far the OpenVINO network answers as the fp32 torch network does, measured when the bundle was built.

    Attributes:
        images: how many were compared.
        same_top1: share of them with the same best label, 0 to 1.
        largest_difference: the largest difference between two probabilities of one image and class.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    images: int = Field(ge=1)
    same_top1: float = Field(ge=0, le=1)
    largest_difference: float = Field(ge=0, le=1)


class Measurement(BaseModel):
    """How a bundle answers in its own precision, held against fp32 on the machine that built it.

    Attributes:
        images: how many were compared.
        source: which images these were.
        calibrated: how many other images int8 was calibrated on; 0 without int8.
        alone_same_top1: share with fp32's best label, had the low precision answered alone; 0 to 1.
        same_top1: share with fp32's best label, as the bundle answers; 0 to 1.
        largest_difference: the largest difference between two probabilities of one image and class.
        repeated: share of the images that were computed again in fp32; 0 to 1.
        speed: images/s by those of fp32.
        speeds: the same for each low precision that was tried, to choose what ``exact`` computes first.
        shares: share of the images that were computed again after each of them; not in older bundles.
        labelled: how many of the images came with a label that the bundle knows.
        accuracy: share of those that were right, 0 to 1; None without labels.
        accuracy_fp32: the same in fp32.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    images: int = Field(ge=1)
    source: str
    calibrated: int = Field(default=0, ge=0)
    # Bundles from before there was int8 call it by bf16's name.
    alone_same_top1: float = Field(ge=0, le=1, validation_alias=AliasChoices("alone_same_top1", "bf16_same_top1"))
    same_top1: float = Field(ge=0, le=1)
    largest_difference: float = Field(ge=0, le=1)
    repeated: float = Field(ge=0, le=1)
    speed: float = Field(gt=0)
    speeds: dict[LowPrecision, float] = Field(default_factory=dict)
    shares: dict[LowPrecision, Annotated[float, Field(ge=0, le=1)]] = Field(default_factory=dict)
    labelled: int = Field(default=0, ge=0)
    accuracy: float | None = Field(default=None, ge=0, le=1)
    accuracy_fp32: float | None = Field(default=None, ge=0, le=1)


class Manifest(BaseModel):
    """The contents of ``bundle.json``.

    Attributes:
        format_version: of this file.
        name: what people call the model; part of every result.
        architecture: the network's own name, such as ``resnet18`` or ``cifar-resnet20``.
        files: SHA-256 of each file of the bundle but this one, by name.
        preprocess: what is done to an image before the network sees it.
        labels: one per class, in the order of the network's outputs.
        messages: what else to show to the user where this label is the answer, by label.
        precision: how the network computes where the device is fast at it.
        first: what ``exact`` computes first; bf16 if a bundle from before there was int8 names none.
        margin: difference of the two best logits below which ``exact`` computes again in fp32; only with `exact`.
        agreement: of OpenVINO with torch, both in fp32.
        measured: of the precision against fp32; for fp32, that of the precisions which ``exact`` was not faster with.
        provenance: where the weights are from and what was measured; free in form, JSON.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: Literal[1] = FORMAT_VERSION
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    architecture: str = Field(min_length=1, max_length=100)
    files: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")], Digest]
    preprocess: Preprocess
    labels: tuple[Label, ...] = Field(min_length=2)
    messages: dict[str, str] = Field(default_factory=dict)
    precision: Precision = "fp32"
    first: LowPrecision | None = None
    margin: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    agreement: Agreement | None = None
    measured: Measurement | None = None
    provenance: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        needed = {IR_NAME, IR_WEIGHTS_NAME}
        if self.low_precision == "int8":
            needed |= {INT8_IR_NAME, INT8_WEIGHTS_NAME}
        if missing := needed - self.files.keys():
            raise ValueError(f"files lacks {', '.join(sorted(missing))}")
        if unknown := self.messages.keys() - set(self.labels):
            raise ValueError(f"messages has {min(unknown)!r}, which is not a label")
        if (self.margin is not None) != (self.precision == "exact"):
            raise ValueError(f"precision {self.precision} with margin {self.margin}: exact has one, the others none")
        if self.first is not None and self.precision != "exact":
            raise ValueError(f"precision {self.precision} with first {self.first}: only exact asks twice")
        return self

    @property
    def low_precision(self) -> LowPrecision | None:
        """What the network computes every image in, where the device is fast at it; None in fp32."""
        if self.precision == "exact":
            return self.first or "bf16"
        return None if self.precision == "fp32" else self.precision

    @property
    def digest(self) -> str:
        """SHA-256 of all that decides an answer: files, preprocessing, labels, precision; provenance has no part."""
        return manifest_digest(self.model_dump(mode="json", exclude={"agreement", "measured", "provenance"}))


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:  # an empty file cannot be mapped
            return hashlib.sha256().hexdigest()
        # One call, and not one for each piece of the file: after each, this thread would wait for the interpreter,
        # which another one uses while a worker starts.
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return hashlib.sha256(content).hexdigest()


@dataclass(frozen=True)
class Bundle:
    """A bundle with the files that it was built with; results name its digest, a SHA-256 of the whole bundle.

    Attributes:
        manifest: the contents of its ``bundle.json``.
        digest: of the manifest.
        unchecked: names of files that cannot be used, since nothing was to use them and their digests are unchecked.
    """

    folder: Path
    manifest: Manifest
    digest: str
    unchecked: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        """The bundle's name, for results and people."""
        return self.manifest.name

    @property
    def labels(self) -> tuple[str, ...]:
        """One label per class, in the order of an engine's outputs."""
        return self.manifest.labels

    def path(self, name: str) -> Path:
        """Where the file `name` lies.

        Raises:
            BundleMissingError: the bundle has no such file.
            BundleDigestError: the file is `unchecked`.
        """
        if name in self.unchecked:
            raise BundleDigestError(f"{name} of bundle {self.name} was opened as unused, so its digest is unchecked")
        if name not in self.manifest.files:
            raise BundleMissingError(f"bundle {self.name} in {self.folder} has no {name}: {_BUILD_AGAIN}")
        return self.folder / name


def load_bundle(path: Path | str = DEMO_BUNDLE, sha256: str | None = None, unused: Collection[str] = ()) -> Bundle:
    """Open the bundle in folder or zip `path` after checking every digest; a zip is unpacked once, into the cache.

    `sha256` pins the bundle (`worker.bundle_sha256`): nothing of another one is parsed. Files of a folder that are
    `unused` are not checked, and cannot be used.

    Raises:
        BundleMissingError: there is no bundle.
        BundleFormatError: its ``bundle.json``, or the zip, is not one.
        BundleDigestError: a file is missing or was changed, or it is not the pinned bundle.
    """
    place = Path(path)
    if place.suffix.lower() == ".zip" and place.is_file():
        return load_zip(place, sha256=sha256)
    return load_folder(place, sha256, unused)


def load_folder(folder: Path, sha256: str | None = None, unused: Collection[str] = ()) -> Bundle:
    """Open the bundle in `folder` after checking every digest but those of `unused`; raises as `load_bundle`."""
    manifest = read_manifest(folder, sha256)
    for name, expected in manifest.files.items():
        if name in unused:
            continue
        path = folder / name
        try:
            actual = file_digest(path)
        except OSError as error:
            raise BundleDigestError(
                f"{path} cannot be read ({error.strerror}): restore or build the bundle again"
            ) from error
        if actual != expected:
            raise BundleDigestError(
                f"{path} has SHA-256 {actual}, but the bundle was built with {expected}: "
                "the file was changed or damaged, restore or build the bundle again"
            )
    return Bundle(folder, manifest, manifest.digest, frozenset(unused))


def read_manifest(folder: Path, sha256: str | None = None) -> Manifest:
    """Read and validate ``bundle.json``, without checking the other files.

    Raises:
        BundleMissingError: there is none.
        BundleFormatError: it is not valid.
        BundleDigestError: it is not the pinned one.
    """
    path = folder / MANIFEST_NAME
    try:
        text = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BundleMissingError(
            f"no model bundle in {folder} ({MANIFEST_NAME} is not there): {_BUILD_ONE}"
        ) from error
    except OSError as error:
        raise BundleFormatError(f"{path} cannot be read ({error}): restore or build it again") from error
    check_pin(path, hashlib.sha256(text).hexdigest(), sha256, BundleDigestError)
    return parse_manifest(str(path), text)


def parse_manifest(path: str, text: str | bytes) -> Manifest:
    """Validate the contents of a ``bundle.json``; messages name it by `path`.

    Raises:
        BundleFormatError: it is not valid.
        BundleDigestError: it was changed since it was built.
    """
    try:
        contents = json.loads(text)
    except ValueError as error:
        raise BundleFormatError(f"{path} is not JSON ({error}): restore or build it again") from error
    version = contents.get("format_version") if isinstance(contents, dict) else None
    if version != FORMAT_VERSION:
        raise BundleFormatError(
            f"{path} has format_version {version!r}, this program reads {FORMAT_VERSION}: build the bundle again"
        )
    stated = contents.pop("digest", None)  # not in bundles from before it was stated
    try:
        # A later release may state more about a bundle. What decides an answer is part of the digest: a reader that
        # does not know such a field computes another digest, and refuses the bundle.
        manifest = Manifest.model_validate(contents, extra="forbid" if stated is None else "ignore")
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise BundleFormatError(f"{path}: {where}: {first['msg']}: build the bundle again") from error
    if stated not in {None, manifest.digest}:
        raise BundleDigestError(
            f"{path} states the digest {stated}, but is {manifest.digest}: restore or build the bundle again, "
            "or, if a later release has built it, use that release"
        )
    return manifest


def load_zip(path: Path, cache: Path | None = None, sha256: str | None = None) -> Bundle:
    """Open the bundle in zip `path`, unpacked once into the cache; `sha256` pins the zip.

    Raises:
        BundleMissingError: the zip holds no bundle.
        BundleFormatError: it is no zip, or its ``bundle.json`` is not one.
        BundleDigestError: a file of the bundle is missing or was changed, or it is not the pinned zip.
    """
    digest = file_digest(path)
    check_pin(path, digest, sha256, BundleDigestError)
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
            # What comes before the bundle's names: nothing, or one folder with its slash.
            tops = [name.removesuffix(MANIFEST_NAME) for name in archive.namelist() if name.endswith(MANIFEST_NAME)]
            tops = [top for top in tops if not top or (top.endswith("/") and top.count("/") == 1)]
            if not tops:
                raise BundleMissingError(
                    f"no model bundle in {path} ({MANIFEST_NAME} is not in it): zip a bundle's folder"
                )
            top = min(tops, key=len)
            with archive.open(f"{top}{MANIFEST_NAME}") as file:
                text = file.read(MAX_MANIFEST_BYTES)
            (folder / MANIFEST_NAME).write_bytes(text)
            for name in parse_manifest(f"{MANIFEST_NAME} in {path}", text).files:
                try:
                    with archive.open(f"{top}{name}") as file:
                        write_file(folder / name, file)
                except KeyError as error:
                    raise BundleDigestError(f"{path} lacks {name}: make it again from the bundle's folder") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise BundleFormatError(f"{path} is damaged or no zip ({error}): make or fetch it again") from error


def cache_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Return this user's own cache: systemd's, the desktop's, or ``~/.cache``. Never a folder that others share."""
    if systemd := environment.get("CACHE_DIRECTORY"):
        return Path(systemd.split(":")[0]) / "bundles"
    base = environment.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "fleetsight" / "bundles"


def kept(name: str, fill: Callable[[Path], None], cache: Path) -> Bundle:
    """Return the bundle that the cache keeps as `name`, having `fill` write it into a new folder if it is not there.

    What is kept is checked each time; a copy that was damaged is made again. Two processes may fill the same bundle
    at once: the first to finish keeps it. Of more than `MAX_CACHED` bundles, those that were not used for the longest
    time are removed; a network that is loaded does not need its files.

    Raises:
        BundleError: what `fill` wrote is not a whole bundle, or the cache cannot be written.
    """
    folder = cache / name
    try:
        if folder.is_dir():
            bundle = load_folder(folder)
            with suppress(OSError):  # a cache that can only be read
                os.utime(folder)
            return bundle
    except BundleError:
        shutil.rmtree(folder, ignore_errors=True)
    try:
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{name[:8]}.", dir=cache, ignore_cleanup_errors=True) as scratch:
            new = Path(scratch) / "bundle"
            new.mkdir()
            fill(new)
            load_folder(new)
            try:
                new.rename(folder)
            except OSError:
                if not folder.is_dir():
                    raise
            bundle = load_folder(folder)
            _remove_unused(cache)
            return bundle
    except OSError as error:
        raise BundleFormatError(
            f"a bundle cannot be kept in {cache} ({error}): free some space, or set XDG_CACHE_HOME"
        ) from error


def _remove_unused(cache: Path) -> None:
    with suppress(OSError):  # another process may remove the same
        kept_folders = [each for each in cache.iterdir() if not each.name.startswith(".")]
        for folder in sorted(kept_folders, key=lambda each: each.stat().st_mtime, reverse=True)[MAX_CACHED:]:
            shutil.rmtree(folder, ignore_errors=True)


def write_file(path: Path, source: IO[bytes]) -> None:
    """Write a file from an untrusted source, which could fill the disk.

    Raises:
        BundleFormatError: the source has more than `MAX_FILE_BYTES` bytes.
    """
    written = 0
    with path.open("wb") as file:
        while chunk := source.read(_CHUNK):
            written += len(chunk)
            if written > MAX_FILE_BYTES:
                raise BundleFormatError(f"{path.name} is larger than {MAX_FILE_BYTES} bytes: no bundle's file is")
            file.write(chunk)
