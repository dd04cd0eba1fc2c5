"""Bundles of torchvision's networks by name: with the weights that torchvision publishes, or with the user's own."""

from pathlib import Path
from typing import Any, Final

from app_tier.bundle import Bundle, BundleBuildError, file_digest
from app_tier.engine_imports import import_torch
from core.bundle_manifest import Preprocess
from scripts.home import MODELS_FOLDER
from scripts.model.build import FP32, Description, export_torch, torch_answers, write_bundle
from scripts.model.network_checks import last_line, refuse_compressed, settle_outputs
from scripts.model.precision import Target

_AMBIGUOUS: Final = {"googlenet", "inception_v3"}
"""Networks that scale their input or not, which their state dict does not tell."""


def build_torchvision(
    name: str,
    out: Path | None = None,
    weights: Path | None = None,
    labels: tuple[str, ...] | None = None,
    target: Target = FP32,
) -> Bundle:
    """Build the bundle of torchvision's network `name`, which expects images as its published weights do.

    Args:
        name: such as ``resnet50`` or ``convnext_tiny``.
        out: the bundle's folder.
        weights: a file with a state dict of this network; None for the published weights, which are downloaded once.
        labels: one per class; may be left out where the classes are ImageNet's.
        target: precision of the answers, and images to measure it on.

    Raises:
        BundleBuildError: no such network, no download, or weights and labels that do not fit it.
    """
    torch = import_torch()
    try:
        from torchvision import models
    except ImportError as error:
        raise BundleBuildError("torchvision is not installed: run ./scripts/setup.sh torch") from error
    if name not in (known := models.list_models(module=models)):
        raise BundleBuildError(
            f"no network {name!r}: name a .onnx or .pt2 file, photos, or one of {', '.join(known)}"
        )
    published = models.get_model_weights(name).DEFAULT
    names = labels or tuple(published.meta["categories"])
    if weights is None:
        network = _download(models, name, published)
        provenance: dict[str, Any] = {
            "url": published.url,
            "licence": published.meta.get("license", "BSD-3-Clause"),
            "metrics": published.meta["_metrics"],
        }
        model_name = name
    else:
        if name in _AMBIGUOUS:
            raise BundleBuildError(f"a state dict does not say all about {name}: export your network to a .pt2 file")
        network = models.get_model(name, weights=None, num_classes=len(names))
        _load(torch, network, weights, f"{name} with {len(names)} labels")
        provenance = {"weights": weights.name, "sha256": file_digest(weights)}
        stem = "".join(each if each.isascii() and (each.isalnum() or each in "._-") else "-" for each in weights.stem)
        model_name = f"{name}-{stem[:60]}"
    preprocess = preprocess_of(published.transforms())
    network.eval()
    settle_outputs(torch_answers(network), preprocess, len(names), "logits")
    return write_bundle(
        lambda folder: export_torch(network, preprocess.input_shape, folder, "softmax"),
        Description(model_name, name, preprocess, names, provenance=provenance),
        out or MODELS_FOLDER / model_name,
        target,
    )


def preprocess_of(preset: Any) -> Preprocess:
    """Return what a bundle states for the transforms of published weights (`torchvision.transforms._presets`)."""
    return Preprocess(
        resize=preset.resize_size[0],
        crop=preset.crop_size[0],
        interpolation=preset.interpolation.value,
        mean=tuple(preset.mean),
        std=tuple(preset.std),
    )


def _download(models: Any, name: str, published: Any) -> Any:
    try:
        return models.get_model(name, weights=published)
    except (OSError, RuntimeError) as error:
        raise BundleBuildError(
            f"the weights cannot be downloaded from {published.url} ({error}): try again with a network, or put that "
            f"file into {Path(import_torch().hub.get_dir()) / 'checkpoints'}"
        ) from error


def _load(torch: Any, network: Any, path: Path, what: str) -> None:
    """Load a state dict; no code of the file is executed."""
    if not path.is_file():
        raise BundleBuildError(f"no weights file {path}: give the path of a state dict with --weights")
    refuse_compressed(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises errors of all kinds for a damaged or hostile file
        # Around the reason, torch explains how to load a file that executes code.
        reason = last_line(error.__context__ or error)
        raise BundleBuildError(
            f"{path} is not a state dict ({reason}): write it with torch.save(model.state_dict(), FILE)"
        ) from error
    try:
        network.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise BundleBuildError(
            f"the weights do not fit {what}: {last_line(error)} (is it the right network, and one label per class?)"
        ) from error
