"""Bundles of networks by name: they answer as torch does, and published weights are downloaded once and whole."""

import math
import sys
import threading
from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
import torch
from torch.nn import functional

from app_tier.bundle import BundleBuildError
from app_tier.engines import OpenVinoEngine
from core.bundle_manifest import TORCH_NAME, BundleError
from scripts.model import pretrained
from scripts.model.named_network import build_named
from scripts.model.networks import Weights, network_graph
from scripts.model.pretrained import PRETRAINED_MODELS, imagenet_labels, pretrained_weights
from scripts.model.torchvision_import import import_torchvision
from tests.support.servers import QuietHandler, serving

LABELS = ("red", "green", "blue")
RESNETS = {name: model for name, model in PRETRAINED_MODELS.items() if model.resnet is not None}
State = dict[str, torch.Tensor]


def photos(images: int = 3) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(1).standard_normal((images, 3, 224, 224), np.float32)


def trained(state: Mapping[str, torch.Tensor]) -> State:
    """Return weights of which no normalisation does nothing."""
    torch.manual_seed(1)
    changed = {}
    for name, value in state.items():
        if name.endswith("running_var"):
            changed[name] = 0.5 + torch.rand_like(value)
        elif value.dim() == 1:
            changed[name] = value + 0.1 * torch.randn_like(value)
        else:
            changed[name] = value
    return changed


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
    network = import_torchvision().models.get_model(name, weights=None, num_classes=3).eval()
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
        state = import_torchvision().models.get_model(name, weights=None, num_classes=7).state_dict()
    zero = np.zeros((), np.float32)
    # No memory, and no time: the shapes alone are compared.
    arrays = {key: np.broadcast_to(zero, tuple(value.shape)) for key, value in state.items()}
    assert network_graph(RESNETS[name].resnet, Weights(arrays, name), 7, 224)


def lite0_blocks() -> list[tuple[int, int, int, int, bool]]:
    """Return expansion, channels, kernel and stride of each block, and whether its input is added."""
    # As the authors write it: r1_k3_s11_e1_i32_o16 and so on, at width and depth 1.
    rows = (
        *("r1_k3_s1_e1_o16", "r2_k3_s2_e6_o24", "r2_k5_s2_e6_o40", "r3_k3_s2_e6_o80"),
        *("r3_k5_s1_e6_o112", "r4_k5_s2_e6_o192", "r1_k3_s1_e6_o320"),
    )
    blocks = []
    for row in rows:
        repeats, kernel, stride, expansion, channels = (int(part.lstrip("rkseo")) for part in row.split("_"))
        blocks += [(expansion, channels, kernel, 1 if n else stride, n > 0) for n in range(repeats)]
    return blocks


def lite0_state(classes: int) -> State:
    """Return seeded weights of EfficientNet-Lite0, by the names of the published ones."""
    torch.manual_seed(0)
    state: State = {}

    def add(name: str, norm: str, filters: int, inputs: int, kernel: int) -> None:
        weight = torch.randn(filters, inputs, kernel, kernel) * math.sqrt(2 / (inputs * kernel * kernel))
        state[f"{name}.weight"] = weight.to(memory_format=torch.channels_last)  # as in the published file
        for key, value in torch.nn.BatchNorm2d(filters).state_dict().items():
            state[f"{norm}.{key}"] = value

    add("_conv_stem", "_bn0", 32, 3, 3)
    inputs = 32
    for number, (expansion, channels, kernel, _, _) in enumerate(lite0_blocks()):
        block, wide = f"_blocks.{number}.", inputs * expansion
        if expansion > 1:
            add(f"{block}_expand_conv", f"{block}_bn0", wide, inputs, 1)
        add(f"{block}_depthwise_conv", f"{block}_bn1", wide, 1, kernel)
        add(f"{block}_project_conv", f"{block}_bn2", channels, wide, 1)
        inputs = channels
    add("_conv_head", "_bn1", 1280, inputs, 1)
    state |= {"_fc.weight": torch.randn(classes, 1280) / 36, "_fc.bias": torch.randn(classes)}
    return trained(state) | {name: value for name, value in state.items() if value.dtype == torch.int64}


def lite0_logits(state: State, x: torch.Tensor) -> torch.Tensor:
    """Return the answers of EfficientNet-Lite0, computed by torch's functions."""

    def layer(x: torch.Tensor, name: str, norm: str, stride: int = 1, limited: bool = True) -> torch.Tensor:
        weight = state[f"{name}.weight"]
        kernel, groups = weight.shape[2], x.shape[1] // weight.shape[1]
        pad = max((math.ceil(x.shape[2] / stride) - 1) * stride + kernel - x.shape[2], 0)
        x = functional.pad(x, (pad // 2, pad - pad // 2) * 2)  # TensorFlow's SAME
        x = functional.conv2d(x, weight, None, stride, groups=groups)
        mean, variance = state[f"{norm}.running_mean"], state[f"{norm}.running_var"]
        x = functional.batch_norm(x, mean, variance, state[f"{norm}.weight"], state[f"{norm}.bias"], eps=1e-3)
        return functional.relu6(x) if limited else x

    x = layer(x, "_conv_stem", "_bn0", 2)
    for number, (expansion, _, _, stride, is_added) in enumerate(lite0_blocks()):
        block = f"_blocks.{number}."
        y = layer(x, f"{block}_expand_conv", f"{block}_bn0") if expansion > 1 else x
        y = layer(y, f"{block}_depthwise_conv", f"{block}_bn1", stride)
        y = layer(y, f"{block}_project_conv", f"{block}_bn2", limited=False)
        x = x + y if is_added else y
    return functional.linear(layer(x, "_conv_head", "_bn1").mean((2, 3)), state["_fc.weight"], state["_fc.bias"])


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
    models = import_torchvision().models
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
    torch.save(import_torchvision().models.resnet18(num_classes=3).state_dict(), tmp_path / "own.pth")
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
    state = import_torchvision().models.resnet34(num_classes=3).state_dict()
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
    with pytest.raises(
        BundleBuildError, match=f"{complaint}.*try again with a network, or give a file with --weights"
    ):
        pretrained_weights("resnet18", tmp_path)
    weights_server.contents, weights_server.length = whole, len(whole)
    assert pretrained_weights("resnet18", tmp_path).read_bytes() == whole


def test_without_a_network_the_error_names_the_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    row = replace(PRETRAINED_MODELS["resnet18"], weights="http://127.0.0.1:9/models/resnet18.pth")
    monkeypatch.setattr(pretrained, "PRETRAINED_MODELS", {"resnet18": row})
    with pytest.raises(BundleBuildError, match=r"cannot be downloaded from http://127.*refused.*--weights"):
        pretrained_weights("resnet18", tmp_path)


def test_without_its_package_the_model_for_photos_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    row = replace(PRETRAINED_MODELS["photos"], sha256="of another file")
    monkeypatch.setattr(pretrained, "PRETRAINED_MODELS", {"photos": row})
    with pytest.raises(BundleBuildError, match=r"is not installed: run ./scripts/setup\.sh photos$"):
        pretrained_weights("photos")
