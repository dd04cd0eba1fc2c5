"""Bundles of networks by name: they answer as torch does, and published weights are downloaded once and whole."""

import math
import re
import sys
import threading
from dataclasses import replace
from hashlib import sha256
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
import torch
from torchvision import models

from app_tier.bundle import BundleBuildError, file_digest
from app_tier.engines import OpenVinoEngine
from core.bundle_manifest import TORCH_NAME, BundleError
from scripts.model import pretrained
from scripts.model.named_network import build_named
from scripts.model.networks import Weights, network_graph
from scripts.model.pretrained import PRETRAINED_MODELS, imagenet_labels, pretrained_weights
from tests.support.seeded_networks import lite0_logits, lite0_state, trained
from tests.support.servers import QuietHandler, serving

LABELS = ("red", "green", "blue")
RESNETS = {name: model for name, model in PRETRAINED_MODELS.items() if model.resnet is not None}


def photos(images: int = 3) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(1).standard_normal((images, 3, 224, 224), np.float32)


def assert_same_answers(network: openvino.Model, batch: Any, logits: torch.Tensor, within: float) -> None:
    """Compare probabilities, and logits but for what is the same for all classes of an image."""
    compiled = openvino.compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    assert network.inputs[0].partial_shape.to_string() == "[?,3,224,224]"
    ours = compiled(batch)[0]
    assert np.abs(ours - logits.softmax(1).numpy()).max() < within
    assert np.abs(np.log(ours) - logits.log_softmax(1).numpy()).max() < within


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnext50_32x4d"])
def test_a_resnet_answers_as_that_of_torchvision(name: str) -> None:
    torch.manual_seed(0)
    network = models.get_model(name, weights=None, num_classes=3).eval()
    network.load_state_dict(trained(network.state_dict()))
    with torch.inference_mode():
        network.fc.weight *= 5 / network(torch.from_numpy(photos())).std()  # as far apart as those of trained weights
        logits = network(torch.from_numpy(photos()))
    arrays = {key: value.numpy() for key, value in network.state_dict().items()}
    graph = network_graph(RESNETS[name].resnet, Weights(arrays, name), 3, 224)
    assert_same_answers(graph, photos(), logits, 1e-4)


@pytest.mark.parametrize("name", RESNETS)
def test_each_resnet_has_the_parameters_of_that_of_torchvision(name: str) -> None:
    with torch.device("meta"):
        state = models.get_model(name, weights=None, num_classes=7).state_dict()
    zero = np.zeros((), np.float32)
    # No memory, and no time: the shapes alone are compared.
    arrays = {key: np.broadcast_to(zero, tuple(value.shape)) for key, value in state.items()}
    assert network_graph(RESNETS[name].resnet, Weights(arrays, name), 7, 224)


def test_the_model_for_photos_answers_as_torch_from_weights_in_the_old_format(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = lite0_state(1000)
    torch.save(state, tmp_path / "seeded.pth", _use_new_zipfile_serialization=False)
    monkeypatch.setattr("scripts.model.named_network.pretrained_weights", lambda _name: tmp_path / "seeded.pth")
    bundle = build_named("photos", tmp_path / "bundle")
    with torch.inference_mode():
        expected = lite0_logits(state, torch.from_numpy(photos())).softmax(1).numpy()
    assert np.abs(OpenVinoEngine(bundle).infer(photos()) - expected).max() < 1e-5
    assert (bundle.name, bundle.manifest.architecture) == ("photos", "efficientnet-lite0")
    assert (len(bundle.labels), bundle.labels[0]) == (1000, "tench")
    assert bundle.manifest.provenance["sha256"] == sha256((tmp_path / "seeded.pth").read_bytes()).hexdigest()
    assert bundle.manifest.provenance["licence"] == "Apache-2.0"
    spec = bundle.manifest.preprocess
    assert (spec.resize, spec.crop, spec.mean, spec.std) == (256, 224, (0.498,) * 3, (0.502,) * 3)


def test_the_published_model_for_photos_answers_as_torch(tmp_path: Path) -> None:
    try:
        path = pretrained_weights("photos")
    except BundleBuildError:
        pytest.skip("its package is not installed: ./scripts/setup.sh photos")
    bundle = build_named("photos", tmp_path / "bundle")
    with torch.inference_mode():
        expected = lite0_logits(torch.load(path), torch.from_numpy(photos())).softmax(1).numpy()
    assert np.abs(OpenVinoEngine(bundle).infer(photos()) - expected).max() < 1e-5


def test_the_table_is_that_of_torchvision() -> None:
    families = ("resnet", "resnext", "wide_resnet")
    assert set(RESNETS) == {name for name in models.list_models(module=models) if name.startswith(families)}
    for name, ours in RESNETS.items():
        published = models.get_model_weights(name).DEFAULT
        preset = published.transforms()
        assert ours.weights == published.url
        assert ours.megabytes == math.ceil(published.meta["_file_size"])
        assert ours.provenance["metrics"] == published.meta["_metrics"]
        assert imagenet_labels() == tuple(published.meta["categories"])
        assert [ours.preprocess.resize] == preset.resize_size
        assert [ours.preprocess.crop] == preset.crop_size
        assert list(ours.preprocess.mean) == preset.mean
        assert list(ours.preprocess.std) == preset.std


def test_labels_of_another_number_than_the_classes_are_refused_and_nothing_is_left(tmp_path: Path) -> None:
    torch.save(models.resnet18(num_classes=3).state_dict(), tmp_path / "own.pth")
    with pytest.raises(
        BundleBuildError,
        match=r"do not fit resnet18 with 2 labels: fc\.weight has the shape \[3, 512\] .*\[2, 512\] ",
    ):
        build_named("resnet18", tmp_path / "own", tmp_path / "own.pth", LABELS[:2])
    assert [path.name for path in tmp_path.iterdir()] == ["own.pth"]


@pytest.mark.parametrize(
    ("state", "complaint"),
    [
        ({"weight": torch.zeros(2, 3)}, r"conv1\.weight is missing"),
        ({"conv1.weight": "a text"}, r"conv1\.weight is missing"),
        ({"conv1.weight": torch.zeros(1).expand(2**40)}, r"conv1\.weight has the shape \[1099511627776\]"),
        ({"conv1.weight": torch.full((64, 3, 7, 7), math.nan)}, r"conv1\.weight holds infinity or what is no number"),
    ],
)
def test_weights_of_another_network_are_refused_in_one_short_line(
    state: dict[str, Any], complaint: str, tmp_path: Path
) -> None:
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(BundleBuildError, match=f"do not fit resnet18 with 3 labels: {complaint}") as refused:
        build_named("resnet18", tmp_path / "own", tmp_path / "other.pth", LABELS)
    assert len(str(refused.value)) < 300


def test_parameters_that_the_network_does_not_have_are_refused(tmp_path: Path) -> None:
    state = models.resnet34(num_classes=3).state_dict()
    torch.save(state, tmp_path / "larger.pth")
    with pytest.raises(BundleBuildError, match=r"layer1\.2\.bn1\.bias is not one of its parameters"):
        build_named("resnet18", tmp_path / "own", tmp_path / "larger.pth", LABELS)


def test_random_weights_say_that_they_are_and_need_no_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("torch", "torchvision", "safetensors"):
        monkeypatch.setitem(sys.modules, package, None)
    bundle = build_named("resnet18", tmp_path / "random", "random", LABELS)
    assert bundle.name == "resnet18-random"
    assert "random" in bundle.manifest.provenance["weights"]
    with pytest.raises(BundleError, match=r"has no model\.pt2: build it again with .* --with-torch or of a \.pt2"):
        bundle.path(TORCH_NAME)
    with pytest.raises(BundleError, match=r"torch is not installed: run \./scripts/setup\.sh torch"):
        build_named("resnet18", tmp_path / "torch", "random", LABELS, with_torch=True)


class WeightsServer(ThreadingHTTPServer):
    """Sends `contents` to each request, and says that they have `length` bytes."""

    def __init__(self, contents: bytes) -> None:
        super().__init__(("127.0.0.1", 0), WeightsHandler)
        self.contents, self.length, self.requests = contents, len(contents), 0


class WeightsHandler(QuietHandler):
    server: WeightsServer

    def do_GET(self) -> None:  # noqa: N802 - http.server's name
        self.server.requests += 1
        self.send_response(200)
        self.send_header("Content-Length", str(self.server.length))
        self.end_headers()
        self.wfile.write(self.server.contents)


@pytest.fixture
def weights_server(monkeypatch: pytest.MonkeyPatch) -> Any:
    contents = np.random.default_rng(0).bytes(3_000_000)
    server = WeightsServer(contents)
    with serving(server) as url:
        row = replace(
            PRETRAINED_MODELS["resnet18"],
            weights=f"{url}/models/resnet18.pth",
            sha256=sha256(contents).hexdigest()[:8],
            megabytes=4,
        )
        monkeypatch.setattr(pretrained, "PRETRAINED_MODELS", {"resnet18": row})
        yield server


def test_published_weights_are_downloaded_once_by_processes_at_the_same_time(
    weights_server: WeightsServer, tmp_path: Path
) -> None:
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(pretrained_weights("resnet18", tmp_path))) for _ in "123"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(found) == {tmp_path / "resnet18.pth"} == set(tmp_path.iterdir()) - {tmp_path / "resnet18.pth.part"}
    assert found[0].read_bytes() == weights_server.contents
    assert weights_server.requests == 1


@pytest.mark.parametrize(
    ("sent", "length", "complaint"),
    [
        (b"another file", 12, "cannot be downloaded from .*sent 12 bytes that are not the published file"),
        (b"cut", 3_000_000, "cannot be downloaded from"),
        (bytes(9 * 2**20), 9 * 2**20, r"cannot be downloaded from .*sent 5242880 bytes that are not"),
    ],
)
def test_half_a_download_or_another_file_is_never_used_and_the_next_try_succeeds(
    weights_server: WeightsServer, sent: bytes, length: int, complaint: str, tmp_path: Path
) -> None:
    whole = weights_server.contents
    (tmp_path / "resnet18.pth").write_bytes(whole[:-1])  # damaged
    (tmp_path / "resnet18.pth.part").write_bytes(whole[:100])  # of a process that was killed
    weights_server.contents, weights_server.length = sent, length
    with pytest.raises(BundleBuildError, match=f"{complaint}.*try again with a network, or put that file at "):
        pretrained_weights("resnet18", tmp_path)
    weights_server.contents, weights_server.length = whole, len(whole)
    assert pretrained_weights("resnet18", tmp_path).read_bytes() == whole


def test_without_a_network_the_error_names_a_place_for_the_file_and_one_put_there_is_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "copied.pth").write_bytes(b"weights")
    digest = file_digest(tmp_path / "copied.pth")[:8]
    row = replace(PRETRAINED_MODELS["resnet18"], weights="http://127.0.0.1:9/models/resnet18.pth", sha256=digest)
    monkeypatch.setattr(pretrained, "PRETRAINED_MODELS", {"resnet18": row})
    with pytest.raises(BundleBuildError, match=r"cannot be downloaded from http://127.*refused") as raised:
        pretrained_weights("resnet18", tmp_path / "weights")
    place = re.search(rf"put that file at (\S+); its SHA-256 begins with {digest}$", str(raised.value))
    assert place is not None
    (tmp_path / "copied.pth").rename(place[1])
    assert pretrained_weights("resnet18", tmp_path / "weights").read_bytes() == b"weights"


def test_without_its_package_the_model_for_photos_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    row = replace(PRETRAINED_MODELS["photos"], sha256="of another file")
    monkeypatch.setattr(pretrained, "PRETRAINED_MODELS", {"photos": row})
    with pytest.raises(BundleBuildError, match=r"is not installed: run ./scripts/setup\.sh photos$"):
        pretrained_weights("photos")
