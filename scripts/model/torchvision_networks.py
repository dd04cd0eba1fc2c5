"""Bundles of torchvision's ResNets: with their published ImageNet weights, or with the user's own."""

import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from app_tier.bundle import Bundle, BundleBuildError, file_digest
from app_tier.engine_imports import import_torch
from core.bundle_manifest import Preprocess
from scripts.model.build import FP32, Description, build_bundle
from scripts.model.precision import Target
from scripts.model.torchvision_import import import_torchvision

FAMILIES: Final = ("resnet", "resnext", "wide_resnet")
PUBLISHED: Final = "published"
RANDOM: Final = "random"
MAX_COMPLAINT: Final = 160
"""Characters of torch's reason why weights do not fit."""


@dataclass(frozen=True)
class _Weights:
    """A state dict, or None for the network's own random start, and what a bundle says of it."""

    state: dict[str, Any] | None
    labels: tuple[str, ...]
    preprocess: Preprocess
    provenance: dict[str, Any]


def build_torchvision(
    architecture: str,
    out: Path,
    weights: str | Path = PUBLISHED,
    labels: tuple[str, ...] | None = None,
    target: Target = FP32,
) -> Bundle:
    """Build the bundle of a torchvision ResNet.

    Args:
        architecture: a name such as ``resnet18``, ``resnext50_32x4d`` or ``wide_resnet50_2``.
        out: the bundle's folder.
        weights: ``"published"`` (ImageNet, downloaded once and hash-checked by torchvision), a file with a state
            dict, or ``"random"`` (answers mean nothing; for measurements).
        labels: one per class; may be left out where the classes are ImageNet's.
        target: precision of the answers, and images to measure it on.

    Raises:
        BundleBuildError: no such network, or weights and labels that do not fit it.
    """
    if architecture not in architectures():
        raise BundleBuildError(f"no network {architecture!r}: choose one of {', '.join(architectures())}")
    published = _models().get_model_weights(architecture).DEFAULT
    chosen = _choose(published, weights, labels)
    short = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in Path(weights).stem)[:60]
    description = Description(
        name=architecture if weights == PUBLISHED else f"{architecture}-{short}",
        architecture=architecture,
        preprocess=chosen.preprocess,
        labels=chosen.labels,
        provenance=chosen.provenance | {"versions": {p: version(p) for p in ("torch", "torchvision", "openvino")}},
    )
    return build_bundle(_network(architecture, chosen), description, out, target)


def architectures() -> tuple[str, ...]:
    """Every network of torchvision that a bundle can be built of."""
    models = _models()
    return tuple(name for name in models.list_models(module=models) if name.startswith(FAMILIES))


def _models() -> Any:
    import_torch()
    try:
        return import_torchvision().models
    except ImportError as error:
        raise BundleBuildError("torchvision is not installed: run ./scripts/setup.sh torch") from error


def _choose(published: Any, weights: str | Path, labels: tuple[str, ...] | None) -> _Weights:
    names = labels or tuple(published.meta["categories"])
    preset = published.transforms()
    preprocess = Preprocess(
        resize=preset.resize_size[0], crop=preset.crop_size[0], mean=tuple(preset.mean), std=tuple(preset.std)
    )
    if weights == PUBLISHED:
        source = {"weights": str(published), "url": published.url, "metrics": published.meta["_metrics"]}
        return _Weights(_download(published), names, preprocess, source)
    if weights == RANDOM:
        return _Weights(None, names, preprocess, {"weights": "random: answers mean nothing"})
    path = Path(weights)
    return _Weights(_read(path), names, preprocess, {"weights": path.name, "sha256": file_digest(path)})


def _download(published: Any) -> dict[str, Any]:
    try:
        state: dict[str, Any] = published.get_state_dict(progress=sys.stderr.isatty(), check_hash=True)
    except (OSError, RuntimeError) as error:
        raise BundleBuildError(
            f"the published weights cannot be downloaded from {published.url} ({error}): "
            "try again with a network, or give a file with --weights"
        ) from error
    return state


def _read(path: Path) -> dict[str, Any]:
    """Read a state dict, also one that a training script wrapped or that names its parallel wrapper."""
    if not path.is_file():
        raise BundleBuildError(f"no weights file {path}: give the path of a state dict with --weights")
    try:
        contents = import_torch().load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises errors of all kinds for files of other kinds
        raise BundleBuildError(
            f"{path} is not a state dict ({type(error).__name__}): write it with torch.save"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(contents, dict) and isinstance(contents.get(key), dict):
            contents = contents[key]
    if not isinstance(contents, dict):
        raise BundleBuildError(f"{path} holds a {type(contents).__name__}, not a state dict: save model.state_dict()")
    return {str(key).removeprefix("module."): value for key, value in contents.items()}


def _network(architecture: str, chosen: _Weights) -> Any:
    network = _models().get_model(architecture, weights=None, num_classes=len(chosen.labels))
    if chosen.state is None:
        return network
    try:
        network.load_state_dict(chosen.state)
    except RuntimeError as error:
        first = next(line.strip() for line in str(error).splitlines()[1:] if line.strip())
        # Without torch's list of every parameter that is missing; the first few show what the file is not.
        short = first if len(first) <= MAX_COMPLAINT else f"{first[:MAX_COMPLAINT]} …"
        raise BundleBuildError(
            f"the weights do not fit {architecture} with {len(chosen.labels)} labels: {short}"
            " (is it the right network, and one label per class?)"
        ) from error
    return network
