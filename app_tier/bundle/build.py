"""Build a bundle from a torch network: export it, convert it, measure that both answer the same, write it whole.

This is build time: it needs torch, which a worker never imports.
"""

import shutil
import tempfile
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from app_tier.bundle.errors import BundleBuildError
from app_tier.bundle.load import Bundle, load_bundle
from app_tier.bundle.manifest import (
    IR_NAME,
    IR_WEIGHTS_NAME,
    MANIFEST_NAME,
    TORCH_NAME,
    Agreement,
    Manifest,
    file_digest,
)
from app_tier.bundle.torch_import import export_warnings_off, import_torch
from app_tier.demo.signs import samples
from app_tier.engines import open_engine
from app_tier.openvino_import import import_converter, import_openvino
from app_tier.preprocess import Preprocess, load_pixels

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

AGREEMENT_IMAGES: Final = 32
"""Images on which OpenVINO is compared with torch when a bundle is built."""

_LARGEST_BATCH: Final = 4096


@dataclass(frozen=True)
class Description:
    """What a bundle says about its network, and the network does not know itself; fields as in `Manifest`."""

    name: str
    architecture: str
    preprocess: Preprocess
    labels: tuple[str, ...]
    messages: Mapping[str, str] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)


def build_bundle(network: "nn.Module", description: Description, out: Path) -> Bundle:
    """Write the bundle of a torch network that maps float [N, 3, H, W] to logits [N, classes] to folder `out`.

    A bundle that is in `out` already is replaced, once the new one is complete.

    Raises:
        BundleBuildError: the network and the description do not fit, or `out` holds something else.
    """
    _check_replaceable(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with _folder_beside(out) as folder:
        _export(network, description, folder)
        manifest = _manifest(description, folder)
        write_manifest(manifest, folder)
        agreement = measure_agreement(load_bundle(folder))
        write_manifest(manifest.model_copy(update={"agreement": agreement}), folder)
        if out.exists():
            shutil.rmtree(out)
        folder.rename(out)
    return load_bundle(out)


def write_manifest(manifest: Manifest, folder: Path) -> None:
    """Write ``bundle.json``."""
    (folder / MANIFEST_NAME).write_text(manifest.model_dump_json(indent=1) + "\n")


def measure_agreement(bundle: Bundle, images: int = AGREEMENT_IMAGES) -> Agreement:
    """Ask OpenVINO and torch about the same drawn images and compare their probabilities."""
    spec = bundle.manifest.preprocess
    batch = np.stack([load_pixels(sample.data, spec) for sample in samples(images, seed=7)])
    ours, reference = (open_engine(name, bundle).infer(batch) for name in ("openvino", "torch"))
    return Agreement(
        images=images,
        same_top1=float(np.mean(ours.argmax(1) == reference.argmax(1))),
        largest_difference=float(np.abs(ours - reference).max()),
    )


def _export(network: "nn.Module", description: Description, folder: Path) -> None:
    """Write the network, with softmax at its end and a free batch size, for torch and for OpenVINO."""
    torch = import_torch()
    size = description.preprocess.input_size
    whole = torch.nn.Sequential(network, torch.nn.Softmax(dim=1)).eval()
    whole.to("cpu", torch.float32, memory_format=torch.contiguous_format)
    example = torch.zeros(2, 3, size, size)
    with export_warnings_off():
        batch = torch.export.Dim("batch", min=1, max=_LARGEST_BATCH)
        program = torch.export.export(whole, (example,), dynamic_shapes=({0: batch},))
        _check_outputs(program.module()(example), description)
        _forget_source_lines(program)
        torch.export.save(program, folder / TORCH_NAME)
        model = import_converter()(program)
    model.reshape([-1, 3, size, size])
    import_openvino().save_model(model, folder / IR_NAME, compress_to_fp16=False)


def _check_outputs(outputs: Any, description: Description) -> None:
    if outputs.ndim != 2 or outputs.shape[1] != len(description.labels):
        raise BundleBuildError(
            f"{description.name} has outputs of shape {tuple(outputs.shape)} but {len(description.labels)} labels: "
            "give one label per output"
        )


def _forget_source_lines(program: Any) -> None:
    """Drop the files and lines that torch notes on every node: they are this machine's, and half of the file."""
    for node in program.graph.nodes:
        for key in ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "from_node"):
            node.meta.pop(key, None)


def _manifest(description: Description, folder: Path) -> Manifest:
    return Manifest(
        name=description.name,
        architecture=description.architecture,
        files={name: file_digest(folder / name) for name in (IR_NAME, IR_WEIGHTS_NAME, TORCH_NAME)},
        preprocess=description.preprocess,
        labels=description.labels,
        messages=dict(description.messages),
        provenance=dict(description.provenance),
    )


def _check_replaceable(out: Path) -> None:
    if out.exists() and not (out / MANIFEST_NAME).exists() and (not out.is_dir() or any(out.iterdir())):
        raise BundleBuildError(f"{out} exists and is not a bundle: name another folder with --out")


@contextmanager
def _folder_beside(out: Path) -> "Iterator[Path]":
    """A new folder on the same disk as `out`, so that it can be renamed; gone afterwards if it was not."""
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
