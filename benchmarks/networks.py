"""Bundles to measure with, built once and kept: ResNets with random weights, also in int8."""

from app_tier.bundle import Bundle, load_bundle
from core.bundle_manifest import BundleError
from scripts.model.named_network import RANDOM, build_named
from scripts.model.precision import Target
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


def quantised_network(architecture: str) -> Bundle:
    """Return a bundle of `architecture` with random weights that holds an int8 network too, where this CPU is fast.

    Raises:
        BundleError: it cannot be built, since torch, torchvision or nncf is not installed.
    """
    folder = KEPT / f"{architecture}-int8"
    try:
        return load_bundle(folder)
    except BundleError:
        return build_named(architecture, folder, RANDOM, target=Target("int8", force=True), with_torch=True)
