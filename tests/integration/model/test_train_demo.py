"""Training: reproducible, resumable, and a bundle at its end that names what was measured."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from app_tier.bundle import DEMO_BUNDLE, load_bundle, read_manifest
from app_tier.preprocess import normalise
from scripts.demo_model import data
from scripts.demo_model.data import (
    CIFAR_LABELS,
    DEMO_LABELS,
    DEMO_PREPROCESS,
    Images,
    cifar_from_torchvision,
    cifar_from_zip,
    drawn_signs,
)
from scripts.demo_model.signs import draw, encode
from scripts.demo_model.training import Settings, Training, as_input, augment, main
from scripts.model.torchvision_import import import_torchvision

TINY = Settings(epochs=2, batch=20, signs=40, signs_per_epoch=20, blocks=1)


def images(count: int, labels: int = 10) -> Images:
    rng = np.random.default_rng(count)
    return Images(rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8), rng.integers(0, labels, count))


@pytest.fixture
def cifar_zip(tmp_path: Path) -> Path:
    """Two test and 13 training images of each of the ten classes, in CIFAR's layout."""
    path = tmp_path / "cifar.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for part, count in (("train", 13), ("test", 2)):
            for number, label in enumerate(CIFAR_LABELS):
                for copy in range(count):
                    picture, _ = draw(number, seed=copy, size=(32, 32))
                    archive.writestr(f"{part}/{label}/{copy:04d}.jpg", encode(picture, "JPEG"))
    return path


def test_no_sign_is_ever_mirrored_and_half_of_the_others_are() -> None:
    pixels = torch.rand(400, 3, 32, 32)
    labels = torch.tensor([0, 10] * 200)
    after = augment(pixels, labels, 0, torch.Generator().manual_seed(0))
    mirrored = (after == pixels.flip(3)).all(dim=(1, 2, 3))
    assert ((after == pixels).all(dim=(1, 2, 3)) | mirrored).all()
    assert not mirrored[labels == 10].any()
    assert 70 < int(mirrored[labels == 0].sum()) < 130


def test_training_normalises_as_the_worker_does() -> None:
    square = images(1).pixels
    assert np.abs(as_input(square)[0].numpy() - normalise(square[0], DEMO_PREPROCESS)).max() < 1e-5


def test_an_interrupted_training_ends_as_an_uninterrupted_one(tmp_path: Path) -> None:
    ends = []
    for name, interrupted in (("whole", False), ("halves", True)):
        (tmp_path / name).mkdir()
        training = Training(TINY, tmp_path / name)
        training.run_epoch(images(20), images(20, 30))
        training.save()
        if interrupted:
            training = Training(TINY, tmp_path / name)
        assert training.epoch == 1
        training.run_epoch(images(20), images(20, 30))
        ends.append(training.network.state_dict())
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])


def test_drawn_signs_do_not_depend_on_how_many_processes_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "_CHUNK", 20)
    one, two = (drawn_signs(60, seed=3, sizes=(((64, 64), 1.0),), processes=n) for n in (1, 2))
    assert (one.pixels == two.pixels).all()
    assert (one.labels == two.labels).all()
    assert set(one.labels.tolist()) == set(range(10, 30))


def test_a_zip_is_read_part_by_part(cifar_zip: Path) -> None:
    part = cifar_from_zip(cifar_zip, "test")
    assert len(part) == 20
    assert part.labels.tolist() == [k for k in range(10) for _ in range(2)]


@pytest.mark.parametrize(("part", "train"), [("train", True), ("test", False)])
def test_without_a_zip_torchvision_downloads_cifar(
    part: str, train: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Downloaded:
        """What torchvision's dataset offers, without the download."""

        def __init__(self, root: str, train: bool, download: bool) -> None:
            self.asked = (root, train, download)
            self.data = images(3).pixels
            self.targets = [4, 5, 6]
            asked.append(self.asked)

    asked: list[tuple[str, bool, bool]] = []
    import_torchvision()
    monkeypatch.setattr("torchvision.datasets.CIFAR10", Downloaded)
    got = cifar_from_torchvision(tmp_path, part)
    assert asked == [(str(tmp_path), train, True)]
    assert got.labels.tolist() == [4, 5, 6]
    assert got.pixels.shape == (3, 32, 32, 3)


@pytest.mark.processes
def test_one_command_trains_measures_and_writes_a_bundle(cifar_zip: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = f"--cifar {cifar_zip} --out {out} --epochs 1 --signs 40 --fresh-signs 40".split()
    ran = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert ran.exit_code == 0
    assert len((out / "train.log").read_text().splitlines()) == 3
    bundle = load_bundle(out / "bundle")
    measured = bundle.manifest.provenance["measured"]
    assert measured["signs"]["images"] == 40
    assert measured["cifar_test"]["images"] == 20
    assert sum(sum(row) for row in measured["confusion"]["counts"]) == 60
    assert set(measured["accuracy_per_class"]) == set(DEMO_LABELS)
    assert CliRunner().invoke(main, [*arguments, "--seed", "2"]).exit_code == 1


def test_the_shipped_bundle_was_measured_and_reaches_what_the_project_asks() -> None:
    measured = read_manifest(DEMO_BUNDLE).provenance["measured"]
    assert measured["signs"]["images"] == measured["cifar_test"]["images"] == 10_000
    assert measured["signs"]["accuracy"] >= 0.995
    assert measured["cifar_test"]["accuracy"] >= 0.87
    assert np.shape(measured["confusion"]["counts"]) == (30, 30)
