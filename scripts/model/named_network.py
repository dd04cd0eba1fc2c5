"""Bundles of the networks that have a name here: with their published weights, or with the user's own."""

from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from app_tier.bundle import Bundle, BundleBuildError, file_digest
from app_tier.engine_imports import import_openvino, import_torch
from core.bundle_manifest import IR_NAME
from scripts.model.build import FP32, Description, export_program, write_bundle
from scripts.model.networks import RandomWeights, Weights, network_graph
from scripts.model.precision import Target
from scripts.model.pretrained import PRETRAINED_MODELS, imagenet_labels, pretrained_weights
from scripts.model.weights_file import read_weights

PUBLISHED: Final = "published"
RANDOM: Final = "random"


def build_named(
    name: str,
    out: Path,
    weights: str | Path = PUBLISHED,
    labels: tuple[str, ...] | None = None,
    target: Target = FP32,
    *,
    with_torch: bool = False,
) -> Bundle:
    """Build the bundle of a network of `PRETRAINED_MODELS`.

    Args:
        name: such as ``photos``, ``resnet18`` or ``wide_resnet50_2``.
        out: the bundle's folder.
        weights: ``"published"``, a file with a state dict, or ``"random"`` (answers mean nothing; for measurements).
        labels: one per class; may be left out where the classes are ImageNet's.
        target: precision of the answers, and images to measure it on.
        with_torch: also write the network for the engine torch, and compare; needs torch and torchvision.

    Raises:
        BundleBuildError: no such network, or weights and labels that do not fit it.
    """
    if name not in PRETRAINED_MODELS:
        raise BundleBuildError(f"no network {name!r}: choose one of {', '.join(PRETRAINED_MODELS)}")
    model = PRETRAINED_MODELS[name]
    if with_torch and model.resnet is None:
        raise BundleBuildError(f"torchvision has no network of {name}: leave out --with-torch, or choose a ResNet")
    names = labels or imagenet_labels()
    parameters, provenance = _parameters(name, weights, len(names))
    short = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in Path(weights).stem)[:60]
    size = model.preprocess.input_size
    description = Description(
        name=name if weights == PUBLISHED else f"{name}-{short}",
        architecture=name if model.resnet else "efficientnet-lite0",
        preprocess=model.preprocess,
        labels=names,
        provenance=provenance | {"versions": {"openvino": version("openvino")}},
    )

    def export(folder: Path) -> None:
        graph = network_graph(model.resnet, parameters, len(names), size)
        import_openvino().save_model(graph, folder / IR_NAME, compress_to_fp16=False)
        if with_torch:
            export_program(_torchvision_network(name, parameters, len(names)), (size, size), folder)

    return write_bundle(export, description, out, target)


def _parameters(name: str, weights: str | Path, classes: int) -> tuple[Weights, dict[str, Any]]:
    """Return the network's parameters, and what a bundle says of them."""
    if weights == RANDOM:
        return RandomWeights({}, name), {"weights": "random: answers mean nothing"}
    path = pretrained_weights(name) if weights == PUBLISHED else Path(weights)
    parameters = Weights(read_weights(path), f"{name} with {classes} labels")
    published = dict(PRETRAINED_MODELS[name].provenance) if weights == PUBLISHED else {}
    return parameters, {"weights": path.name, "sha256": file_digest(path)} | published


def _torchvision_network(name: str, parameters: Weights, classes: int) -> Any:
    torch = import_torch()
    try:
        from torchvision import models
    except ImportError as error:
        raise BundleBuildError("torchvision is not installed: run ./scripts/setup.sh torch") from error
    network = models.get_model(name, weights=None, num_classes=classes)
    network.load_state_dict({key: torch.tensor(array) for key, array in parameters.taken.items()})
    return network
