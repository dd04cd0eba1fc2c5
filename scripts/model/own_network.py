"""Bundles of a user's own network: an ONNX file or a ``torch.export`` program, and a YAML that says what it means."""

from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from app_tier.bundle import Bundle, BundleBuildError, file_digest
from app_tier.engine_imports import export_warnings_off, import_openvino, import_torch
from core.bundle_manifest import IR_NAME, Preprocess
from core.config import fault_words
from scripts.model.build import FP32, Description, check_outputs, export_torch, write_bundle
from scripts.model.precision import Target

if TYPE_CHECKING:
    from torch import Tensor, nn

ONNX_SUFFIX: Final = ".onnx"
TORCH_SUFFIX: Final = ".pt2"
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
        messages: a text shown with a label to the user, by label.
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
        where = ".".join(str(part) for part in first["loc"])
        raise BundleBuildError(f"{path}: {f'{where}: ' if where else ''}{_fault(first)}") from error


def _fault(fault: ErrorDetails) -> str:
    """Return what is wrong with a key, and what to do."""
    match fault["type"]:
        case "extra_forbidden":
            near = get_close_matches(str(fault["loc"][-1]), NetworkSpec.model_fields, n=1)
            return f"unknown key; {f'did you mean {near[0]}?' if near else 'docs/models.md lists all keys'}"
        case "missing":
            return "missing; docs/models.md says what it means"
        case _:
            return fault_words(fault["msg"])


def build_own(network: Path, spec_file: Path, out: Path | None = None, target: Target = FP32) -> Bundle:
    """Build the bundle of the network in file `network`.

    Args:
        network: ``.onnx``, or ``.pt2`` as ``torch.export.save`` writes it, with a free batch size.
        spec_file: YAML, see `NetworkSpec`.
        out: the bundle's folder.
        target: precision of the answers, and images to measure it on.

    Raises:
        BundleBuildError: a file cannot be read, or the two do not fit.
    """
    spec = read_spec(spec_file)
    exports: dict[str, Callable[[Path, NetworkSpec, Path], None]] = {ONNX_SUFFIX: _onnx, TORCH_SUFFIX: _pt2}
    export = exports.get(network.suffix.lower())
    if export is None:
        raise BundleBuildError(f"{network} is neither {ONNX_SUFFIX} nor {TORCH_SUFFIX}: export the network as one")
    if not network.is_file():
        raise BundleBuildError(f"no network file {network}: give its path with --network")
    description = Description(
        name=spec.name,
        architecture=network.stem[:100],
        preprocess=spec.preprocess,
        labels=spec.all_labels,
        messages=spec.messages,
        provenance={"network": network.name, "sha256": file_digest(network)},
    )
    folder = out or Path(".fleetsight") / "models" / spec.name
    return write_bundle(lambda into: export(network, spec, into), description, folder, target)


def _onnx(path: Path, spec: NetworkSpec, folder: Path) -> None:
    """Write an ONNX network as OpenVINO's; there is none for torch."""
    openvino = import_openvino()
    try:
        model = openvino.Core().read_model(path)
    except RuntimeError as error:
        raise BundleBuildError(f"{path} cannot be read as ONNX ({_last_line(error)}): export it again") from error
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise BundleBuildError(
            f"{path} has {len(model.inputs)} inputs and {len(model.outputs)} outputs: "
            "export a network with one image input and one output of logits"
        )
    try:
        model.reshape([-1, 3, spec.input_size, spec.input_size])
        model = _with_rgb_in_and_probabilities_out(model, spec)
        shape = openvino.compile_model(model, "CPU")(np.zeros((2, 3, spec.input_size, spec.input_size), np.float32))[
            0
        ].shape
    except RuntimeError as error:
        raise BundleBuildError(
            f"{path} does not take batches of 3 x {spec.input_size} x {spec.input_size} ({_last_line(error)}): "
            "check input_size, and export it with a free batch size"
        ) from error
    check_outputs(tuple(shape), len(spec.all_labels))
    openvino.save_model(model, folder / IR_NAME, compress_to_fp16=False)


def _with_rgb_in_and_probabilities_out(model: Any, spec: NetworkSpec) -> Any:
    """Put what the worker expects round the network: float32 RGB planes in, float32 probabilities out."""
    openvino = import_openvino()
    from openvino.preprocess import PrePostProcessor

    ends = PrePostProcessor(model)
    ends.input().tensor().set_element_type(openvino.Type.f32).set_layout(openvino.Layout("NCHW"))
    ends.input().model().set_layout(openvino.Layout("NCHW"))
    if spec.channels == "bgr":
        ends.input().preprocess().reverse_channels()
    ends.output().tensor().set_element_type(openvino.Type.f32)
    model = ends.build()
    if spec.outputs == "probabilities":
        return model
    from openvino import opset13

    logits = model.outputs[0].get_node().input_value(0)
    return openvino.Model([opset13.softmax(logits, 1)], model.get_parameters(), spec.name)


def _pt2(path: Path, spec: NetworkSpec, folder: Path) -> None:
    """Write a ``torch.export`` program, for OpenVINO and for torch."""
    torch = import_torch()
    try:
        with export_warnings_off():
            program = torch.export.load(path).module()
    except Exception as error:  # torch.export.load raises errors of all kinds for files of other kinds
        raise BundleBuildError(
            f"{path} is not a torch.export program ({type(error).__name__}): write it with torch.export.save"
        ) from error
    try:
        export_torch(_as_logits(program, spec), spec.input_size, len(spec.all_labels), folder)
    except BundleBuildError:
        raise
    except Exception as error:  # torch has no common class for what its export refuses
        raise BundleBuildError(
            f"{path} does not take batches of 3 x {spec.input_size} x {spec.input_size} ({_last_line(error)}): "
            'check input_size, and export it with a free batch size: dynamic_shapes=({0: Dim("batch")},)'
        ) from error


def _as_logits(program: Any, spec: NetworkSpec) -> "nn.Module":
    """Return the program as a network from RGB to logits; the logarithm of probabilities is one kind of logits."""
    torch = import_torch()

    class Whole(torch.nn.Module):  # type: ignore[misc, name-defined, unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.program = program

        def train(self, mode: bool = True) -> "nn.Module":  # noqa: ARG002
            return self  # an exported program has no modes, and refuses to be asked

        def forward(self, pixels: "Tensor") -> "Tensor":
            outputs: Tensor = self.program(pixels.flip(1) if spec.channels == "bgr" else pixels)
            return (
                outputs.clamp_min(torch.finfo(torch.float32).tiny).log()
                if spec.outputs == "probabilities"
                else outputs
            )

    return Whole()


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:200] if lines else type(error).__name__
