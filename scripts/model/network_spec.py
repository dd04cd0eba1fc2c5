"""The YAML beside a user's own network: what to do to an image before it, and what its outputs mean."""

from pathlib import Path
from typing import Annotated, Final, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from app_tier.bundle.errors import BundleBuildError
from app_tier.preprocess import Preprocess

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
Fractions = tuple[float, float, float]

_IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
_IMAGENET_STD: Final = (0.229, 0.224, 0.225)


class NetworkSpec(BaseModel):
    """What the YAML says.

    Attributes:
        name: what people call the model.
        input_size: height and width of the network's input, in pixels.
        resize: pixels of the image's short side before the crop; the input size where it is left out.
        crop: pixels of the central square; always the input size, and may be left out.
        mean: per channel in the order of `channels`, on a scale of 0 to 1; ImageNet's where it is left out.
        std: as the mean.
        channels: the order in which the network expects them.
        outputs: ``logits``, or ``probabilities`` where the network ends with softmax.
        classes: how many outputs there are; may be left out where there are labels.
        labels: one per output, in order; ``class 0`` and so on where only `classes` is given.
        messages: what else to tell the user where this label is the answer, by label.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True)

    name: Name
    input_size: int = Field(ge=1, le=4096)
    resize: int | None = Field(default=None, ge=1, le=4096)
    crop: int | None = None
    mean: Fractions = _IMAGENET_MEAN
    std: Fractions = _IMAGENET_STD
    channels: Literal["rgb", "bgr"] = "rgb"
    outputs: Literal["logits", "probabilities"] = "logits"
    classes: int | None = Field(default=None, ge=2, le=100_000)
    labels: tuple[str, ...] | None = Field(default=None, min_length=2)
    messages: dict[str, str] = Field(default_factory=dict)

    @field_validator("mean", "std")
    @classmethod
    def _on_a_scale_of_one(cls, values: Fractions) -> Fractions:
        if max(map(abs, values)) > 10:
            raise ValueError(f"{list(values)} is not on a scale of 0 to 1: divide by 255")
        return values

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.crop not in (None, self.input_size):
            raise ValueError(f"crop {self.crop} is not the input_size {self.input_size}: leave it out")
        if self.labels is None and self.classes is None:
            raise ValueError("neither labels nor classes is given: list one label per output")
        if self.labels is not None and self.classes not in (None, len(self.labels)):
            raise ValueError(f"{len(self.labels)} labels for {self.classes} classes: list one label per output")
        unknown = self.messages.keys() - set(self.all_labels)
        if unknown:
            raise ValueError(f"messages has {min(unknown)!r}, which is not a label")
        _ = self.preprocess
        return self

    @property
    def all_labels(self) -> tuple[str, ...]:
        """One label per output."""
        return self.labels or tuple(f"class {number}" for number in range(self.classes or 0))

    @property
    def preprocess(self) -> Preprocess:
        """What is done to an image; always in RGB, as the bundle's network turns the channels round itself."""
        return Preprocess(
            resize=self.resize or self.input_size,
            crop=self.input_size,
            mean=self._in_rgb(self.mean),
            std=self._in_rgb(self.std),
        )

    def _in_rgb(self, values: Fractions) -> Fractions:
        first, second, third = values
        return (third, second, first) if self.channels == "bgr" else values


def read_spec(path: Path) -> NetworkSpec:
    """Read and check the YAML; a model without a name gets that of the file.

    Raises:
        BundleBuildError: it cannot be read, or does not say what it must; the message names the key.
    """
    try:
        contents = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BundleBuildError(f"{path} cannot be read as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(contents, dict):
        raise BundleBuildError(f"{path} must hold keys such as input_size and labels, not {contents!r:.60}")
    try:
        return NetworkSpec.model_validate({"name": path.stem, **contents})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise BundleBuildError(f"{path}: {where}: {first['msg']}") from error
