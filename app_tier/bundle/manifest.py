"""``bundle.json``: what a bundle says about itself."""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from app_tier.preprocess import Preprocess

FORMAT_VERSION: Final = 1
MANIFEST_NAME: Final = "bundle.json"
IR_NAME: Final = "model.xml"
IR_WEIGHTS_NAME: Final = "model.bin"
TORCH_NAME: Final = "model.pt2"

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""SHA-256, in lower-case hexadecimal."""


class Agreement(BaseModel):
    """How far the OpenVINO network answers as the fp32 torch network does, measured when the bundle was built.

    Attributes:
        images: how many were compared.
        same_top1: share of them whose best label is the same, 0 to 1.
        largest_difference: the largest difference between two probabilities of one image and class.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    images: int = Field(ge=1)
    same_top1: float = Field(ge=0, le=1)
    largest_difference: float = Field(ge=0, le=1)


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
        agreement: of OpenVINO with torch.
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
    agreement: Agreement | None = None
    provenance: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        missing = {IR_NAME, IR_WEIGHTS_NAME} - self.files.keys()
        if missing:
            raise ValueError(f"files lacks {', '.join(sorted(missing))}")
        unknown = self.messages.keys() - set(self.labels)
        if unknown:
            raise ValueError(f"messages has {min(unknown)!r}, which is not a label")
        return self

    @property
    def digest(self) -> str:
        """SHA-256 of all that decides an answer: files, preprocessing, labels; provenance has no part in it."""
        decisive = self.model_dump(mode="json", include={"architecture", "files", "preprocess", "labels"})
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
