"""How a network was trained to see images, as timm and Hugging Face publish it beside the weights.

The files are timm's ``config.json`` (`pretrained_cfg`, https://huggingface.co/docs/timm), and transformers'
``preprocessor_config.json`` and ``config.json`` (https://huggingface.co/docs/transformers).
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from app_tier.bundle import BundleBuildError

_FILES: Final = ("config.json", "preprocessor_config.json")
_RESAMPLE: Final = {1: "lanczos", 2: "bilinear", 3: "bicubic"}
"""Pillow's numbers of filters that a bundle can state."""

_WARPED_FROM: Final = 384
"""Pixels from which transformers stretches images for ConvNeXt, and ignores `crop_pct`."""


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
            stated = json.loads(path.read_text(encoding="utf-8"))
            settings |= dict(_settings_in(stated))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, ZeroDivisionError) as error:
            raise BundleBuildError(f"{path} cannot be read: {type(error).__name__} {error}") from error
        except _UnsupportedError as error:
            raise BundleBuildError(
                f"{path} states {error}, which a bundle cannot: leave out --from, and describe the network in --spec"
            ) from error
    return settings


class _UnsupportedError(Exception):
    """Raised for a value that has no counterpart in a bundle; the message is the key with the value."""


def _settings_in(stated: dict[str, Any]) -> Iterator[tuple[str, Any]]:
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
