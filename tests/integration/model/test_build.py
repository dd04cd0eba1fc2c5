"""A bundle of a user's own network, whole or not at all."""

import os
import shutil
from io import BytesIO
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from PIL import Image

from app_tier.bundle import DEMO_BUNDLE, Bundle, BundleBuildError, load_bundle, read_manifest
from app_tier.engines import OpenVinoEngine, open_engine
from app_tier.preprocess import load_pixels
from core.bundle_manifest import TORCH_NAME
from scripts.model.build import Description, build_bundle
from scripts.model.own_network import build_own
from scripts.model.precision import Target
from tests.support.onnx_file import colour_network

LABELS = ("red", "green", "blue")
DEMO = read_manifest(DEMO_BUNDLE)


def demo_description(labels: tuple[str, ...] = DEMO.labels) -> Description:
    return Description("tiny", "one convolution", DEMO.preprocess, labels, messages={labels[0]: "first"})


def tiny_network() -> torch.nn.Module:
    """Return a network for 32 x 32 pixels with the demo model's classes."""
    convolution, linear = torch.nn.Conv2d(3, 8, 3, stride=2), torch.nn.Linear(8, len(DEMO.labels))
    layers = (convolution, torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), linear)
    return torch.nn.Sequential(*layers).eval()


def test_labels_that_do_not_fit_the_network_are_refused_and_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(BundleBuildError, match=r"outputs of shape \(2, 30\) but 3 labels"):
        build_bundle(tiny_network(), demo_description(LABELS), tmp_path / "tiny")
    assert not list(tmp_path.iterdir())


def test_a_bundle_is_replaced_but_nothing_else_is(tmp_path: Path) -> None:
    out = tmp_path / "tiny"
    out.mkdir()
    (out / "holiday.jpg").write_bytes(b"dear to me")
    with pytest.raises(BundleBuildError, match="is not a bundle"):
        build_bundle(tiny_network(), demo_description(), out)
    (out / "holiday.jpg").unlink()
    shutil.copytree(DEMO_BUNDLE, out, dirs_exist_ok=True)
    built = build_bundle(tiny_network(), demo_description(), out)
    assert load_bundle().digest != built.digest == load_bundle(out).digest


SIZE = 16
COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
SPEC = """
input_size: 16
resize: 20
mean: [0.1, 0.2, 0.3]
std: [0.1, 0.1, 0.1]
labels: [red, green, blue]
messages: {red: Mind the paint.}
"""
FORMATS = pytest.mark.parametrize("suffix", [".onnx", ".pt2"])


class MeanColour(torch.nn.Module):  # type: ignore[misc, unused-ignore]
    """What `colour_network` is in ONNX, or its softmax."""

    def __init__(self, probabilities: bool = False) -> None:
        super().__init__()
        self.probabilities = probabilities

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        means = pixels.mean((2, 3))
        return means.softmax(1) if self.probabilities else means


def write_pt2(path: Path, network: torch.nn.Module, free_batch: bool = True) -> None:
    shapes = ({0: torch.export.Dim("batch")},) if free_batch else None
    torch.export.save(torch.export.export(network, (torch.zeros(2, 3, SIZE, SIZE),), dynamic_shapes=shapes), path)


class RunsACommand:
    """What a hostile pickle holds: loading it runs a command."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.mark),)


def test_s6_a_model_file_runs_no_code_when_it_is_loaded(networks: Path, tmp_path: Path) -> None:
    mark, pickled = tmp_path / "the file has run code", BytesIO()
    torch.save({"x": RunsACommand(mark)}, pickled)
    with ZipFile(networks / "colours.pt2") as good, ZipFile(tmp_path / "evil.pt2", "w") as evil:
        for name in good.namelist():
            evil.writestr(name, pickled.getvalue() if "sample_inputs" in name else good.read(name))
    with pytest.raises(BundleBuildError, match=r"not a torch\.export program"):
        build_with(tmp_path / "evil.pt2", SPEC)
    assert not mark.exists()


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the network in both formats, made once."""
    folder = tmp_path_factory.mktemp("networks")
    (folder / "colours.onnx").write_bytes(colour_network(SIZE))
    write_pt2(folder / "colours.pt2", MeanColour())
    return folder


@pytest.fixture
def network(suffix: str, networks: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(networks / f"colours{suffix}", tmp_path))


def build_with(network: Path, spec: str, target: Target = Target()) -> Bundle:  # noqa: B008 - frozen
    described = network.parent / "paint.yaml"
    described.write_text(spec)
    return build_own(network, described, network.parent / "bundle", target)


def picture(colour: str) -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (40, 30), COLOURS[colour]).save(buffer, "PNG")
    return buffer.getvalue()


def answers(bundle: Bundle) -> list[str]:
    batch = np.stack([load_pixels(picture(colour), bundle.manifest.preprocess) for colour in COLOURS])
    return [bundle.labels[best] for best in open_engine("openvino", bundle).infer(batch).argmax(1)]


@FORMATS
def test_it_answers_as_the_network_does_for_each_size_of_the_batch(network: Path) -> None:
    bundle = build_with(network, SPEC)
    assert answers(bundle) == list(COLOURS)
    assert (bundle.name, bundle.manifest.architecture) == ("paint", "colours")
    assert bundle.manifest.messages == {"red": "Mind the paint."}
    batch = np.random.default_rng(1).normal(size=(5, 3, SIZE, SIZE)).astype(np.float32)
    expected = torch.from_numpy(batch).mean((2, 3)).softmax(1).numpy()
    assert np.abs(OpenVinoEngine(bundle).infer(batch) - expected).max() < 1e-6


@FORMATS
def test_a_network_that_expects_bgr_gets_it_with_mean_and_std_in_its_own_order(network: Path) -> None:
    bundle = build_with(network, SPEC.replace("[red, green, blue]", "[blue, green, red]") + "channels: bgr\n")
    assert answers(bundle) == list(COLOURS)
    assert bundle.manifest.preprocess.mean == (0.3, 0.2, 0.1)


@pytest.mark.parametrize("suffix", [".pt2"])
def test_a_network_that_ends_with_softmax_is_not_given_a_second_one(network: Path) -> None:
    write_pt2(network, MeanColour(probabilities=True))
    bundle = build_with(network, SPEC + "outputs: probabilities\n")
    batch = np.random.default_rng(1).normal(size=(5, 3, SIZE, SIZE)).astype(np.float32)
    expected = torch.from_numpy(batch).mean((2, 3)).softmax(1).numpy()
    for engine in ("openvino", "torch"):
        assert np.abs(open_engine(engine, bundle).infer(batch) - expected).max() < 1e-6
    assert bundle.manifest.agreement is not None


@pytest.mark.parametrize("suffix", [".onnx"])
def test_an_onnx_network_is_measured_and_not_compared_with_torch(network: Path, tmp_path: Path) -> None:
    for colour in COLOURS:
        (tmp_path / "pictures").mkdir(exist_ok=True)
        (tmp_path / "pictures" / f"{colour}.png").write_bytes(picture(colour))
    bundle = build_with(network, SPEC, Target("exact", tmp_path / "pictures"))
    assert TORCH_NAME not in bundle.manifest.files
    assert bundle.manifest.agreement is None
    if OpenVinoEngine.is_fast_in("bf16"):
        assert bundle.manifest.measured is not None
        assert bundle.manifest.measured.same_top1 == 1
    assert load_bundle(bundle.folder).digest == bundle.digest


@pytest.mark.parametrize("suffix", [".onnx"])
@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        (SPEC.replace("[red, green, blue]", "[red, green]"), r"shape \(2, 3\) but 2 labels"),
        (SPEC + "classes: 4\n", "3 labels for 4 classes"),
        (SPEC.replace("labels: [red, green, blue]", ""), "neither labels nor classes is given"),
        (SPEC.replace("red: Mind", "pink: Mind"), "'pink', which is not a label"),
        (SPEC.replace("[0.1, 0.2, 0.3]", "[123.7, 116.3, 103.5]"), "mean: .*divide by 255"),
        (SPEC.replace("resize: 20", "resize: 8"), "crop 16 is larger than resize 8"),
        (SPEC + "crop: 12\n", "crop 12 is not the input_size 16"),
        (SPEC + "colour: true\n", "colour: unknown key; docs/models.md lists all keys"),
        (SPEC + "chanels: bgr\n", r"chanels: unknown key; did you mean channels\?"),
        (SPEC.replace("input_size: 16", "input_size: small"), "input_size: must be an integer$"),
        ("input_size: [", "cannot be read as YAML"),
        ("hello", "must hold keys such as input_size"),
    ],
)
def test_a_spec_that_does_not_fit_is_refused_and_nothing_is_left(network: Path, spec: str, complaint: str) -> None:
    with pytest.raises(BundleBuildError, match=complaint):
        build_with(network, spec)
    assert sorted(path.name for path in network.parent.iterdir()) == sorted([network.name, "paint.yaml"])


@pytest.mark.parametrize("suffix", [".onnx"])
def test_classes_without_labels_are_numbered(network: Path) -> None:
    spec = SPEC.replace("labels: [red, green, blue]", "classes: 3").replace("messages: {red: Mind the paint.}", "")
    assert build_with(network, spec).labels == ("class 0", "class 1", "class 2")


@FORMATS
def test_a_damaged_network_is_refused(network: Path) -> None:
    network.write_bytes(b"\xff" * 400)
    with pytest.raises(
        BundleBuildError, match=r"colours\.\w+ (cannot be read as ONNX|is not a torch\.export program)"
    ):
        build_with(network, SPEC)


def test_a_torch_network_for_one_size_of_batch_is_refused_with_the_way_out(tmp_path: Path) -> None:
    write_pt2(tmp_path / "fixed.pt2", MeanColour(), free_batch=False)
    with pytest.raises(BundleBuildError, match=r"export it with a free batch size: dynamic_shapes"):
        build_with(tmp_path / "fixed.pt2", SPEC)


def test_a_network_with_two_outputs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "two.onnx").write_bytes(colour_network(SIZE, outputs=2))
    with pytest.raises(BundleBuildError, match="1 inputs and 2 outputs"):
        build_with(tmp_path / "two.onnx", SPEC)


def test_another_kind_of_file_and_a_missing_one_are_refused(tmp_path: Path) -> None:
    (tmp_path / "net.h5").write_bytes(b"x")
    with pytest.raises(BundleBuildError, match=r"neither \.onnx nor \.pt2"):
        build_with(tmp_path / "net.h5", SPEC)
    with pytest.raises(BundleBuildError, match="no network file"):
        build_with(tmp_path / "net.onnx", SPEC)
