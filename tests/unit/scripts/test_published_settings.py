"""Settings that timm and Hugging Face publish become those of a bundle, or are named where they cannot."""

import json
import zipfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from app_tier.bundle import BundleBuildError
from scripts.model.network_spec import read_spec
from scripts.model.published_settings import published_settings
from tests.support.onnx_file import colour_network

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
RESNET = {"input_size": [3, 224, 224], "interpolation": "bicubic", "crop_pct": 0.95, "mean": MEAN, "std": STD}
PROCESSOR = {"resample": 3, "rescale_factor": 1 / 255, "image_mean": MEAN, "image_std": STD, "do_resize": True}
SQUARE = {"height": 224, "width": 224}
SHORT = {"shortest_edge": 224}


def published(folder: Path, **files: dict[str, Any]) -> dict[str, Any]:
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return published_settings(folder)


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ({}, {"fit": "crop", "resize": 235, "input_size": [224, 224], "interpolation": "bicubic", "mean": MEAN}),
        ({"crop_mode": "squash", "crop_pct": 1.0}, {"fit": "stretch", "input_size": [224, 224]}),
        ({"crop_mode": "border", "crop_pct": None}, {"fit": "pad", "std": STD}),
    ],
)
def test_timm_states_how_images_are_cut(stated: dict[str, Any], expected: dict[str, Any], tmp_path: Path) -> None:
    settings = published(tmp_path, config={"pretrained_cfg": RESNET | stated, "label_names": ["a", "b"]})
    assert {**settings, **expected} == settings
    assert settings["labels"] == ["a", "b"]


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ({"size": SQUARE}, {"fit": "stretch", "input_size": [224, 224], "interpolation": "bicubic"}),
        ({"size": 224}, {"fit": "stretch", "input_size": 224, "input_range": [0, 1], "mean": MEAN}),
        ({"size": SHORT, "crop_pct": 0.875}, {"fit": "crop", "resize": 256, "input_size": 224}),
        ({"size": {"shortest_edge": 384}, "crop_pct": 0.875}, {"fit": "stretch", "input_size": 384}),
        (
            {"size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": SQUARE, "do_rescale": False},
            {"fit": "crop", "resize": 256, "input_size": [224, 224], "input_range": [0, 255]},
        ),
        ({"size": SQUARE, "do_normalize": False}, {"mean": [0], "std": [1]}),
    ],
)
def test_transformers_state_how_images_are_cut(
    stated: dict[str, Any], expected: dict[str, Any], tmp_path: Path
) -> None:
    config = {"id2label": {"1": "dog", "0": "cat"}, "problem_type": "multi_label_classification"}
    settings = published(tmp_path, config=config, preprocessor_config=PROCESSOR | stated)
    assert {**settings, **expected} == settings
    assert (settings["labels"], settings["outputs"]) == (["cat", "dog"], "sigmoid")


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("config", {"pretrained_cfg": RESNET | {"crop_mode": "squash"}}, "crop_mode squash with crop_pct 0.95"),
        ("config", {"pretrained_cfg": {"input_size": 224}}, r"config.json cannot be read: TypeError"),
        ("preprocessor_config", PROCESSOR | {"size": SHORT}, "'shortest_edge': 224} without do_center_crop"),
        ("preprocessor_config", PROCESSOR | {"size": SQUARE, "do_center_crop": True}, "224} with do_center_crop"),
        ("preprocessor_config", PROCESSOR | {"size": 224, "resample": 0}, "states resample 0, which a bundle cannot"),
        ("preprocessor_config", PROCESSOR | {"size": 224, "rescale_factor": 0.5}, "states rescale_factor 0.5"),
        ("preprocessor_config", {"do_resize": True}, "cannot be read: KeyError 'size'"),
        ("other", {}, "has no config.json or preprocessor_config.json"),
    ],
)
def test_what_a_bundle_cannot_state_is_named(
    name: str, content: dict[str, Any], complaint: str, tmp_path: Path
) -> None:
    with pytest.raises(BundleBuildError, match=complaint):
        published(tmp_path, **{name: content})


ULTRALYTICS = {"task": "classify", "author": "Ultralytics", "imgsz": "[64, 96]", "names": "{0: 'cat', 1: \"dog's\"}"}
CUSTOM_VISION = {"Image.BitmapPixelFormat": "Bgr8", "Image.NominalPixelRange": "NominalRange_0_255"}
NO_MEAN = {"mean": [0], "std": [1]}


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({}, {}),
        (ULTRALYTICS, {"labels": ["cat", "dog's"], "fit": "crop", "input_size": [64, 96], **NO_MEAN}),
        ({"names": "['cat', 'dog']", "stride": "32"}, {"labels": ["cat", "dog"]}),
        (CUSTOM_VISION, {"channels": "bgr", "input_range": [0, 255], **NO_MEAN}),
        ({"Image.NominalPixelRange": "Normalized_1_1"}, {"input_range": [0, 1], "mean": [0.5], "std": [0.5]}),
        ({"Image.NominalPixelRange": "NominalRange_16_235", "Image.BitmapPixelFormat": "Rgba8"}, {}),
    ],
)
def test_of_an_onnx_file_what_is_certain_is_read(
    metadata: dict[str, str], expected: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "best.onnx").write_bytes(colour_network(64, metadata=metadata))
    assert published_settings(tmp_path / "best.onnx") == expected


def layer(kind: str, **config: Any) -> dict[str, Any]:
    return {"class_name": kind, "config": config}


PHOTO = layer("InputLayer", batch_shape=[None, 160, 224, 3])
BACKBONE = layer(
    "Functional", layers=[layer("InputLayer", batch_shape=[None, 9, 9, 3]), layer("Rescaling", scale=1 / 255)]
)


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ([PHOTO, layer("Conv2D"), layer("Rescaling", scale=1 / 255)], {"input_size": [160, 224]}),
        ([layer("InputLayer", batch_input_shape=[None, None, None, 3]), layer("Dense")], {}),
        (
            [PHOTO, layer("RandomFlip"), layer("Rescaling", scale=1 / 127.5, offset=-1)],
            {"input_size": [160, 224], "input_range": [0, 255], **NO_MEAN},
        ),
        ([PHOTO, BACKBONE], {"input_size": [160, 224], "input_range": [0, 255], **NO_MEAN}),
        ([PHOTO, layer("Rescaling", scale=1.0)], {"input_size": [160, 224]}),
    ],
)
def test_of_a_keras_file_what_is_certain_is_read(
    layers: list[dict[str, Any]], expected: dict[str, Any], tmp_path: Path
) -> None:
    with zipfile.ZipFile(tmp_path / "model.keras", "w") as archive:
        archive.writestr("config.json", json.dumps(layer("Sequential", layers=layers)))
    assert published_settings(tmp_path / "model.keras") == expected


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("a.onnx", colour_network(8, metadata={"task": "detect"}), "states task detect, which a bundle cannot"),
        ("a.onnx", colour_network(8, metadata={"names": "{0: open('x')}"}), "cannot be read: ValueError malformed"),
        ("a.onnx", colour_network(8, metadata={"names": "[" * 10_000}), "cannot be read: SyntaxError too many"),
        (
            "a.onnx",
            colour_network(8, metadata={"names": "{0: 1}" + "-1" * 100_000}),
            "cannot be read: RecursionError",
        ),
        ("a.onnx", b"damaged", "cannot be read: RuntimeError"),
        ("a.keras", b"damaged", "cannot be read: BadZipFile"),
    ],
)
def test_a_hostile_network_file_ends_in_one_line(name: str, content: bytes, complaint: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BundleBuildError, match=complaint) as raised:
        published_settings(tmp_path / name)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("above", ["", "input_size: 8\nlabels:\n"])
def test_a_yaml_that_uses_a_list_again_is_refused_and_not_written_out(above: str, tmp_path: Path) -> None:
    rows = ["- &a [x, x]", *(f"- &{name} [*{before}, *{before}]" for before, name in pairwise("abcdefghij"))]
    (tmp_path / "mine.yaml").write_text(above + "\n".join(rows))
    with pytest.raises(BundleBuildError, match=r"line \d+: it is used again as \*NAME"):
        read_spec(tmp_path / "mine.yaml")


def test_the_yaml_counts_before_what_is_published(tmp_path: Path) -> None:
    settings = published(tmp_path, config={"pretrained_cfg": RESNET, "label_names": ["a", "b"]})
    (tmp_path / "mine.yaml").write_text("interpolation: bilinear\n")
    spec = read_spec(tmp_path / "mine.yaml", settings)
    assert (spec.name, spec.interpolation, spec.resize, spec.labels) == ("mine", "bilinear", 235, ("a", "b"))
