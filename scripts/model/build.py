"""Build a bundle: have its network written, measure how it answers, and put it in its place whole or not at all.

This is build time: a torch network needs torch, which a worker never imports.
"""

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from app_tier.bundle import Bundle, BundleBuildError, file_digest, load_bundle
from app_tier.engine_imports import export_warnings_off, import_openvino, import_torch, not_importable
from app_tier.engines import Batch, open_engine
from app_tier.preprocess import load_pixels
from core.bundle_facts import MANIFEST_NAME
from core.bundle_manifest import IR_NAME, IR_WEIGHTS_NAME, TORCH_NAME, Agreement, Manifest, Preprocess
from scripts.demo_model.signs import samples
from scripts.model.precision import Target, choose_precision

if TYPE_CHECKING:
    from torch import nn

FP32: Final = Target()
"""Computed as the network was trained: no images needed."""

AGREEMENT_IMAGES: Final = 32
"""Images on which OpenVINO is compared with torch when a bundle is built."""

_NETWORK_FILES: Final = (IR_NAME, IR_WEIGHTS_NAME, TORCH_NAME)


@dataclass(frozen=True)
class Description:
    """What a bundle says about its network, and the network does not know itself; fields as in `Manifest`."""

    name: str
    architecture: str
    preprocess: Preprocess
    labels: tuple[str, ...]
    messages: Mapping[str, str] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)


def write_bundle(export: Callable[[Path], None], description: Description, out: Path, target: Target) -> Bundle:
    """Write the bundle to folder `out`; `export` writes its network files into the folder that it is given.

    A bundle that is in `out` already is replaced, once the new one is complete. One that is wanted in low precision
    is measured against fp32; it stays fp32 where this CPU is not fast in what is wanted, and cannot measure it.

    Raises:
        BundleBuildError: `out` holds something else; and the errors of `export`.
    """
    if out.exists() and not (out / MANIFEST_NAME).exists() and (not out.is_dir() or any(out.iterdir())):
        raise BundleBuildError(f"{out} exists and is not a bundle: name another folder with --out")
    out.parent.mkdir(parents=True, exist_ok=True)
    # On the same disk as `out`, so that it can be renamed.
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    folder.chmod(0o755)
    try:
        export(folder)
        manifest = Manifest(
            name=description.name,
            architecture=description.architecture,
            files={name: file_digest(folder / name) for name in _NETWORK_FILES if (folder / name).exists()},
            preprocess=description.preprocess,
            labels=description.labels,
            messages=dict(description.messages),
            provenance=dict(description.provenance),
        )
        write_manifest(manifest, folder)
        plain = load_bundle(folder)
        agreement = measure_agreement(plain) if TORCH_NAME in manifest.files else None
        settled = {"agreement": agreement, **choose_precision(plain, target)}
        write_manifest(manifest.model_copy(update=settled), folder)
        if out.exists():
            shutil.rmtree(out)
        folder.rename(out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return load_bundle(out)


def write_manifest(manifest: Manifest, folder: Path) -> None:
    """Write ``bundle.json``."""
    # The digest is stated, so that other programs can name the bundle as results do.
    stated = {"digest": manifest.digest, **manifest.model_dump(mode="json")}
    (folder / MANIFEST_NAME).write_text(json.dumps(stated, indent=1, ensure_ascii=False) + "\n")


def measure_agreement(bundle: Bundle, images: int = AGREEMENT_IMAGES) -> Agreement:
    """Ask OpenVINO and torch about the same drawn images and compare their probabilities, both in fp32."""
    spec = bundle.manifest.preprocess
    batch = np.stack([load_pixels(sample.data, spec) for sample in samples(images, seed=7)])
    ours, reference = (open_engine(name, bundle, precision="fp32").infer(batch) for name in ("openvino", "torch"))
    return Agreement(
        images=images,
        same_top1=float(np.mean(ours.argmax(1) == reference.argmax(1))),
        largest_difference=float(np.abs(ours - reference).max()),
    )


MAX_BATCH: Final = 4096
Activation = Literal["softmax", "sigmoid"]


def torch_answers(network: "nn.Module") -> Callable[[Batch], Batch]:
    """Return a function that maps pixels, float32 [N, 3, H, W], to the outputs of `network`."""
    torch = import_torch()

    def answers(pixels: Batch) -> Batch:
        with torch.inference_mode():
            outputs: Batch = network(torch.from_numpy(pixels)).numpy()
        return outputs

    return answers


def export_torch(network: "nn.Module", shape: tuple[int, int], folder: Path, activation: Activation | None) -> None:
    """Write `network`, which maps float [N, 3, *shape] to outputs [N, classes], for both engines.

    `activation` makes scores of its outputs; None if they are scores.
    """
    torch, openvino = import_torch(), import_openvino()
    ends = {None: torch.nn.Identity(), "softmax": torch.nn.Softmax(dim=1), "sigmoid": torch.nn.Sigmoid()}
    whole = torch.nn.Sequential(network, ends[activation]).eval()
    whole.to("cpu", torch.float32, memory_format=torch.contiguous_format)
    example = torch.zeros(2, 3, *shape)
    with export_warnings_off(), not_importable("openvino_telemetry"):  # which would be sent with each conversion
        from openvino.tools.ovc import convert_model

        batch = torch.export.Dim("batch", min=1, max=MAX_BATCH)
        program = torch.export.export(whole, (example,), dynamic_shapes=({0: batch},))
        # The files and lines that torch notes on every node are this machine's, and half of the file.
        for node in program.graph.nodes:
            for key in ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "from_node"):
                node.meta.pop(key, None)
        torch.export.save(program, folder / TORCH_NAME)
        model = convert_model(program)
    model.reshape([-1, 3, *shape])
    openvino.save_model(model, folder / IR_NAME, compress_to_fp16=False)
