"""How a network was trained to see images, as others publish it: beside the weights, or in the file of the network.

The files are timm's ``config.json`` (`pretrained_cfg`, https://huggingface.co/docs/timm), transformers'
``preprocessor_config.json`` and ``config.json`` (https://huggingface.co/docs/transformers), an ``.onnx`` with
metadata, and the ``.keras`` that an ``.onnx`` was exported from. Of these two, only what is certain is read.
"""

import ast
import json
import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from app_tier.bundle import BundleBuildError
from app_tier.engine_imports import import_openvino

_FILES: Final = ("config.json", "preprocessor_config.json")
_RESAMPLE: Final = {1: "lanczos", 2: "bilinear", 3: "bicubic"}
"""Pillow's numbers of filters that a bundle can state."""

_WARPED_FROM: Final = 384
"""Pixels from which transformers stretches images for ConvNeXt, and ignores `crop_pct`."""

_MAX_CHARACTERS: Final = 8 * 2**20
"""Of the class names in an ``.onnx``, and of the ``config.json`` in a ``.keras``: no more is read."""

_PIXEL_FORMATS: Final = {"rgb8": "rgb", "bgr8": "bgr", "gray8": "grey"}
_PIXEL_RANGES: Final = {
    "nominalrange_0_255": (255, 0, 1),
    "normalized_0_1": (1, 0, 1),
    "normalized_1_1": (1, 0.5, 0.5),
}
"""White, mean and std by ONNX's names of formats (https://github.com/onnx/onnx/blob/main/docs/MetadataProps.md)."""

_PIXEL_SCALES: Final = (1 / 255, 1 / 127.5, 1 / 128)
"""What the layer Rescaling multiplies pixels from 0 to 255 by; others may be of any range."""


def published_settings(place: Path) -> dict[str, Any]:
    """Return keys and values of `NetworkSpec` from a published file, or from a folder with such files.

    Raises:
        BundleBuildError: it cannot be read, or states what a bundle cannot; the message names it.
    """
    files = [path for path in (place / name for name in _FILES) if path.is_file()] if place.is_dir() else [place]
    if not files:
        raise BundleBuildError(f"{place} has no {' or '.join(_FILES)}: give the folder that has one with --from")
    settings: dict[str, Any] = {}
    for path in files:
        try:
            settings |= dict(_READERS.get(path.suffix.lower(), _of_json)(path))
        except _UnsupportedError as error:
            raise BundleBuildError(
                f"{path} states {error}, which a bundle cannot: leave out --from, and describe the network in --spec"
            ) from error
        except Exception as error:  # a damaged or hostile file raises errors of all kinds
            reason = " ".join(str(error).split())[:200]
            raise BundleBuildError(f"{path} cannot be read: {type(error).__name__} {reason}") from error
    return settings


class _UnsupportedError(Exception):
    """Raised for a value that has no counterpart in a bundle; the message is the key with the value."""


def _of_json(path: Path) -> Iterator[tuple[str, Any]]:
    stated = json.loads(path.read_text(encoding="utf-8"))
    if labels := stated.get("id2label"):
        yield "labels", [labels[str(number)] for number in range(len(labels))]
    if labels := stated.get("label_names"):
        yield "labels", labels
    if stated.get("problem_type") == "multi_label_classification":
        yield "outputs", "sigmoid"
    if cfg := stated.get("pretrained_cfg"):
        yield from _of_timm(cfg)
    elif "image_mean" in stated or "do_resize" in stated:
        yield from _of_transformers(stated)


def _of_timm(cfg: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    planes, height, width = cfg["input_size"]
    share, mode = cfg.get("crop_pct") or 1.0, cfg.get("crop_mode") or "center"
    if mode == "center" and (planes, height) == (3, width):
        yield from (("fit", "crop"), ("resize", math.floor(height / share)))
    elif mode in {"squash", "border"} and planes == 3 and share == 1:
        yield "fit", "stretch" if mode == "squash" else "pad"
    else:
        raise _UnsupportedError(f"crop_mode {mode} with crop_pct {share} and input_size {cfg['input_size']}")
    yield from (("input_size", [height, width]), ("mean", cfg["mean"]), ("std", cfg["std"]))
    yield "interpolation", cfg.get("interpolation", "bilinear")


def _of_transformers(stated: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    size, share = stated["size"], stated.get("crop_pct")
    short = size.get("shortest_edge") if isinstance(size, dict) else size
    if stated.get("do_center_crop"):
        if short is None:
            raise _UnsupportedError(f"size {size} with do_center_crop")
        crop = stated["crop_size"]
        yield from (("fit", "crop"), ("resize", short))
        yield "input_size", [crop["height"], crop["width"]] if isinstance(crop, dict) else crop
    elif share and short and short < _WARPED_FROM:
        yield from (("fit", "crop"), ("resize", int(short / share)), ("input_size", short))
    elif short is None or share or not isinstance(size, dict):
        yield from (("fit", "stretch"), ("input_size", short or [size["height"], size["width"]]))
    else:
        raise _UnsupportedError(f"size {size} without do_center_crop")
    if (number := stated.get("resample", 2)) not in _RESAMPLE:
        raise _UnsupportedError(f"resample {number}")
    yield "interpolation", _RESAMPLE[number]
    factor = stated.get("rescale_factor", 1 / 255) if stated.get("do_rescale", True) else 1
    if factor != 1 and not math.isclose(factor, 1 / 255, rel_tol=1e-3):
        raise _UnsupportedError(f"rescale_factor {factor}")
    yield "input_range", [0, 255 if factor == 1 else 1]
    is_normal = stated.get("do_normalize", True)
    yield from (
        ("mean", stated["image_mean"] if is_normal else [0]),
        ("std", stated["image_std"] if is_normal else [1]),
    )


def _of_onnx(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield what an ONNX file states by ONNX's own names, as Custom Vision does, and by those of Ultralytics."""
    model = import_openvino().Core().read_model(path)

    def text(key: str) -> str:
        return str(model.get_rt_info(["framework", key]).astype(str)) if model.has_rt_info(["framework", key]) else ""

    if (task := text("task") or "classify") != "classify":
        raise _UnsupportedError(f"task {task}")
    if names := text("names"):  # as Python writes a dictionary or a list
        labels = ast.literal_eval(names[:_MAX_CHARACTERS])
        yield "labels", [labels[number] for number in range(len(labels))]
    if text("author") == "Ultralytics":  # https://docs.ultralytics.com/reference/data/augment/ has its transforms
        yield from (("fit", "crop"), ("mean", [0]), ("std", [1]), ("input_size", json.loads(text("imgsz"))))
    if (channels := _PIXEL_FORMATS.get(text("Image.BitmapPixelFormat").lower())) is not None:
        yield "channels", channels
    if (levels := _PIXEL_RANGES.get(text("Image.NominalPixelRange").lower())) is not None:
        white, mean, std = levels
        yield from (("input_range", [0, white]), ("mean", [mean]), ("std", [std]))


def _of_keras(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield the input's size, and its range if the network begins with the layer that scales it."""
    with zipfile.ZipFile(path) as archive, archive.open("config.json") as file:
        layers = list(_layers(json.loads(file.read(_MAX_CHARACTERS))))
    for kind, config in layers:
        shape = config.get("batch_shape") or config.get("batch_input_shape")
        if kind == "InputLayer" and shape and len(shape) == 4 and None not in shape[1:3]:
            yield "input_size", shape[1:3]
            break
    first = next(((kind, config) for kind, config in layers if not kind.startswith(("InputLayer", "Random"))), None)
    if first is not None and first[0] == "Rescaling" and first[1]["scale"] in _PIXEL_SCALES:
        yield from (("input_range", [0, 255]), ("mean", [0]), ("std", [1]))


def _layers(model: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield class and configuration of each layer, those of a network within it in its place."""
    for layer in model["config"]["layers"]:
        if "layers" in layer["config"]:
            yield from _layers(layer)
        else:
            yield layer["class_name"], layer["config"]


_READERS: Final = {".onnx": _of_onnx, ".keras": _of_keras}
