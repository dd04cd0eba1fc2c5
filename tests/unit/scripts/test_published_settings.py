"""Settings that timm and Hugging Face publish become those of a bundle, or are named where they cannot."""

import json
from pathlib import Path
from typing import Any

import pytest

from app_tier.bundle import BundleBuildError
from scripts.model.network_spec import read_spec
from scripts.model.published_settings import published_settings

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


def test_the_yaml_counts_before_what_is_published(tmp_path: Path) -> None:
    settings = published(tmp_path, config={"pretrained_cfg": RESNET, "label_names": ["a", "b"]})
    (tmp_path / "mine.yaml").write_text("interpolation: bilinear\n")
    spec = read_spec(tmp_path / "mine.yaml", settings)
    assert (spec.name, spec.interpolation, spec.resize, spec.labels) == ("mine", "bilinear", 235, ("a", "b"))
