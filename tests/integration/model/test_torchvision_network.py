"""Bundles of networks by name answer as their framework does, and a hostile file of weights is refused."""

import zipfile
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torchvision import models

from app_tier.bundle import BundleBuildError, file_digest, load_bundle
from app_tier.engines import open_engine
from scripts.model.group import model
from scripts.model.photo_model import SHA256, build_photos, imagenet_labels, photo_weights
from scripts.model.torchvision_network import build_torchvision, preprocess_of
from tests.support.lite0 import lite0_logits
from tests.support.pt2 import RunsACommand

pytestmark = pytest.mark.thorough

NAME = "resnet18"
LABELS = ("red", "green", "blue")


def pixels(images: int = 3) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(1).standard_normal((images, 3, 224, 224), np.float32)


def seeded(name: str = NAME, classes: int = 3) -> torch.nn.Module:
    torch.manual_seed(0)
    return models.get_model(name, weights=None, num_classes=classes).eval()


def answers_of(network: torch.nn.Module) -> np.ndarray[Any, np.dtype[np.float32]]:
    with torch.inference_mode():
        answers: np.ndarray[Any, np.dtype[np.float32]] = network(torch.from_numpy(pixels())).softmax(1).numpy()
    return answers


def save(state: object, path: Path) -> Path:
    torch.save(state, path)
    return path


def test_own_weights_answer_on_both_engines_as_in_torchvision(tmp_path: Path) -> None:
    network = seeded()
    weights = save(network.state_dict(), tmp_path / "my birds.pth")
    bundle = build_torchvision(NAME, tmp_path / "bundle", weights, LABELS)
    for engine in ("openvino", "torch"):
        assert np.abs(open_engine(engine, bundle).infer(pixels()) - answers_of(network)).max() < 1e-5
    assert (bundle.name, bundle.manifest.architecture, bundle.labels) == (f"{NAME}-my-birds", NAME, LABELS)
    assert bundle.manifest.provenance["sha256"] == file_digest(weights)
    assert bundle.manifest.agreement is not None
    assert bundle.manifest.agreement.same_top1 == 1


def test_build_makes_a_bundle_of_a_torchvision_network_with_own_weights_and_labels(tmp_path: Path) -> None:
    torch.save(models.resnet18(num_classes=2).state_dict(), tmp_path / "own.pth")
    (tmp_path / "labels.txt").write_text("cats\n\ndogs\n")
    options = ["--weights", str(tmp_path / "own.pth"), "--labels", str(tmp_path / "labels.txt")]
    ran = CliRunner().invoke(
        model, ["build", "resnet18", *options, "--precision", "fp32", "--out", str(tmp_path / "bundle")]
    )
    assert ran.exit_code == 0, ran.output
    bundle = load_bundle(tmp_path / "bundle")
    assert (bundle.name, bundle.labels) == ("resnet18-own", ("cats", "dogs"))
    assert "OpenVINO and torch  100.0% the same label" in ran.output


def test_build_of_an_unknown_network_is_one_clear_line() -> None:
    ran = CliRunner().invoke(model, ["build", "resnet19"])
    assert ran.exit_code == 1
    assert ran.output.startswith("Error: no network 'resnet19': name a .onnx or .pt2 file, photos, or one of ")
    assert "resnet18, " in ran.output


def test_published_weights_bring_labels_preprocessing_and_licence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published, network = models.get_model_weights(NAME).DEFAULT, seeded(classes=1000)
    monkeypatch.setattr(type(published), "get_state_dict", lambda *_arguments, **_options: network.state_dict())
    bundle = build_torchvision(NAME, tmp_path / "bundle")
    assert np.abs(open_engine("openvino", bundle).infer(pixels()) - answers_of(network)).max() < 1e-5
    assert (bundle.name, bundle.labels) == (NAME, tuple(published.meta["categories"]))
    assert bundle.manifest.provenance["url"] == published.url
    assert bundle.manifest.provenance["licence"] == "BSD-3-Clause"
    spec = bundle.manifest.preprocess
    assert (spec.resize, spec.crop, spec.fit, spec.interpolation) == (256, 224, "crop", "bilinear")


def test_a_bundle_can_state_the_preprocessing_of_each_network_of_torchvision() -> None:
    for name in models.list_models(module=models):
        preset = models.get_model_weights(name).DEFAULT.transforms()
        spec = preprocess_of(preset)
        assert ([spec.resize], [spec.crop]) == (preset.resize_size, preset.crop_size), name
        assert (list(spec.mean), list(spec.std)) == (preset.mean, preset.std), name
        assert spec.interpolation == preset.interpolation.value, name


def test_weights_that_cannot_be_downloaded_name_their_address_and_a_place_for_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_arguments: object, **_options: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr("torch.hub.download_url_to_file", refused)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(
        BundleBuildError, match=r"downloaded from https://\S+ .*no network.* into .*/hub/checkpoints$"
    ):
        build_torchvision(NAME, tmp_path / "bundle")


@pytest.mark.parametrize("is_zip", [True, False])
def test_s6_a_file_of_weights_runs_no_code(is_zip: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    evil = {"conv1.weight": RunsACommand(tmp_path / "mark")}
    torch.save(evil, tmp_path / "evil.pth", _use_new_zipfile_serialization=is_zip)
    with pytest.raises(
        BundleBuildError, match=r"evil\.pth is not a state dict \(Trying to load unsupported GLOBAL .*mkdir"
    ):
        build_torchvision(NAME, tmp_path / "bundle", tmp_path / "evil.pth", LABELS)
    assert not (tmp_path / "mark").exists()


def test_compressed_weights_are_refused_before_they_are_unpacked(tmp_path: Path) -> None:
    save({"conv1.weight": torch.zeros(10**6)}, tmp_path / "good.pth")
    with (
        zipfile.ZipFile(tmp_path / "good.pth") as good,
        zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for name in good.namelist():
            bomb.writestr(name, good.read(name))
    with pytest.raises(BundleBuildError, match=r"bomb\.pth holds compressed files"):
        build_torchvision(NAME, tmp_path / "bundle", tmp_path / "bomb.pth", LABELS)


@pytest.mark.parametrize("contents", [b"", b"hello", b"\x80\x02.", b"PK\x03\x04 no zip"])
def test_a_damaged_file_of_weights_is_refused_by_name(contents: bytes, tmp_path: Path) -> None:
    (tmp_path / "bad.pth").write_bytes(contents)
    with pytest.raises(BundleBuildError, match=r"bad\.pth is not a state dict \(.*write it with torch\.save"):
        build_torchvision(NAME, tmp_path / "bundle", tmp_path / "bad.pth", LABELS)


@pytest.mark.parametrize(
    ("name", "state", "complaint"),
    [
        (NAME, seeded("squeezenet1_1").state_dict(), f"do not fit {NAME} with 3 labels: Unexpected key"),
        (NAME, seeded(classes=2).state_dict(), r"size mismatch for fc.*one label per class\?"),
        (NAME, {"conv1.weight": torch.zeros(1).expand(2**40)}, "do not fit"),
        (NAME, [1, 2], "do not fit"),
        (NAME, {each: value * torch.nan for each, value in seeded().state_dict().items()}, "which is no number"),
        ("inception_v3", {}, "a state dict does not say all about inception_v3: export your network to a .pt2"),
    ],
)
def test_weights_that_do_not_fit_are_refused_in_one_short_line(
    name: str, state: object, complaint: str, tmp_path: Path
) -> None:
    save(state, tmp_path / "other.pth")
    with pytest.raises(BundleBuildError, match=complaint) as refused:
        build_torchvision(name, tmp_path / "own", tmp_path / "other.pth", LABELS)
    assert len(str(refused.value)) < 400
    assert [path.name for path in tmp_path.iterdir()] == ["other.pth"]


def test_the_model_for_photos_answers_as_torch(tmp_path: Path) -> None:
    try:
        path = photo_weights()
    except BundleBuildError:
        pytest.skip("its package is not installed: ./scripts/setup.sh photos")
    bundle = build_photos(tmp_path / "bundle")
    with torch.inference_mode():
        expected = lite0_logits(torch.load(path), torch.from_numpy(pixels())).softmax(1).numpy()
    assert np.abs(open_engine("openvino", bundle).infer(pixels()) - expected).max() < 1e-5
    assert (bundle.name, bundle.manifest.provenance["sha256"]) == ("photos", SHA256)
    categories = models.get_model_weights(NAME).DEFAULT.meta["categories"]
    assert bundle.labels == imagenet_labels() == tuple(categories)


def test_without_its_package_the_model_for_photos_names_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scripts.model.photo_model.SHA256", "of another file")
    with pytest.raises(BundleBuildError, match=r"is not installed: run ./scripts/setup\.sh photos$"):
        build_photos(tmp_path / "bundle")
