"""The YAML that says what a user's own network expects and answers, and how it fits the network's file."""

from collections import Counter
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Final, Literal, Self, cast, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from app_tier.bundle import BundleBuildError
from core.bundle_manifest import (
    Finite,
    Fit,
    Interpolation,
    Label,
    Level,
    Positive,
    Preprocess,
    Size,
    Text,
    height_and_width,
)
from core.config import fault_words
from core.yaml_text import YAML_ERRORS, parse_yaml, yaml_reason

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
Channels = Literal["rgb", "bgr", "grey"]
Layout = Literal["nchw", "nhwc"]
ElementType = Literal["float32", "float16", "uint8"]
Outputs = Literal["logits", "probabilities", "sigmoid"]
Numbers = tuple[float, ...]

_SIZES: Final = (("input_size",), ("resize",))


@dataclass(frozen=True)
class NetworkInput:
    """The input of a network's file: its four lengths, None where they are free, and its type of number."""

    dimensions: tuple[int | None, ...]
    element_type: str


@dataclass(frozen=True)
class NetworkForm:
    """How images become float32 N x 3 x H x W in RGB, which a worker feeds, and what a file expects in its place."""

    preprocess: Preprocess
    channels: Channels
    layout: Layout
    element_type: ElementType

    @property
    def dimensions(self) -> list[int]:
        """Lengths of the file's input; -1 for a free number of images."""
        shape, planes = self.preprocess.input_shape, 1 if self.channels == "grey" else 3
        return [-1, *shape, planes] if self.layout == "nhwc" else [-1, planes, *shape]


class NetworkSpec(BaseModel):
    """What the YAML says.

    Attributes:
        name: what people call the model.
        input_size: height and width of the network's input, in pixels; one number for a square.
        resize, fit, fill, interpolation: see `Preprocess`; `resize` is the input size where it is left out.
        mean, std: per channel in the order of `channels`, or one for all; may be left out if black and white are 0
            and 255.
        input_range: values of black and white before mean and std; 0 and 255 for a uint8 network, else 0 and 1.
        channels: the order in which the network expects them, or ``grey`` for one channel.
        layout: the order of the input's dimensions; found in the file where it is left out.
        outputs: ``logits``; ``probabilities`` where the network ends with softmax; ``sigmoid`` where each label is
            true or false by itself. Softmax is found by looking where it is left out.
        labels: one per output, in order.
        messages: a text shown with a label to the user, by label.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True, str_strip_whitespace=True)

    name: Name
    input_size: Size
    resize: Size | None = None
    fit: Fit
    fill: tuple[Level, Level, Level] = (0, 0, 0)
    interpolation: Interpolation = "bilinear"
    mean: tuple[Finite, ...] | None = None
    std: tuple[Positive, ...] | None = None
    input_range: tuple[Literal[0], Literal[1, 255]] | None = None
    channels: Channels | None = None
    layout: Layout | None = None
    outputs: Outputs | None = None
    labels: tuple[Label, ...] = Field(min_length=2)
    messages: dict[str, Text] = Field(default_factory=dict)

    @field_validator("mean", "std")
    @classmethod
    def _of_one_or_three_channels(cls, values: Numbers) -> Numbers:
        if len(values) not in {1, 3}:
            raise ValueError(f"has {len(values)} numbers: give one for each channel, or one for all")
        return values

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        height, width = height_and_width(self.resize or self.input_size)
        if height < height_and_width(self.input_size)[0] or width < height_and_width(self.input_size)[1]:
            raise ValueError(
                f"resize {self.resize} is smaller than input_size {self.input_size}: make it larger or equal"
            )
        if self.fit == "pad" and self.resize not in (None, self.input_size):
            raise ValueError("fit: pad fills what the image leaves of the input: leave resize out")
        if twice := [label for label, count in Counter(self.labels).items() if count > 1]:
            raise ValueError(f"labels has {twice[0]!r} more than once: name the outputs apart")
        if unknown := self.messages.keys() - set(self.labels):
            raise ValueError(f"messages has {min(unknown)!r}, which is not a label")
        if self.input_range != (0, 255) and max(map(abs, (*(self.mean or ()), *(self.std or ()))), default=0) > 10:
            raise ValueError("mean and std are not on a scale of 0 to 1: divide by 255, or set input_range: [0, 255]")
        return self

    def fitted(self, network: NetworkInput) -> NetworkForm:
        """Return how the network is fed.

        Raises:
            ValueError: the file says otherwise; the message names both.
        """
        layout, channels = self._order(network)
        if network.element_type not in get_args(ElementType):
            raise ValueError(f"takes {network.element_type}: export it with an input of float32 or uint8")
        element_type = cast("ElementType", network.element_type)
        is_whole = element_type == "uint8"
        if is_whole and (self.input_range == (0, 1) or self.mean or self.std):
            raise ValueError("takes uint8, whole numbers from 0 to 255: leave out input_range, mean and std")
        white = 255.0 if is_whole or self.input_range == (0, 255) else 1.0
        if white == 1 and not (self.mean and self.std):
            raise ValueError(f"takes {element_type}: give mean and std as it was trained, or [0] and [1]")
        preprocess = Preprocess(
            resize=self.resize or self.input_size,
            crop=self.input_size,
            fit=self.fit,
            fill=self.fill,
            interpolation=self.interpolation,
            mean=_in_rgb(self.mean or (0.0,), white, channels),
            std=_in_rgb(self.std or (1.0,), white, channels),
        )
        return NetworkForm(preprocess, channels, layout, element_type)

    def _order(self, network: NetworkInput) -> tuple[Layout, Channels]:
        """Return the layout and the channels, which the file and the YAML must not state differently."""
        dimensions = network.dimensions
        if len(dimensions) != 4:
            raise ValueError(f"takes an input of {len(dimensions)} dimensions: export it for N x 3 x H x W")
        shape = " x ".join("N" if length is None else str(length) for length in ("N", *dimensions[1:]))
        if not {dimensions[1], dimensions[3]} & {None, 1, 3}:
            raise ValueError(
                f"takes {shape}: a photo gives 3 channels, or 1 of grey; export a network that takes these"
            )
        is_last = dimensions[1] not in {1, 3} and dimensions[3] in {1, 3}
        layout: Layout = self.layout or ("nhwc" if is_last else "nchw")
        planes, *sides = dimensions[1:] if layout == "nchw" else (dimensions[3], *dimensions[1:3])
        channels: Channels = self.channels or ("grey" if planes == 1 else "rgb")
        if planes not in {None, 1 if channels == "grey" else 3}:
            raise ValueError(f"takes {shape}: set layout and channels to what it expects")
        if any(side not in {None, own} for side, own in zip(sides, height_and_width(self.input_size), strict=True)):
            raise ValueError(f"takes {sides} pixels (height, width), but input_size is {self.input_size}: set that")
        return layout, channels


def _in_rgb(values: Numbers, white: float, channels: Channels) -> tuple[float, float, float]:
    """Return `values` of the network's channels as those of red, green and blue, on a scale of 0 to 1."""
    first, second, third = (each / white for each in (values * 3 if len(values) == 1 else values))
    if channels == "grey" and len({first, second, third}) > 1:
        raise ValueError(f"takes 1 channel, so mean and std have one number each, not {list(values)}")
    return (third, second, first) if channels == "bgr" else (first, second, third)


def read_spec(path: Path) -> NetworkSpec:
    """Read and check the YAML; a model without a name gets that of the file.

    Raises:
        BundleBuildError: it cannot be read, or does not say what it must; the message names the key.
    """
    try:
        contents = parse_yaml(path.read_text())
    except (OSError, *YAML_ERRORS) as error:
        raise BundleBuildError(f"{path} cannot be read as YAML: {yaml_reason(error)}") from error
    if not isinstance(contents, dict):
        raise BundleBuildError(f"{path} must hold keys such as input_size and labels, not {contents!r:.60}")
    try:
        return NetworkSpec.model_validate({"name": path.stem, **contents})
    except ValidationError as error:
        first = error.errors()[0]
        # Without the kind of size, a number or two, that pydantic has tried.
        where = ".".join(str(part) for part in first["loc"][: 1 if first["loc"][:1] in _SIZES else None])
        raise BundleBuildError(f"{path}: {f'{where}: ' if where else ''}{_fault(first)}") from error


def _fault(fault: ErrorDetails) -> str:
    """Return what is wrong with a key, and what to do."""
    match fault["type"]:
        case "extra_forbidden":
            near = get_close_matches(str(fault["loc"][-1]), NetworkSpec.model_fields, n=1)
            return f"unknown key; {f'did you mean {near[0]}?' if near else 'examples/README.md lists all keys'}"
        case "string_type":
            return f"must be text, not {fault['input']!r:.60}: put it in quotes"
        case "string_pattern_mismatch" if fault["loc"][0] in {"labels", "messages"}:
            return f"{fault['input']!r:.60} is empty, too long, or has a control character: write plain text"
        case "missing":
            return "missing; examples/README.md says what it means"
        case _:
            return fault_words(fault["msg"])
