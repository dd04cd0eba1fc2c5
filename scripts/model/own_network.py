"""Bundles of a user's own network: an ONNX file or a ``torch.export`` program, and a YAML that says what it means."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from app_tier.bundle import Bundle, BundleBuildError, file_digest
from app_tier.engine_imports import export_warnings_off, import_openvino, import_torch
from core.bundle_manifest import IR_NAME, BundleError
from scripts.home import MODELS_FOLDER
from scripts.model.build import FP32, MAX_BATCH, Activation, Description, export_torch, torch_answers, write_bundle
from scripts.model.network_checks import Answers, last_line, refuse_compressed, settle_outputs
from scripts.model.network_spec import NetworkForm, NetworkInput, read_spec
from scripts.model.precision import Target

if TYPE_CHECKING:
    from torch import Tensor, nn

ONNX_SUFFIX: Final = ".onnx"

_GREY: Final = (0.299, 0.587, 0.114)
"""Shares of red, green and blue in grey (ITU-R BT.601), as Pillow and torchvision have them."""

_ONNX_TYPES: Final = {"f32": "float32", "f16": "float16", "u8": "uint8"}


Write = Callable[[Activation | None, Path], None]
"""Writes a network into a folder, its outputs turned into scores; None if they are scores."""

Feed = Callable[[NetworkForm], tuple[Answers, Write]]
"""Returns a network that takes what a worker feeds, float32 RGB planes: how it answers, and what writes it."""


def build_own(network: Path, spec_file: Path, out: Path | None = None, target: Target = FP32) -> Bundle:
    """Build the bundle of the network in file `network`.

    Args:
        network: ``.onnx``, or ``.pt2`` as ``torch.export.save`` writes it, with a free batch size.
        spec_file: YAML, see `NetworkSpec`.
        out: the bundle's folder.
        target: precision of the answers, and images to measure it on; fp32 for independent labels, since ``exact``
            compares the two best of those that exclude each other.

    Raises:
        BundleBuildError: a file cannot be read, or the two do not fit.
    """
    spec = read_spec(spec_file)
    if not network.is_file():
        raise BundleBuildError(f"no network file {network}: give the path of a .onnx or .pt2 file")
    opened, feed = (_open_onnx if network.suffix.lower() == ONNX_SUFFIX else _open_pt2)(network)
    try:
        form = spec.fitted(opened)
    except ValueError as error:
        raise BundleBuildError(f"{network} {error}") from error
    with _refused_batches(network, form, opened.dimensions[0]):
        answers, write = feed(form)
        outputs, are_scores = settle_outputs(answers, form.preprocess, len(spec.labels), spec.outputs)
    activation: Activation | None = None if are_scores else "sigmoid" if outputs == "sigmoid" else "softmax"

    def export(folder: Path) -> None:
        with _refused_batches(network, form, opened.dimensions[0]):
            write(activation, folder)

    description = Description(
        name=spec.name,
        architecture=network.stem[:100],
        preprocess=form.preprocess,
        labels=spec.labels,
        messages=spec.messages,
        provenance={"network": network.name, "sha256": file_digest(network), "outputs": outputs},
    )
    if outputs == "sigmoid" and target.precision == "exact":
        target = replace(target, precision="fp32")
    return write_bundle(export, description, out or MODELS_FOLDER / spec.name, target)


@contextmanager
def _refused_batches(path: Path, form: NetworkForm, batch: int | None) -> Iterator[None]:
    """Raise what OpenVINO or torch raises as a `BundleBuildError`; the file states the size of a `batch`, or None."""
    try:
        yield
    except BundleError:
        raise
    except Exception as error:  # torch has no common class for what its export refuses
        lengths = " x ".join(str(length) for length in form.dimensions[1:])
        remedy = f"its batch size of {batch} is fixed" if batch else "check input_size"
        raise BundleBuildError(
            f"{path} does not take batches of {lengths} ({last_line(error)}): {remedy}, and export it with a free "
            'batch size: dynamic_shapes=({0: Dim("batch")},)'
        ) from error


def _open_onnx(path: Path) -> tuple[NetworkInput, Feed]:
    """Read an ONNX network; there is none for torch."""
    try:
        model = import_openvino().Core().read_model(path)
    except RuntimeError as error:
        raise BundleBuildError(f"{path} cannot be read as ONNX ({last_line(error)}): export it again") from error
    _check_ends(path, len(model.inputs), len(model.outputs))
    shape, kind = model.input().partial_shape, model.input().element_type.get_type_name()
    lengths = tuple(each.get_length() if each.is_static else None for each in shape) if shape.rank.is_static else ()
    return NetworkInput(lengths, _ONNX_TYPES.get(kind, kind)), partial(_feed_onnx, model)


def _feed_onnx(model: Any, form: NetworkForm) -> tuple[Answers, Write]:
    model.reshape(form.dimensions)
    fed = _with_rgb_in(model, form)
    compiled = import_openvino().compile_model(fed, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda pixels: np.array(compiled(pixels)[0]), partial(_write_onnx, fed)


def _write_onnx(model: Any, activation: Activation | None, folder: Path) -> None:
    openvino = import_openvino()
    from openvino import opset13

    if activation is not None:
        outputs = model.output().get_node().input_value(0)
        scores = opset13.sigmoid(outputs) if activation == "sigmoid" else opset13.softmax(outputs, 1)
        model = openvino.Model([scores], model.get_parameters(), model.get_friendly_name())
    openvino.save_model(model, folder / IR_NAME, compress_to_fp16=False)


def _with_rgb_in(model: Any, form: NetworkForm) -> Any:
    """Return the network with the input that a worker feeds, float32 RGB planes, and outputs in float32."""
    openvino = import_openvino()
    from openvino import opset13
    from openvino.preprocess import PrePostProcessor

    ends = PrePostProcessor(model)
    pixels = ends.input().tensor().set_element_type(openvino.Type.f32).set_layout(openvino.Layout("NCHW"))
    pixels.set_shape([-1, 3, *form.preprocess.input_shape])
    ends.input().model().set_layout(openvino.Layout(form.layout.upper()))
    steps = ends.input().preprocess()
    if form.channels == "bgr":
        steps.reverse_channels()
    if form.channels == "grey":
        shares = np.reshape(np.asarray(_GREY, np.float32), (1, 3, 1, 1))
        steps.custom(
            lambda pixels: opset13.reduce_sum(opset13.multiply(pixels, shares), [1], keep_dims=True).output(0)
        )
    ends.output().tensor().set_element_type(openvino.Type.f32)
    return ends.build()


def _open_pt2(path: Path) -> tuple[NetworkInput, Feed]:
    """Read a ``torch.export`` program."""
    torch = import_torch()
    refuse_compressed(path)
    try:
        with export_warnings_off():
            program = torch.export.load(path)
            module = program.module()
    except Exception as error:  # torch.export.load raises errors of all kinds for files of other kinds
        raise BundleBuildError(
            f"{path} is not a torch.export program ({type(error).__name__}): write it with torch.export.save"
        ) from error
    signature = program.graph_signature
    _check_ends(path, len(signature.user_inputs), len(signature.user_outputs))
    (first_input, *_) = signature.user_inputs
    pixels = next(node.meta["val"] for node in program.graph.nodes if node.name == first_input)
    _check_batch(path, pixels.shape[0], program.range_constraints)
    lengths = tuple(each if isinstance(each, int) else None for each in pixels.shape)
    return NetworkInput(lengths, str(pixels.dtype).removeprefix("torch.")), partial(_feed_pt2, module)


def _check_batch(path: Path, length: Any, ranges: Any) -> None:
    """Refuse a program that does not take batches of each size up to `MAX_BATCH`."""
    if isinstance(length, int):
        taken = f"only batches of {length}"
    else:
        bounds = ranges.get(length.node.expr)
        if bounds is None or (bounds.lower <= 2 and bounds.upper >= MAX_BATCH):
            return
        taken = f"batches of {bounds.lower} to {bounds.upper}"
    raise BundleBuildError(
        f'{path} takes {taken}: export it with a free batch size: dynamic_shapes=({{0: Dim("batch")}},)'
    )


def _feed_pt2(module: Any, form: NetworkForm) -> tuple[Answers, Write]:
    network = _torch_with_rgb_in(module, form)
    return torch_answers(network), lambda activation, folder: export_torch(
        network, form.preprocess.input_shape, folder, activation
    )


def _torch_with_rgb_in(module: Any, form: NetworkForm) -> "nn.Module":
    """Return the program with the input that a worker feeds, float32 RGB planes, and outputs in float32."""
    torch = import_torch()

    class Whole(torch.nn.Module):  # type: ignore[misc, name-defined, unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.program = module

        def train(self, mode: bool = True) -> "nn.Module":  # noqa: ARG002
            return self  # an exported program has no modes, and refuses to be asked

        def forward(self, pixels: "Tensor") -> "Tensor":
            if form.channels == "bgr":
                pixels = pixels.flip(1)
            if form.channels == "grey":
                pixels = (pixels * torch.tensor(_GREY).reshape(1, 3, 1, 1)).sum(1, keepdim=True)
            if form.layout == "nhwc":
                pixels = pixels.permute(0, 2, 3, 1)
            outputs: Tensor = self.program(pixels.to(getattr(torch, form.element_type)))
            return outputs.float()

    return Whole()


def _check_ends(path: Path, inputs: int, outputs: int) -> None:
    if (inputs, outputs) != (1, 1):
        raise BundleBuildError(
            f"{path} has {inputs} inputs and {outputs} outputs: "
            "export a network with one image input and one output of logits"
        )
