"""Bundles to measure with: torchvision's ResNets with random weights, built once and kept."""

from pathlib import Path

from app_tier.bundle.errors import BundleError
from app_tier.bundle.load import Bundle, load_bundle
from scripts.model.torchvision_networks import RANDOM, build_torchvision
from scripts.run.system import ROOT

KEPT = ROOT / ".fleetsight" / "bench"


def random_network(architecture: str, kept: Path = KEPT) -> Bundle:
    """Return the bundle of `architecture`, such as ``resnet18``, at its published input size.

    Random weights cost what trained ones cost; only the answers mean nothing.

    Raises:
        BundleError: it cannot be built, since torch or torchvision is not installed.
    """
    folder = kept / architecture
    try:
        return load_bundle(folder)
    except BundleError:
        return build_torchvision(architecture, folder, RANDOM)
