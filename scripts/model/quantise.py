"""Quantise a bundle's network to int8: NNCF watches what lies between its layers, and picks a scale for each.

This is build time: NNCF needs torch, and a worker runs what was quantised with OpenVINO alone.
"""

import io
import logging
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import numpy as np

from app_tier.bundle.errors import BundleBuildError
from app_tier.bundle.load import Bundle
from app_tier.bundle.manifest import INT8_IR_NAME, INT8_WEIGHTS_NAME, IR_NAME, file_digest
from app_tier.engine_imports import import_openvino, not_importable
from scripts.model.sample_images import Labelled, decoded


def can_quantise() -> bool:
    """Whether NNCF is installed."""
    return find_spec("nncf") is not None


def quantise(bundle: Bundle, images: Iterable[Labelled]) -> tuple[Bundle, int]:
    """Write the int8 network of `bundle`, calibrated on `images`, beside the others.

    Returns:
        The bundle with its new files, of which ``bundle.json`` does not know yet, and how many images were used.

    Raises:
        BundleBuildError: NNCF is not installed or finds nothing to quantise, or no image can be decoded.
    """
    pixels = [image[np.newaxis] for image, _ in decoded(images, bundle.manifest)]
    if not pixels:
        raise BundleBuildError(
            "none of the images to calibrate int8 on can be classified: give a folder of JPEG or PNG files"
        )
    openvino = import_openvino()
    network = _quantised(openvino.Core().read_model(bundle.path(IR_NAME)), pixels)
    openvino.save_model(network, bundle.folder / INT8_IR_NAME, compress_to_fp16=False)
    written = {name: file_digest(bundle.folder / name) for name in (INT8_IR_NAME, INT8_WEIGHTS_NAME)}
    manifest = bundle.manifest.model_copy(update={"files": bundle.manifest.files | written})
    return replace(bundle, manifest=manifest, digest=manifest.digest), len(pixels)


def forget_int8(bundle: Bundle) -> Bundle:
    """Remove what `quantise` wrote, where it has turned out to be of no use."""
    files = dict(bundle.manifest.files)
    for name in (INT8_IR_NAME, INT8_WEIGHTS_NAME):
        if files.pop(name, None):
            (bundle.folder / name).unlink()
    manifest = bundle.manifest.model_copy(update={"files": files})
    return replace(bundle, manifest=manifest, digest=manifest.digest)


def _quantised(network: Any, pixels: list[Any]) -> Any:
    nncf = _nncf()
    try:
        with _silence():
            # Symmetric scales are the fast ones. The slower of NNCF's two bias corrections, which asks the network
            # again after each layer, lost a tenth of the accuracy that the quick one lost, in the same time.
            return nncf.quantize(
                network,
                nncf.Dataset(pixels),
                preset=nncf.QuantizationPreset.PERFORMANCE,
                subset_size=len(pixels),
                fast_bias_correction=False,
            )
    except Exception as error:  # NNCF has no common class for what it cannot do
        reason = " ".join(str(error).split())[:200]
        raise BundleBuildError(f"NNCF cannot quantise the network ({reason}): take --precision exact") from error


def _nncf() -> Any:
    try:
        with _silence():
            nncf = _import_nncf()
    except ImportError as error:
        raise BundleBuildError("nncf is not installed, which int8 needs: run ./scripts/setup.sh torch") from error
    # Not by nncf.set_log_level, which quietens every handler that the logger has, also those of others.
    logging.getLogger("nncf").setLevel(logging.ERROR)
    return nncf


@contextmanager
def _silence() -> Iterator[None]:
    """Keep back NNCF's bars, which it draws on standard output, and its warnings about packages of its own."""
    with redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _import_nncf() -> Any:
    """Import ``nncf``, without the telemetry that it would send with each use.

    Raises:
        ImportError: it is not installed.
    """
    import_openvino()
    with not_importable("openvino_telemetry"):
        import nncf
    return nncf
