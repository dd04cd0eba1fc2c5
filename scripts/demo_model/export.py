"""The end of the demo network's training: export it, then measure the bundle itself, as a worker would run it."""

import platform
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from app_tier.bundle.load import Bundle, load_bundle
from app_tier.engines import Engine, open_engine
from app_tier.preprocess import normalise
from scripts.demo_model.data import CIFAR_LABELS, DEMO_LABELS, DEMO_PREPROCESS, Images, drawn_signs
from scripts.model.build import Description, build_bundle, write_manifest

if TYPE_CHECKING:
    from scripts.demo_model.network import CifarResNet
    from scripts.demo_model.training import Settings

FRESH_SIGNS: Final = 10_000
"""Signs drawn to measure the trained network."""

FRESH_SEED: Final = 1_000_003
"""Another seed than any training uses by default: signs that the network has not seen."""

_PACKAGES: Final = ("torch", "openvino", "numpy", "pillow")


def finish(
    network: "CifarResNet",
    settings: "Settings",
    cifar_test: Images,
    out: Path,
    report: Callable[..., None],
    fresh_signs: int = FRESH_SIGNS,
) -> Bundle:
    """Write the demo bundle with its measured figures in its provenance.

    Args:
        network: trained.
        settings: of its training.
        cifar_test: CIFAR-10's 10,000 test images.
        out: the bundle's folder.
        report: called with each total as a keyword.
        fresh_signs: how many signs to draw for the measurement.
    """
    bundle = build_bundle(network, _describe(settings), out)
    engine = open_engine("openvino", bundle, threads=2)
    confusion = np.zeros((len(DEMO_LABELS), len(DEMO_LABELS)), np.int64)
    figures: dict[str, Any] = {}
    for name, images in (("cifar_test", cifar_test), ("signs", drawn_signs(fresh_signs, FRESH_SEED))):
        part = count_answers(engine, images)
        figures[name] = {"images": len(images), "accuracy": round(float(part.trace() / part.sum()), 4)}
        confusion += part
        report(bundle_on=name, **figures[name])
    return _record(bundle, {**figures, **_per_class(confusion)})


def count_answers(engine: Engine, images: Images, batch: int = 200) -> NDArray[np.int64]:
    """Count answers: row is the truth, column the answer, both as indices of `DEMO_LABELS`."""
    counts = np.zeros((len(DEMO_LABELS), len(DEMO_LABELS)), np.int64)
    for start in range(0, len(images), batch):
        pixels = [normalise(square, DEMO_PREPROCESS) for square in images.pixels[start : start + batch]]
        answers = engine.infer(np.stack(pixels)).argmax(1)
        np.add.at(counts, (images.labels[start : start + batch], answers), 1)
    return counts


def _describe(settings: "Settings") -> Description:
    depth = 6 * settings.blocks + 2
    return Description(
        name="demo",
        architecture=f"cifar-resnet{depth}",
        preprocess=DEMO_PREPROCESS,
        labels=DEMO_LABELS,
        provenance={
            "source": "scripts/demo_model/training.py",
            "paper": "He et al. 2015, https://arxiv.org/abs/1512.03385, section 4.2",
            "data": f"CIFAR-10 ({', '.join(CIFAR_LABELS)}) and road signs drawn by scripts/demo_model/signs.py",
            "settings": asdict(settings),
            "versions": {name: version(name) for name in _PACKAGES} | {"python": platform.python_version()},
        },
    )


def _per_class(confusion: NDArray[np.int64]) -> dict[str, Any]:
    shares = confusion.diagonal() / confusion.sum(axis=1).clip(min=1)
    return {
        "accuracy_per_class": {label: round(float(s), 4) for label, s in zip(DEMO_LABELS, shares, strict=True)},
        "confusion": {"rows": "truth", "columns": "answer", "labels": "as in labels", "counts": confusion.tolist()},
    }


def _record(bundle: Bundle, figures: dict[str, Any]) -> Bundle:
    provenance = {**bundle.manifest.provenance, "measured_with": "openvino, float32", "measured": figures}
    write_manifest(bundle.manifest.model_copy(update={"provenance": provenance}), bundle.folder)
    return load_bundle(bundle.folder)
