"""The networks that a bundle is built of without torch: OpenVINO's graph, from weights by their names in torch.

The ResNets are those of torchvision (https://docs.pytorch.org/vision/stable/models.html), EfficientNet-Lite0 is that
of https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite. Each batch normalisation is folded
into the convolution before it, and softmax comes last: float32 [N, 3, size, size] to probabilities [N, classes].
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from app_tier.bundle import BundleBuildError
from app_tier.engine_imports import import_openvino
from scripts.model.pretrained import ResNet

op: Any = import_openvino().opset13
Node = Any
"""An operation of an OpenVINO graph, or one of its outputs."""


def channels_of(x: Node) -> int:
    """Return the channels of an operation's output [N, channels, ...]."""
    return int((x.output(0) if hasattr(x, "output") else x).get_partial_shape()[1].get_length())


class Weights:
    """The parameters of one network, each of which is taken once, in the shape that the network needs.

    Args:
        arrays: by name; what ends with ``num_batches_tracked`` belongs to training.
        network: what they are to fit, for messages.
    """

    def __init__(self, arrays: Mapping[str, Any], network: str) -> None:
        self._left = {name: array for name, array in arrays.items() if not name.endswith(".num_batches_tracked")}
        self._network = network
        self.taken: dict[str, NDArray[np.float32]] = {}

    def take(self, name: str, *shape: int) -> NDArray[np.float32]:
        """Return the parameter `name`, float32.

        Raises:
            BundleBuildError: it is missing, has another shape, or has values that are no finite numbers.
        """
        array = self._left.pop(name, None)
        if not isinstance(array, np.ndarray):
            raise self._misfit(f"{name} is missing")
        if array.shape != shape:
            raise self._misfit(f"{name} has the shape {list(array.shape)} instead of {list(shape)}")
        if not np.isfinite(array).all():
            raise self._misfit(f"{name} holds infinity or what is no number")
        self.taken[name] = np.ascontiguousarray(array, np.float32)
        return self.taken[name]

    def refuse_others(self) -> None:
        """Check that the network has taken every parameter.

        Raises:
            BundleBuildError: it has not, so they are another network's.
        """
        if self._left:
            raise self._misfit(f"{min(self._left)[:100]} is not one of its parameters")

    def _misfit(self, reason: str) -> BundleBuildError:
        question = "is it the right network, and one label per class?"
        return BundleBuildError(f"the weights do not fit {self._network}: {reason} ({question})")


class RandomWeights(Weights):
    """Parameters of any shape, always the same: they compute as long as trained ones, and mean nothing."""

    def take(self, name: str, *shape: int) -> NDArray[np.float32]:
        """Return a start for training: ones and zeros for a normalisation, otherwise He's normal distribution."""
        if len(shape) == 1:
            array = np.full(shape, float(name.endswith(("weight", "running_var"))), np.float32)
        else:
            deviation = np.sqrt(2 * shape[1] / np.prod(shape))
            array = deviation * np.random.default_rng(len(self.taken)).standard_normal(shape, np.float32)
        self.taken[name] = array.astype(np.float32, copy=False)
        return self.taken[name]


@dataclass(frozen=True)
class _Layers:
    """Layers with their weights.

    Attributes:
        weights: by the names that the layers have in torch.
        epsilon: what a normalisation adds to the variance.
        padding: ``explicit`` for half of the kernel at each side, or ``same_upper`` as TensorFlow pads.
    """

    weights: Weights
    epsilon: float
    padding: str

    def convolution(
        self, x: Node, name: str, norm: str, filters: int, kernel: int, *, stride: int = 1, groups: int = 1
    ) -> Node:
        """Return a convolution with its normalisation."""
        weight = self.weights.take(f"{name}.weight", filters, channels_of(x) // groups, kernel, kernel)
        mean, variance = (self.weights.take(f"{norm}.running_{each}", filters) for each in ("mean", "var"))
        gain = self.weights.take(f"{norm}.weight", filters) / np.sqrt(variance + np.float32(self.epsilon))
        bias = self.weights.take(f"{norm}.bias", filters) - mean * gain
        folded = (weight * gain[:, None, None, None]).reshape(groups, filters // groups, *weight.shape[1:])
        convolve, kernels = (op.group_convolution, folded) if groups > 1 else (op.convolution, folded[0])
        pads = [kernel // 2] * 2
        x = convolve(x, op.constant(kernels), [stride] * 2, pads, pads, [1, 1], self.padding)
        return op.add(x, op.constant(bias.reshape(1, -1, 1, 1)))

    def probabilities(self, x: Node, name: str, classes: int) -> Node:
        """Return the last layers: mean of each channel, linear layer, softmax."""
        features = op.reduce_mean(x, op.constant([2, 3]), keep_dims=False)
        weight = self.weights.take(f"{name}.weight", classes, channels_of(x))
        bias = self.weights.take(f"{name}.bias", classes)
        logits = op.add(op.matmul(features, op.constant(weight), False, True), op.constant(bias.reshape(1, -1)))
        return op.softmax(logits, 1)


def network_graph(architecture: ResNet | None, weights: Weights, classes: int, size: int) -> Any:
    """Return the OpenVINO model of a ResNet, or of EfficientNet-Lite0, for images of `size` x `size` pixels.

    Raises:
        BundleBuildError: the weights do not fit.
    """
    images = op.parameter([-1, 3, size, size], np.float32, name="images")
    outputs = _resnet(architecture, weights, images, classes) if architecture else _lite0(weights, images, classes)
    weights.refuse_others()
    return import_openvino().Model([outputs], [images], "network")


def _resnet(architecture: ResNet, weights: Weights, images: Node, classes: int) -> Node:
    layers = _Layers(weights, 1e-5, "explicit")

    def block(x: Node, name: str, channels: int, stride: int) -> Node:
        if architecture.is_deep:
            width, filters = channels * architecture.width // 64 * architecture.groups, 4 * channels
            y = op.relu(layers.convolution(x, f"{name}.conv1", f"{name}.bn1", width, 1))
            how = {"stride": stride, "groups": architecture.groups}
            y = op.relu(layers.convolution(y, f"{name}.conv2", f"{name}.bn2", width, 3, **how))
            y = layers.convolution(y, f"{name}.conv3", f"{name}.bn3", filters, 1)
        else:
            filters = channels
            y = op.relu(layers.convolution(x, f"{name}.conv1", f"{name}.bn1", filters, 3, stride=stride))
            y = layers.convolution(y, f"{name}.conv2", f"{name}.bn2", filters, 3)
        if channels_of(x) != filters:
            x = layers.convolution(x, f"{name}.downsample.0", f"{name}.downsample.1", filters, 1, stride=stride)
        return op.relu(op.add(x, y))

    x = op.relu(layers.convolution(images, "conv1", "bn1", 64, 7, stride=2))
    x = op.max_pool(x, [2, 2], [1, 1], [1, 1], [1, 1], [3, 3]).output(0)
    for stage, blocks in enumerate(architecture.blocks):
        for number in range(blocks):
            x = block(x, f"layer{stage + 1}.{number}", 64 << stage, 2 if stage and not number else 1)
    return layers.probabilities(x, "fc", classes)


_LITE0_STAGES: Final = (
    (1, 16, 3, 1, 1),
    (2, 24, 3, 2, 6),
    (2, 40, 5, 2, 6),
    (3, 80, 3, 2, 6),
    (3, 112, 5, 1, 6),
    (4, 192, 5, 2, 6),
    (1, 320, 3, 1, 6),
)
"""Blocks, channels, kernel, stride of the first block, and times as many channels within a block."""


def _lite0(weights: Weights, images: Node, classes: int) -> Node:
    """Return the answers of EfficientNet-Lite0."""
    layers = _Layers(weights, 1e-3, "same_upper")

    def convolution(x: Node, name: str, norm: str, filters: int, kernel: int, **how: int) -> Node:
        return op.clamp(layers.convolution(x, name, norm, filters, kernel, **how), 0.0, 6.0)

    x = convolution(images, "_conv_stem", "_bn0", 32, 3, stride=2)
    names = (f"_blocks.{number}." for number in count())
    for blocks, filters, kernel, stride, expansion in _LITE0_STAGES:
        for number in range(blocks):
            block, y, expanded = next(names), x, expansion * channels_of(x)
            if expansion > 1:
                y = convolution(y, f"{block}_expand_conv", f"{block}_bn0", expanded, 1)
            how = {"stride": 1 if number else stride, "groups": expanded}
            y = convolution(y, f"{block}_depthwise_conv", f"{block}_bn1", expanded, kernel, **how)
            y = layers.convolution(y, f"{block}_project_conv", f"{block}_bn2", filters, 1)
            x = op.add(x, y) if number else y
    return layers.probabilities(convolution(x, "_conv_head", "_bn1", 1280, 1), "_fc", classes)
