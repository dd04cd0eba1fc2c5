"""A bundle of any torchvision ResNet, whole or not at all."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from app_tier.bundle.errors import BundleBuildError
from app_tier.bundle.load import load_bundle
from app_tier.engines import open_engine
from scripts.demo_model.data import DEMO_LABELS, DEMO_PREPROCESS
from scripts.demo_model.network import CifarResNet
from scripts.model import torchvision_networks
from scripts.model.build import Description, build_bundle, measure_agreement
from scripts.model.torchvision_import import import_torchvision
from scripts.model.torchvision_networks import architectures, build_torchvision

COLOURS = ("red", "green", "blue")


def demo_description(labels: tuple[str, ...] = DEMO_LABELS) -> Description:
    return Description("tiny", "cifar-resnet8", DEMO_PREPROCESS, labels, messages={labels[0]: "first"})


@pytest.fixture(scope="module")
def own_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's checkpoint of resnet18 for three classes, as parallel training wraps it."""
    torch.manual_seed(0)
    state = import_torchvision().models.resnet18(num_classes=3).state_dict()
    path = tmp_path_factory.mktemp("own") / "my colours.pth"
    torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}, "epoch": 3}, path)
    return path


def test_a_network_of_ones_own_becomes_a_bundle_that_answers_as_it_does(tmp_path: Path) -> None:
    torch.manual_seed(1)
    network = CifarResNet(len(DEMO_LABELS), blocks=1).eval()
    bundle = build_bundle(network, demo_description(), tmp_path / "tiny")
    batch = np.random.default_rng(1).normal(size=(5, 3, 32, 32)).astype(np.float32)
    with torch.inference_mode():
        expected = network(torch.from_numpy(batch)).softmax(1).numpy()
    for name in ("openvino", "torch"):
        assert np.abs(open_engine(name, bundle).infer(batch) - expected).max() < 1e-4
    assert bundle.manifest.messages == {"airplane": "first"}
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


def test_users_own_weights_and_labels_become_a_bundle(own_weights: Path, tmp_path: Path) -> None:
    bundle = build_torchvision("resnet18", tmp_path / "own", own_weights, COLOURS)
    assert bundle.labels == COLOURS
    assert bundle.name == "resnet18-my-colours"
    assert bundle.manifest.preprocess.input_size == 224
    assert bundle.manifest.provenance["weights"] == "my colours.pth"
    agreement = measure_agreement(bundle, images=2)
    assert agreement.same_top1 == 1
    assert agreement.largest_difference < 1e-2


def test_labels_that_do_not_fit_the_weights_are_refused(own_weights: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleBuildError, match=r"do not fit resnet18 with 2 labels: size mismatch for fc\.weight"):
        build_torchvision("resnet18", tmp_path / "own", own_weights, ("red", "green"))
    assert not list(tmp_path.iterdir())


def test_labels_that_do_not_fit_the_network_are_refused_and_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(BundleBuildError, match=r"outputs of shape \(2, 30\) but 3 labels"):
        build_bundle(CifarResNet(30, blocks=1), demo_description(COLOURS), tmp_path / "tiny")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("contents", "complaint"),
    [(b"not a checkpoint", "is not a state dict"), (None, "no weights file")],
)
def test_a_file_that_is_no_state_dict_is_refused(contents: bytes | None, complaint: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    if contents is not None:
        path.write_bytes(contents)
    with pytest.raises(BundleBuildError, match=complaint):
        build_torchvision("resnet18", tmp_path / "own", path, COLOURS)


def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(BundleBuildError, match="holds a list, not a state dict"):
        build_torchvision("resnet18", tmp_path / "own", tmp_path / "list.pth", COLOURS)


def test_the_state_dict_of_another_network_is_refused_in_one_short_line(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(3, 2).state_dict(), tmp_path / "linear.pth")
    with pytest.raises(BundleBuildError, match=r"do not fit resnet18 .*Missing key.*conv1\.weight.* … ") as refused:
        build_torchvision("resnet18", tmp_path / "own", tmp_path / "linear.pth", COLOURS)
    assert len(str(refused.value)) < 400
    assert not (tmp_path / "own").exists()


def test_an_unknown_network_is_refused_with_the_choices(tmp_path: Path) -> None:
    with pytest.raises(BundleBuildError, match=r"no network 'resnet19': choose one of .*resnet18"):
        build_torchvision("resnet19", tmp_path / "own")


def test_every_resnet_family_is_offered() -> None:
    assert {"resnet18", "resnet152", "resnext50_32x4d", "wide_resnet101_2"} <= set(architectures())
    assert "vgg16" not in architectures()


def test_published_weights_bring_their_own_labels_preprocessing_and_hash_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = import_torchvision().models
    asked: list[dict[str, Any]] = []

    def downloaded(_self: object, **options: Any) -> dict[str, Any]:
        asked.append(options)
        state: dict[str, Any] = models.resnet18().state_dict()
        return state

    monkeypatch.setattr(models.ResNet18_Weights, "get_state_dict", downloaded)
    bundle = build_torchvision("resnet18", tmp_path / "imagenet")
    assert asked == [{"progress": False, "check_hash": True}]
    assert (bundle.name, len(bundle.labels), bundle.labels[0]) == ("resnet18", 1000, "tench")
    assert (bundle.manifest.preprocess.resize, bundle.manifest.preprocess.crop) == (256, 224)


def test_weights_that_cannot_be_downloaded_give_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(_self: object, **_options: Any) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr(import_torchvision().models.ResNet18_Weights, "get_state_dict", unreachable)
    with pytest.raises(BundleBuildError, match=r"cannot be downloaded from https://.*Name or service.*--weights"):
        build_torchvision("resnet18", tmp_path / "imagenet")


def test_random_weights_say_that_they_are(tmp_path: Path) -> None:
    chosen = torchvision_networks.build_torchvision("resnet18", tmp_path / "random", "random", COLOURS)
    assert chosen.name == "resnet18-random"
    assert "random" in chosen.manifest.provenance["weights"]


def test_a_bundle_is_replaced_but_nothing_else_is(tmp_path: Path) -> None:
    out = tmp_path / "tiny"
    out.mkdir()
    (out / "holiday.jpg").write_bytes(b"dear to me")
    with pytest.raises(BundleBuildError, match="is not a bundle"):
        build_bundle(CifarResNet(30, blocks=1), demo_description(), out)
    (out / "holiday.jpg").unlink()
    first = build_bundle(CifarResNet(30, blocks=1), demo_description(), out)
    second = build_bundle(CifarResNet(30, blocks=1), demo_description(), out)
    assert first.digest != second.digest == load_bundle(out).digest
