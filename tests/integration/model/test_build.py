"""A bundle of a user's own network, whole or not at all."""

import shutil
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from PIL import Image

from app_tier.bundle import DEMO_BUNDLE, Bundle, BundleBuildError, load_bundle
from app_tier.engines import OpenVinoEngine, open_engine
from app_tier.preprocess import load_pixels
from core.bundle_manifest import TORCH_NAME
from scripts.demo_model.signs import samples
from scripts.model.precision import Target
from tests.support.onnx_file import colour_network
from tests.support.own_networks import SIZE, SPEC, build_with, write_network

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
FORMATS = pytest.mark.parametrize("suffix", [".onnx", pytest.param(".pt2", marks=pytest.mark.thorough)])


@pytest.fixture
def network(suffix: str, tmp_path: Path) -> Path:
    return write_network(tmp_path / f"colours{suffix}")


def encoded(image: Image.Image) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def picture(colour: str) -> bytes:
    return encoded(Image.new("RGB", (40, 30), COLOURS[colour]))


def answers(bundle: Bundle) -> list[str]:
    batch = np.stack([load_pixels(picture(colour), bundle.manifest.preprocess) for colour in COLOURS])
    return [bundle.labels[best] for best in open_engine("openvino", bundle).infer(batch).argmax(1)]


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    shares: NDArray[np.float32] = powers / powers.sum(1, keepdims=True)
    return shares


@FORMATS
def test_it_answers_as_the_network_does_for_each_size_of_the_batch(network: Path) -> None:
    bundle = build_with(network, SPEC.replace("[red, green, blue]", r'["red ", green, "blue\n"]'))
    assert answers(bundle) == list(COLOURS)
    assert (bundle.name, bundle.manifest.architecture) == ("paint", "colours")
    assert bundle.manifest.messages == {"red": "Mind the paint."}
    batch = np.random.default_rng(1).normal(size=(5, 3, SIZE, SIZE)).astype(np.float32)
    assert np.abs(OpenVinoEngine(bundle).infer(batch) - softmax(batch.mean((2, 3)))).max() < 1e-6


@FORMATS
def test_a_network_that_expects_bgr_gets_it_with_mean_and_std_in_its_own_order(network: Path) -> None:
    bundle = build_with(network, SPEC.replace("[red, green, blue]", "[blue, green, red]") + "channels: bgr\n")
    assert answers(bundle) == list(COLOURS)
    assert bundle.manifest.preprocess.mean == (0.3, 0.2, 0.1)


@pytest.mark.parametrize("suffix", [".onnx"])
def test_an_onnx_network_is_measured_and_not_compared_with_torch(
    network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scripts.model.precision.can_quantise", lambda: False)  # NNCF imports torch
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
        (SPEC.replace("labels: [red, green, blue]", ""), "labels: missing; examples/README.md says what it means"),
        (SPEC.replace("fit: crop", ""), "fit: missing; examples/README.md says what it means"),
        (SPEC.replace("red: Mind", "pink: Mind"), "'pink', which is not a label"),
        (SPEC.replace("[0.1, 0.2, 0.3]", "[123.7, 116.3, 103.5]"), "mean and std .*divide by 255"),
        (SPEC.replace("resize: 20", "resize: 8"), "resize 8 is smaller than input_size 16"),
        (
            SPEC.replace("fit: crop", "fit: pad"),
            "fit: pad fills what the image leaves of the input: leave resize out",
        ),
        (SPEC.replace("fit: crop", "fit: letterbox"), "fit: must be 'crop', 'stretch' or 'pad'"),
        (SPEC + "colour: true\n", "colour: unknown key; examples/README.md lists all keys"),
        (SPEC + "chanels: bgr\n", r"chanels: unknown key; did you mean channels\?"),
        (SPEC + "input_range: [0, 2]\n", r"input_range\.1: must be 1 or 255"),
        (SPEC.replace("green,", '"red ",'), "labels has 'red' more than once: name the outputs apart"),
        (SPEC.replace("green,", '" ",'), r"labels\.1: ' ' is empty, too long, or has a control character"),
        (SPEC.replace("green,", "yes,"), r"labels\.1: must be text, not True: put it in quotes"),
        (SPEC.replace("green,", r'"gr\een",'), r"labels\.1: .*has a control character: write plain text"),
        (SPEC.replace("input_size: 16", "input_size: small"), "input_size: must be an integer$"),
        ("input_size: [", "cannot be read as YAML"),
        ("hello", "must hold keys such as input_size"),
    ],
)
def test_a_spec_that_does_not_fit_is_refused_and_nothing_is_left(network: Path, spec: str, complaint: str) -> None:
    with pytest.raises(BundleBuildError, match=complaint):
        build_with(network, spec)
    assert sorted(path.name for path in network.parent.iterdir()) == sorted([network.name, "paint.yaml"])


@FORMATS
def test_a_damaged_network_is_refused(network: Path) -> None:
    network.write_bytes(b"\xff" * 400)
    with pytest.raises(
        BundleBuildError, match=r"colours\.\w+ (cannot be read as ONNX|is not a torch\.export program)"
    ):
        build_with(network, SPEC)


GREY = SPEC.replace("[red, green, blue]", "[light, dark]").replace("messages: {red: Mind the paint.}", "")
GREY = GREY.replace("[0.1, 0.2, 0.3]", "[0.4]").replace("[0.1, 0.1, 0.1]", "[0.2]")
WHOLE = "input_size: 16\nfit: crop\nresize: 20\nlabels: [red, green, blue]\n"


@FORMATS
@pytest.mark.parametrize(
    ("layout", "planes", "kind", "ends", "spec"),
    [
        ("nhwc", 3, "float32", (), SPEC),
        ("nhwc", 3, "uint8", ("Softmax",), WHOLE),
        ("nchw", 3, "float16", (), SPEC),
        ("nchw", 1, "float32", (), GREY),
        ("nhwc", 1, "float32", ("Sigmoid",), GREY + "outputs: sigmoid\n"),
        ("nchw", 3, "float32", (), SPEC + "outputs: sigmoid\n"),
        ("nchw", 3, "float32", (), SPEC + "mean: [103, 116, 123]\nstd: [50]\ninput_range: [0, 255]\nchannels: bgr\n"),
    ],
    ids=["nhwc", "uint8", "float16", "grey", "sigmoid", "logits for sigmoid", "Caffe"],
)
def test_a_network_is_fed_as_it_was_trained(
    suffix: str, layout: str, planes: int, kind: str, ends: tuple[str, ...], spec: str, tmp_path: Path
) -> None:
    bundle = build_with(write_network(tmp_path / f"net{suffix}", layout, planes, kind, ends), spec)
    described = yaml.safe_load(spec)
    images = [Image.open(BytesIO(sample.data)).convert("RGB") for sample in samples(5, seed=3)]
    logits = []
    for image in images:
        width, height = (20 * side // min(image.size) for side in image.size)
        left, top = round((width - SIZE) / 2), round((height - SIZE) / 2)
        resized = image.resize((width, height), Image.Resampling.BILINEAR)
        square = resized.crop((left, top, left + SIZE, top + SIZE)).convert("L" if planes == 1 else "RGB")
        pixels = np.asarray(square, np.float32).reshape(-1, planes)
        if described.get("channels") == "bgr":
            pixels = pixels[:, ::-1]
        if kind != "uint8":
            pixels = (pixels / (1 if described.get("input_range") else 255) - described["mean"]) / described["std"]
        means = pixels.mean(0)
        logits.append(np.concatenate([means, -means]) if planes == 1 else means)
    is_sigmoid = "Sigmoid" in ends or described.get("outputs") == "sigmoid"
    expected = 1 / (1 + np.exp(-np.stack(logits))) if is_sigmoid else softmax(np.stack(logits))
    batch = np.stack([load_pixels(encoded(image), bundle.manifest.preprocess) for image in images])
    for engine in ("openvino", "torch") if suffix == ".pt2" else ("openvino",):
        assert np.abs(open_engine(engine, bundle).infer(batch) - expected).max() < 0.02


@pytest.mark.parametrize(
    ("ends", "outputs", "complaint"),
    [
        (("Log",), "", r"answers the picture 'black' with nan, which is no number"),
        (("Sub",), "", "answers 11 different pictures alike"),
        (("Softmax",), "logits", "between 0 and 1 and sum to 1: set outputs: probabilities"),
        ((), "probabilities", r"outputs from -\d.* to \d.* are no probabilities: set outputs: logits"),
        (("Sigmoid",), "probabilities", r"sum to \d.*, not 1: set outputs: sigmoid if each label"),
        (("Sigmoid",), "", "do not sum to 1: set outputs: sigmoid if each label"),
    ],
)
def test_outputs_that_are_not_what_the_yaml_says_are_refused(
    ends: tuple[str, ...], outputs: str, complaint: str, tmp_path: Path
) -> None:
    network = write_network(tmp_path / "net.onnx", ends=ends)
    with pytest.raises(BundleBuildError, match=complaint):
        build_with(network, SPEC + (f"outputs: {outputs}\n" if outputs else ""))
    assert not (tmp_path / "bundle").exists()


def test_a_network_that_ends_with_softmax_is_recognised(tmp_path: Path) -> None:
    bundle = build_with(write_network(tmp_path / "net.onnx", ends=("Softmax",)), SPEC)
    assert bundle.manifest.provenance["outputs"] == "probabilities"
    pixels = np.zeros((1, 3, SIZE, SIZE), np.float32)
    pixels[0, 1] = 9
    assert OpenVinoEngine(bundle).infer(pixels)[0, 1] > 0.99


@pytest.mark.parametrize(
    ("shape", "more", "complaint"),
    [
        (("nchw", 1, "float32"), "", r"takes 1 channel, so mean and std have one number each"),
        (("nchw", 1, "float32"), "channels: rgb\n", "takes N x 1 x 16 x 16: set layout and channels"),
        (("nchw", 4, "float32"), "", "takes N x 4 x 16 x 16: a photo gives 3 channels, or 1 of grey"),
        (("nhwc", 4, "float32"), "", "takes N x 16 x 16 x 4: a photo gives 3 channels, or 1 of grey"),
        (("nchw", 3, "uint8"), "", "takes uint8, .*: leave out input_range, mean and std"),
        (
            ("nchw", 3, "float32"),
            "input_size: 17\n",
            r"takes \[16, 16\] pixels \(height, width\), but input_size is 17: set that",
        ),
    ],
)
def test_a_file_that_says_otherwise_than_the_yaml_is_refused(
    shape: tuple[str, int, str], more: str, complaint: str, tmp_path: Path
) -> None:
    network = write_network(tmp_path / "net.onnx", *shape)
    with pytest.raises(BundleBuildError, match=complaint):
        build_with(network, SPEC.replace("resize: 20", "resize: 30") + more)


def test_a_bundle_is_replaced_but_nothing_else_is(tmp_path: Path) -> None:
    network, out = write_network(tmp_path / "colours.onnx"), tmp_path / "bundle"
    out.mkdir()
    (out / "holiday.jpg").write_bytes(b"dear to me")
    with pytest.raises(BundleBuildError, match="is not a bundle"):
        build_with(network, SPEC)
    (out / "holiday.jpg").unlink()
    shutil.copytree(DEMO_BUNDLE, out, dirs_exist_ok=True)
    built = build_with(network, SPEC)
    assert load_bundle().digest != built.digest == load_bundle(out).digest
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "colours.onnx", "paint.yaml"]


@pytest.mark.parametrize("suffix", [".onnx"])
@pytest.mark.parametrize("key", ["mean", "std"])
def test_a_network_of_fractions_needs_mean_and_std(key: str, network: Path) -> None:
    spec = "\n".join(line for line in SPEC.splitlines() if not line.startswith(key))
    with pytest.raises(BundleBuildError, match="takes float32: give mean and std as it was trained"):
        build_with(network, spec)


def test_a_network_with_two_outputs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "two.onnx").write_bytes(colour_network(SIZE, outputs=2))
    with pytest.raises(BundleBuildError, match="1 inputs and 2 outputs"):
        build_with(tmp_path / "two.onnx", SPEC)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleBuildError, match=r"no network file .*net\.onnx: give the path"):
        build_with(tmp_path / "net.onnx", SPEC)


@pytest.mark.parametrize("place", ["../secret", "/etc/passwd"])
def test_an_onnx_file_whose_weights_lie_outside_its_folder_is_refused(place: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(12))
    (tmp_path / "network").mkdir()
    (tmp_path / "network" / "net.onnx").write_bytes(colour_network(SIZE, external=place))
    with pytest.raises(BundleBuildError, match="cannot be read as ONNX"):
        build_with(tmp_path / "network" / "net.onnx", SPEC)
