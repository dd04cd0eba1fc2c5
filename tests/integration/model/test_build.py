"""A bundle of a user's own network, whole or not at all."""

import os
import shutil
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torchvision.transforms import functional

from app_tier.bundle import DEMO_BUNDLE, Bundle, BundleBuildError, load_bundle
from app_tier.engines import OpenVinoEngine, open_engine
from app_tier.preprocess import load_pixels
from core.bundle_manifest import TORCH_NAME
from scripts.demo_model.signs import samples
from scripts.model.own_network import build_own
from scripts.model.precision import Target
from tests.support.onnx_file import FLOAT, FLOAT16, UINT8, colour_network

SIZE = 16
COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
SPEC = """
input_size: 16
fit: crop
resize: 20
mean: [0.1, 0.2, 0.3]
std: [0.1, 0.1, 0.1]
labels: [red, green, blue]
messages: {red: Mind the paint.}
"""
FORMATS = pytest.mark.parametrize("suffix", [".onnx", ".pt2"])


class MeanColour(torch.nn.Module):  # type: ignore[misc, unused-ignore]
    """What `colour_network` is in ONNX."""

    def __init__(self, layout: str = "nchw", ends: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.layout, self.ends = layout, ends

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the means of three channels, or that of one channel and its negative."""
        outputs = pixels.float().mean((1, 2) if self.layout == "nhwc" else (2, 3))
        if outputs.shape[1] == 1:
            outputs = torch.cat([outputs, -outputs], 1)
        for end in self.ends:
            outputs = ENDS[end](outputs)
        return outputs


ENDS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "Softmax": lambda outputs: outputs.softmax(1),
    "Sigmoid": torch.sigmoid,
    "Log": torch.log,
    "Sub": lambda outputs: outputs - outputs,
}


def write_pt2(
    path: Path,
    network: torch.nn.Module,
    batch: Any = torch.export.Dim("batch"),  # noqa: B008 - a constant
    shape: tuple[int, ...] = (3, SIZE, SIZE),
    kind: torch.dtype = torch.float32,
) -> None:
    shapes = None if batch is None else ({0: batch},)
    torch.export.save(
        torch.export.export(network, (torch.zeros(2, *shape, dtype=kind),), dynamic_shapes=shapes), path
    )


def write_network(path: Path, layout: str, planes: int, kind: str, ends: tuple[str, ...]) -> None:
    """Write the same network in the format of the path's suffix."""
    if path.suffix == ".onnx":
        element_type = {"float32": FLOAT, "float16": FLOAT16, "uint8": UINT8}[kind]
        path.write_bytes(
            colour_network(SIZE, ends=ends, planes=planes, layout=layout, element_type=element_type, batch=8)
        )
    else:
        shape = (SIZE, SIZE, planes) if layout == "nhwc" else (planes, SIZE, SIZE)
        write_pt2(path, MeanColour(layout, ends), shape=shape, kind=getattr(torch, kind))


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


def encoded(image: Image.Image) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def picture(colour: str) -> bytes:
    return encoded(Image.new("RGB", (40, 30), COLOURS[colour]))


def answers(bundle: Bundle) -> list[str]:
    batch = np.stack([load_pixels(picture(colour), bundle.manifest.preprocess) for colour in COLOURS])
    return [bundle.labels[best] for best in open_engine("openvino", bundle).infer(batch).argmax(1)]


@FORMATS
def test_it_answers_as_the_network_does_for_each_size_of_the_batch(network: Path) -> None:
    bundle = build_with(network, SPEC.replace("[red, green, blue]", r'["red ", green, "blue\n"]'))
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
    write_pt2(network, MeanColour(ends=("Softmax",)))
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


@pytest.mark.parametrize(
    ("batch", "taken"), [(None, "only batches of 2"), (torch.export.Dim("batch", max=8), "batches of 0 to 8")]
)
def test_a_torch_network_for_some_sizes_of_batch_is_refused_with_the_way_out(
    batch: Any, taken: str, tmp_path: Path
) -> None:
    write_pt2(tmp_path / "fixed.pt2", MeanColour(), batch)
    with pytest.raises(BundleBuildError, match=rf"takes {taken}: export it with a free batch size: dynamic_shapes"):
        build_with(tmp_path / "fixed.pt2", SPEC)


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
def test_a_network_is_fed_as_it_was_trained_by_torchvisions_transforms(
    suffix: str, layout: str, planes: int, kind: str, ends: tuple[str, ...], spec: str, tmp_path: Path
) -> None:
    network = tmp_path / f"net{suffix}"
    write_network(network, layout, planes, kind, ends)
    bundle = build_with(network, spec)
    described = yaml.safe_load(spec)
    images = [Image.open(BytesIO(sample.data)).convert("RGB") for sample in samples(5, seed=3)]
    fed = []
    for image in images:
        square = functional.center_crop(functional.resize(image, 20), [SIZE, SIZE])
        pixels = functional.pil_to_tensor(square.convert("L") if planes == 1 else square)
        if described.get("channels") == "bgr":
            pixels = pixels.flip(0)
        if kind != "uint8":
            pixels = pixels.float() / (1 if described.get("input_range") else 255)
            pixels = functional.normalize(pixels, described["mean"], described["std"])
        fed.append(pixels.permute(1, 2, 0) if layout == "nhwc" else pixels)
    outputs = MeanColour(layout, ends)(torch.stack(fed))
    if not ends:
        outputs = outputs.sigmoid() if described.get("outputs") == "sigmoid" else outputs.softmax(1)
    batch = np.stack([load_pixels(encoded(image), bundle.manifest.preprocess) for image in images])
    for engine in ("openvino", "torch") if suffix == ".pt2" else ("openvino",):
        assert np.abs(open_engine(engine, bundle).infer(batch) - outputs.numpy()).max() < 0.02


@pytest.mark.parametrize(
    ("suffix", "ends", "outputs", "complaint"),
    [
        (".pt2", ("Log",), "", r"answers the picture 'black' with nan, which is no number"),
        (".onnx", ("Sub",), "", "answers 11 different pictures alike"),
        (".onnx", ("Softmax",), "logits", "between 0 and 1 and sum to 1: set outputs: probabilities"),
        (".onnx", (), "probabilities", r"outputs from -\d.* to \d.* are no probabilities: set outputs: logits"),
        (".onnx", ("Sigmoid",), "probabilities", r"sum to \d.*, not 1: set outputs: sigmoid if each label"),
        (".onnx", ("Sigmoid",), "", "do not sum to 1: set outputs: sigmoid if each label"),
    ],
)
def test_outputs_that_are_not_what_the_yaml_says_are_refused(
    suffix: str, ends: tuple[str, ...], outputs: str, complaint: str, tmp_path: Path
) -> None:
    write_network(tmp_path / f"net{suffix}", "nchw", 3, "float32", ends)
    with pytest.raises(BundleBuildError, match=complaint):
        build_with(tmp_path / f"net{suffix}", SPEC + (f"outputs: {outputs}\n" if outputs else ""))
    assert not (tmp_path / "bundle").exists()


@FORMATS
def test_a_network_that_ends_with_softmax_is_recognised(suffix: str, tmp_path: Path) -> None:
    write_network(tmp_path / f"net{suffix}", "nchw", 3, "float32", ("Softmax",))
    bundle = build_with(tmp_path / f"net{suffix}", SPEC)
    assert bundle.manifest.provenance["outputs"] == "probabilities"
    pixels = np.zeros((1, 3, SIZE, SIZE), np.float32)
    pixels[0, 1] = 9
    assert OpenVinoEngine(bundle).infer(pixels)[0, 1] > 0.99


def test_a_network_exported_in_training_mode_is_refused(tmp_path: Path) -> None:
    write_pt2(tmp_path / "net.pt2", torch.nn.Sequential(torch.nn.BatchNorm2d(3), MeanColour()).train())
    with pytest.raises(BundleBuildError, match="alone in its batch: export it in evaluation mode"):
        build_with(tmp_path / "net.pt2", SPEC)


@pytest.mark.parametrize(
    ("suffix", "shape", "more", "complaint"),
    [
        (".onnx", ("nchw", 1, "float32"), "", r"takes 1 channel, so mean and std have one number each"),
        (".onnx", ("nchw", 1, "float32"), "channels: rgb\n", "takes N x 1 x 16 x 16: set layout and channels"),
        (".onnx", ("nchw", 4, "float32"), "", "takes N x 4 x 16 x 16: a photo gives 3 channels, or 1 of grey"),
        (".onnx", ("nhwc", 4, "float32"), "", "takes N x 16 x 16 x 4: a photo gives 3 channels, or 1 of grey"),
        (".onnx", ("nchw", 3, "uint8"), "", "takes uint8, .*: leave out input_range, mean and std"),
        (
            ".pt2",
            ("nchw", 3, "float32"),
            "input_size: 17\n",
            r"takes \[16, 16\] pixels \(height, width\), but input_size is 17: set that",
        ),
    ],
)
def test_a_file_that_says_otherwise_than_the_yaml_is_refused(
    suffix: str, shape: tuple[str, int, str], more: str, complaint: str, tmp_path: Path
) -> None:
    write_network(tmp_path / f"net{suffix}", *shape, ())
    with pytest.raises(BundleBuildError, match=complaint):
        build_with(tmp_path / f"net{suffix}", SPEC.replace("resize: 20", "resize: 30") + more)


def test_a_bundle_is_replaced_but_nothing_else_is(networks: Path, tmp_path: Path) -> None:
    network, out = Path(shutil.copy(networks / "colours.onnx", tmp_path)), tmp_path / "bundle"
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


def test_a_compressed_pt2_is_refused_before_it_is_unpacked(networks: Path, tmp_path: Path) -> None:
    with ZipFile(networks / "colours.pt2") as good, ZipFile(tmp_path / "bomb.pt2", "w", ZIP_DEFLATED) as bomb:
        for name in good.namelist():
            bomb.writestr(name, good.read(name))
    with pytest.raises(BundleBuildError, match=r"bomb\.pt2 holds compressed files"):
        build_with(tmp_path / "bomb.pt2", SPEC)


@pytest.mark.parametrize("place", ["../secret", "/etc/passwd"])
def test_an_onnx_file_whose_weights_lie_outside_its_folder_is_refused(place: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(12))
    (tmp_path / "network").mkdir()
    (tmp_path / "network" / "net.onnx").write_bytes(colour_network(SIZE, external=place))
    with pytest.raises(BundleBuildError, match="cannot be read as ONNX"):
        build_with(tmp_path / "network" / "net.onnx", SPEC)
