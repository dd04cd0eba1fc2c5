"""Bundles to measure with, built once and kept: ResNets with random weights."""

from app_tier.bundle import Bundle, load_bundle
from core.bundle_manifest import BundleError
from scripts.model.named_network import RANDOM, build_named
from scripts.run.system import ROOT

KEPT = ROOT / ".fleetsight" / "bench"


def random_network(architecture: str) -> Bundle:
    """Return the bundle of `architecture`, such as ``resnet18``, at its published input size.

    Random weights cost what trained ones cost; only the answers mean nothing.

    Raises:
        BundleError: it cannot be built.
    """
    folder = KEPT / architecture
    try:
        return load_bundle(folder)
    except BundleError:
        return build_named(architecture, folder, RANDOM)
