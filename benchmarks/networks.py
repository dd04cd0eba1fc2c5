"""Bundles to measure with, built once and kept: ResNets with random weights, and networks in low precision."""

import shutil
from pathlib import Path

from app_tier.bundle import DEMO_BUNDLE, Bundle, BundleError, Precision, load_bundle
from scripts.model.build import write_manifest
from scripts.model.precision import Target, choose_precision
from scripts.model.torchvision_networks import RANDOM, build_torchvision
from scripts.run.system import ROOT

KEPT = ROOT / ".fleetsight" / "bench"


def random_network(architecture: str) -> Bundle:
    """Return the bundle of `architecture`, such as ``resnet18``, at its published input size.

    Random weights cost what trained ones cost; only the answers mean nothing.

    Raises:
        BundleError: it cannot be built, since torch or torchvision is not installed.
    """
    folder = KEPT / architecture
    try:
        return load_bundle(folder)
    except BundleError:
        return build_torchvision(architecture, folder, RANDOM)


def quantised_network(architecture: str) -> Bundle:
    """Return a bundle of `architecture` with random weights that holds an int8 network too, where this CPU is fast.

    Raises:
        BundleError: it cannot be built, since torch, torchvision or nncf is not installed.
    """
    folder = KEPT / f"{architecture}-int8"
    try:
        return load_bundle(folder)
    except BundleError:
        return build_torchvision(architecture, folder, RANDOM, target=Target("int8", force=True))


def demo_network(precision: Precision) -> Bundle:
    """Return the demo bundle in `precision`; it is fp32 where this CPU is not fast in that.

    Raises:
        BundleError: it cannot be built, since nncf is not installed.
    """
    folder = KEPT / f"demo-{precision}"
    try:
        return load_bundle(folder)
    except BundleError:
        shutil.rmtree(folder, ignore_errors=True)
        bundle = load_bundle(Path(shutil.copytree(DEMO_BUNDLE, folder)))
        settled = choose_precision(bundle, Target(precision, force=True))
        write_manifest(bundle.manifest.model_copy(update=settled), folder)
        return load_bundle(folder)
