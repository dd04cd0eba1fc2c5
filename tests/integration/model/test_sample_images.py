"""Images to calibrate on are others than those to measure on, as far as there are enough."""

from pathlib import Path

import pytest

from app_tier.bundle.errors import BundleBuildError
from app_tier.bundle.load import load_bundle
from scripts.demo_model.signs import samples
from scripts.model.sample_images import (
    CALIBRATION_IMAGES,
    DRAWN_IMAGES,
    FEW,
    UNKNOWN,
    Labelled,
    decoded,
    images_for,
    source_of,
    split_images,
)


def folder_of(path: Path, count: int) -> Path:
    for number in range(count):
        (path / f"label {number % 2}").mkdir(parents=True, exist_ok=True)
        (path / f"label {number % 2}" / f"{number}.png").write_bytes(b"%d" % number)
    return path


def test_without_a_folder_signs_and_noise_are_drawn_and_the_measurement_says_so() -> None:
    drawn = list(images_for(None))
    assert len(drawn) == DRAWN_IMAGES
    assert sum(image.label is None for image in drawn) == DRAWN_IMAGES / 2
    assert "drawn" in source_of(None)


def test_no_drawn_image_both_calibrates_and_is_measured() -> None:
    calibration, measured = (set(images) for images in split_images(None))
    assert (len(calibration), len(measured)) == (CALIBRATION_IMAGES, DRAWN_IMAGES)
    assert not calibration & measured


def test_a_folder_is_divided_always_alike_with_every_label_in_both_parts(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 100)
    calibration, measured = (list(images) for images in split_images(folder))
    assert (len(calibration), len(measured)) == (50, 50)
    assert not {image.data for image in calibration} & {image.data for image in measured}
    assert {image.label for image in calibration} == {image.label for image in measured} == {"label 0", "label 1"}
    assert list(split_images(folder)[0]) == calibration


def test_calibration_takes_no_more_than_it_needs_of_a_large_folder(tmp_path: Path) -> None:
    calibration, measured = split_images(folder_of(tmp_path, 1000))
    assert (len(list(calibration)), len(list(measured))) == (CALIBRATION_IMAGES, 1000 - CALIBRATION_IMAGES)


def test_a_folder_of_few_images_serves_both_purposes(tmp_path: Path) -> None:
    calibration, measured = (list(images) for images in split_images(folder_of(tmp_path, FEW - 1)))
    assert calibration == measured
    assert len(measured) == FEW - 1


def test_with_a_folder_of_its_own_for_calibration_all_other_images_are_measured(tmp_path: Path) -> None:
    own, images = folder_of(tmp_path / "own", 5), folder_of(tmp_path / "images", 60)
    calibration, measured = split_images(images, own)
    assert (len(list(calibration)), len(list(measured))) == (5, 60)


def test_a_label_that_the_bundle_does_not_know_and_a_broken_file_do_no_harm() -> None:
    sign = next(samples(1, seed=3))
    images = [Labelled(sign.data, sign.label), Labelled(b"no picture", "stop"), Labelled(sign.data, "unheard of")]
    bundle = load_bundle()
    found = list(decoded(images, bundle.manifest))
    assert [index for _, index in found] == [bundle.labels.index(sign.label), UNKNOWN]
    assert found[0][0].shape == (3, 32, 32)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleBuildError, match=r"no folder .*missing: .*--images"):
        list(images_for(tmp_path / "missing"))
    with pytest.raises(BundleBuildError, match=r"no folder .*missing: .*--calibrate"):
        split_images(None, tmp_path / "missing")
