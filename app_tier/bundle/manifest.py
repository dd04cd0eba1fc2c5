"""``bundle.json``: what a bundle says about itself."""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, model_validator

from app_tier.preprocess import Preprocess

FORMAT_VERSION: Final = 1
MANIFEST_NAME: Final = "bundle.json"
IR_NAME: Final = "model.xml"
IR_WEIGHTS_NAME: Final = "model.bin"
INT8_IR_NAME: Final = "model-int8.xml"
INT8_WEIGHTS_NAME: Final = "model-int8.bin"
TORCH_NAME: Final = "model.pt2"

LowPrecision = Literal["bf16", "int8"]
"""What a network computes in when it shall be fast."""

NumberType = Literal["fp32", "bf16", "int8"]
"""What a network computes in."""

Precision = Literal["fp32", "bf16", "int8", "exact"]
"""How a bundle answers; ``exact`` is bf16 or int8 first, and fp32 again where that could have changed the answer."""

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""SHA-256, in lower-case hexadecimal."""


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
        repeated: share of the images that were asked again in fp32; 0 to 1.
        speed: images/s by those of fp32.
        speeds: the same for each low precision that was tried, to choose what ``exact`` asks first.
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
        messages: what else to tell the user where this label is the answer, by label.
        precision: how the network computes where the device is fast at it.
        first: what ``exact`` asks first; bf16 where a bundle from before there was int8 does not say.
        margin: difference of the two best logits below which ``exact`` asks again in fp32; only with that precision.
        agreement: of OpenVINO with torch, both in fp32.
        measured: of the precision against fp32; None where it is fp32.
        provenance: where the weights are from and what was measured; free in form, JSON.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: Literal[1] = FORMAT_VERSION
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    architecture: str = Field(min_length=1, max_length=100)
    files: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")], Digest]
    preprocess: Preprocess
    labels: tuple[Annotated[str, Field(min_length=1, max_length=200)], ...] = Field(min_length=2)
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
        parts = {"architecture", "files", "preprocess", "labels"}
        if self.precision != "fp32":  # bundles from before there was a choice keep their digest
            parts |= {"precision", "margin"}
        if self.first == "int8":  # so do those that ask bf16 first, whether they say so or not
            parts |= {"first"}
        decisive = self.model_dump(mode="json", include=parts)
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
