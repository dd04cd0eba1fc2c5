"""The manifest of a model bundle, ``bundle.json``: what it may state, and how it is read."""

import json
import re
from hashlib import sha256
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from core.images import Framing
from services.errors import FleetsightError

FORMAT_VERSION: Final = 1
IR_NAME: Final = "model.xml"
IR_WEIGHTS_NAME: Final = "model.bin"
INT8_IR_NAME: Final = "model-int8.xml"
INT8_WEIGHTS_NAME: Final = "model-int8.bin"
TORCH_NAME: Final = "model.pt2"

FileName = Literal["model.xml", "model.bin", "model-int8.xml", "model-int8.bin", "model.pt2"]
"""The names of a bundle's files, so that their number is bounded."""

LowPrecision = Literal["bf16", "int8"]
"""The number types of a network that computes fast at a low precision."""

NumberType = Literal["fp32", "bf16", "int8"]
"""The number types that a network computes in."""

Precision = Literal["fp32", "bf16", "int8", "exact"]
"""How a bundle answers; ``exact`` is bf16 or int8 first, and fp32 again where that could have changed the label."""

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""SHA-256, in lower-case hexadecimal."""

Label = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]{1,200}$")]
"""A text of one line."""

TEXT_PATTERN: Final = r"^[^\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]*$"
"""Texts that a manifest may state: no control characters but for tabs and the ends of lines, and no overrides of the
direction, which would show another text on the terminals and pages of all users."""

MAX_TEXT: Final = 10_000
"""Characters of one of these texts."""

Text = Annotated[str, Field(pattern=TEXT_PATTERN, max_length=MAX_TEXT)]


def _with_plain_texts(value: dict[str, Any]) -> dict[str, Any]:
    left: list[Any] = [value]
    while left:
        match left.pop():
            case dict() as found:
                left += [*found, *found.values()]
            case list() | tuple() as found:
                left += found
            case str() as found if len(found) > MAX_TEXT or not re.fullmatch(TEXT_PATTERN, found):
                raise ValueError(f"{found[:60]!r} is too long, or has a control character")
    return value


Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[Finite, Field(gt=0)]

MAX_SIDE: Final = 4096
"""Longest side of a network's input, in pixels."""

Side = Annotated[int, Field(ge=1, le=MAX_SIDE)]
Size = Side | tuple[Side, Side]
"""Pixels of a square's side, or height and width."""

Level = Annotated[int, Field(ge=0, le=255)]
Fit = Literal["crop", "stretch", "pad"]
Interpolation = Literal["bilinear", "bicubic", "lanczos"]


class BundleError(FleetsightError):
    """Raised when a bundle cannot be used or built; each message names the fault and what to do."""


class BundleMissingError(BundleError):
    """Raised when a named place contains no bundle."""


class BundleFormatError(BundleError):
    """Raised when ``bundle.json`` cannot be read or is not valid."""


class BundleDigestError(BundleError):
    """Raised when a file of a bundle is missing or is not the one that the bundle was built with."""


class Preprocess(BaseModel):
    """What is done to an image before the network sees it; part of a bundle's manifest.

    Attributes:
        resize: what the resized image covers, fills, or fits into, by `fit`; of a square, its short or long side.
        crop: what is cut out of its middle, at most ``resize``; the network's input size.
        mean: per channel (R, G, B), on a scale of 0 to 1.
        std: per channel, on the same scale.
        fit: ``crop`` keeps the aspect ratio and cuts off the rest, ``stretch`` does not keep it, and ``pad`` keeps it
            and fills the rest.
        fill: the colour of that rest, in levels of red, green and blue.
        interpolation: the filter of the resize, antialiased.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    resize: Size
    crop: Size
    mean: tuple[Finite, Finite, Finite]
    std: tuple[Positive, Positive, Positive]
    fit: Fit = "crop"
    fill: tuple[Level, Level, Level] = (0, 0, 0)
    interpolation: Interpolation = "bilinear"

    @property
    def input_shape(self) -> tuple[int, int]:
        """Height and width of the network's input, in pixels."""
        return height_and_width(self.crop)

    @property
    def input_size(self) -> int:
        """The longer side of the network's input, in pixels."""
        return max(self.input_shape)

    @property
    def framing(self) -> Framing:
        """What `app_tier.central_crop` needs of it; sizes are height and width."""
        return Framing(height_and_width(self.resize), self.input_shape, self.fit, self.fill, self.interpolation)

    @model_validator(mode="after")
    def _crop_fits(self) -> Self:
        if any(crop > resize for crop, resize in zip(self.input_shape, height_and_width(self.resize), strict=True)):
            raise ValueError(f"crop {self.crop} is larger than resize {self.resize}: make it smaller or equal")
        return self


def height_and_width(size: Size) -> tuple[int, int]:
    """Return both sides of a size."""
    return (size, size) if isinstance(size, int) else size


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
        shares: share of the images that were computed again after each of them.
        labelled: how many of the images came with a label that the bundle knows.
        accuracy: share of those that were right, 0 to 1; None without labels.
        accuracy_fp32: the same in fp32.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    images: int = Field(ge=1)
    source: Text
    calibrated: int = Field(default=0, ge=0)
    alone_same_top1: float = Field(ge=0, le=1)
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
    architecture: Text = Field(min_length=1, max_length=100)
    files: dict[FileName, Digest]
    preprocess: Preprocess
    labels: tuple[Label, ...] = Field(min_length=2)
    messages: dict[str, Text] = Field(default_factory=dict)
    precision: Precision = "fp32"
    first: LowPrecision | None = None
    margin: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    agreement: Agreement | None = None
    measured: Measurement | None = None
    provenance: Annotated[dict[str, Any], AfterValidator(_with_plain_texts)] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        needed = {IR_NAME, IR_WEIGHTS_NAME}
        if self.low_precision == "int8":
            needed |= {INT8_IR_NAME, INT8_WEIGHTS_NAME}
        if missing := needed - self.files.keys():
            raise ValueError(f"files lacks {', '.join(sorted(missing))}")
        if unknown := self.messages.keys() - set(self.labels):
            raise ValueError(f"messages has {min(unknown)[:60]!r}, which is not a label")
        if (self.margin is not None) != (self.precision == "exact"):
            raise ValueError(f"precision {self.precision} with margin {self.margin}: exact has one, the others none")
        if self.first is not None and self.precision != "exact":
            raise ValueError(f"precision {self.precision} with first {self.first}: only exact asks twice")
        return self

    @property
    def has_independent_labels(self) -> bool:
        """Whether each label is true or false by itself: the scores of an image are no shares of 1."""
        return self.provenance.get("outputs") == "sigmoid"

    @property
    def low_precision(self) -> LowPrecision | None:
        """What the network computes every image in, where the device is fast at it; None in fp32."""
        if self.precision == "exact":
            return self.first or "bf16"
        return None if self.precision == "fp32" else self.precision

    @property
    def digest(self) -> str:
        """SHA-256 of all that decides an answer: files, preprocessing, labels, precision; provenance has no part."""
        decisive = self.model_dump(mode="json", include={"architecture", "files", "labels"})
        decisive["preprocess"] = self.preprocess.model_dump(mode="json", exclude_defaults=True)
        if self.precision != "fp32":
            decisive |= {"precision": self.precision, "margin": self.margin}
        if self.first == "int8":
            decisive["first"] = self.first
        return sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def parse_manifest(path: str, text: str | bytes) -> Manifest:
    """Validate the contents of a ``bundle.json``; messages name it by `path`.

    Raises:
        BundleFormatError: it is not valid.
        BundleDigestError: it was changed since it was built.
    """
    try:
        contents = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BundleFormatError(f"{path} is not JSON ({error}): restore or build it again") from error
    version = contents.get("format_version") if isinstance(contents, dict) else None
    if version != FORMAT_VERSION:
        raise BundleFormatError(
            f"{path} has format_version {version!r:.60}, this program reads {FORMAT_VERSION}: build the bundle again"
        )
    stated = contents.pop("digest", None)  # not in bundles from before it was stated
    try:
        # A later release may state more about a bundle. What decides an answer is part of the digest: a reader that
        # does not know such a field computes another digest, and refuses the bundle.
        manifest = Manifest.model_validate(contents, extra="forbid" if stated is None else "ignore")
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(ascii(part)[1:-1] if isinstance(part, str) else str(part) for part in first["loc"])[:200]
        raise BundleFormatError(f"{path}: {where or 'the whole'}: {first['msg']}: build the bundle again") from error
    if stated not in {None, manifest.digest}:
        raise BundleDigestError(
            f"{path} states the digest {stated!s:.100}, but is {manifest.digest}: restore or build the bundle again, "
            "or, if a later release has built it, use that release"
        )
    return manifest
