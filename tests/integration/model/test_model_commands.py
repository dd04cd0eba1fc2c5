"""``fleetsight model``: what people type, and what they read."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image, ImageOps

from app_tier.bundle import DEMO_BUNDLE, load_bundle
from app_tier.engines import OpenVinoEngine
from core.bundle_manifest import IR_NAME, IR_WEIGHTS_NAME
from scripts.demo_model.signs import samples
from scripts.model.group import model
from tests.support.bundles import broken_bundle
from tests.support.onnx_file import colour_network


def run(*arguments: str) -> Result:
    return CliRunner().invoke(model, arguments)


def pictures(folder: Path, count: int) -> Path:
    folder.mkdir()
    for number, sample in enumerate(samples(count, seed=3, sizes=(((64, 64), 1.0),))):
        (folder / f"{number}.png").write_bytes(sample.data)
    return folder


@pytest.fixture
def own_network(tmp_path: Path) -> tuple[str, ...]:
    """The file and options of a small network of three colours."""
    (tmp_path / "net.onnx").write_bytes(colour_network(16))
    (tmp_path / "spec.yaml").write_text(
        "input_size: 16\nfit: crop\nmean: [0.5]\nstd: [0.5]\nlabels: [red, green, blue]\n"
    )
    return (str(tmp_path / "net.onnx"), "--spec", str(tmp_path / "spec.yaml"))


def test_verify_without_torch_still_checks_the_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scripts.model.commands.find_spec", lambda _name: None)
    ran = run("verify")
    assert ran.exit_code == 0
    assert "the engines were not compared: ./scripts/setup.sh torch" in ran.output


def weights_without_numbers() -> bytes:
    """Return the demo bundle's weights with NaN in each tensor of floating-point numbers."""
    weights = bytearray((DEMO_BUNDLE / IR_WEIGHTS_NAME).read_bytes())
    network = (DEMO_BUNDLE / IR_NAME).read_text(encoding="utf-8")
    for bits, at, size in re.findall(r'element_type="f(\d\d)" shape="[^"]*" offset="(\d+)" size="(\d+)"', network):
        number = np.full(int(size) * 8 // int(bits), np.nan, f"float{bits}").tobytes()
        weights[int(at) : int(at) + int(size)] = number
    return bytes(weights)


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        (IR_WEIGHTS_NAME, weights_without_numbers(), "is no number"),
        (IR_WEIGHTS_NAME, b"short", "OpenVINO cannot run bundle broken"),
        (IR_NAME, b"<net>", "OpenVINO cannot run bundle broken"),
    ],
)
def test_verify_refuses_a_network_that_cannot_be_loaded_or_answers_with_no_numbers(
    tmp_path: Path, file: str, content: bytes, reason: str
) -> None:
    broken_bundle(tmp_path / "broken", "broken", file, content)
    ran = run("verify", str(tmp_path / "broken"))
    assert (ran.exit_code, ran.output.count("\n")) == (1, 2), ran.output
    assert reason in ran.output


def test_verify_refuses_a_damaged_bundle_in_one_line(tmp_path: Path) -> None:
    damaged = Path(shutil.copytree(DEMO_BUNDLE, tmp_path / "bundle"))
    (damaged / IR_WEIGHTS_NAME).write_bytes(b"short")
    ran = run("verify", str(damaged))
    assert ran.exit_code == 1
    assert ran.output.startswith("Error: ")
    assert "model.bin has SHA-256" in ran.output


@pytest.mark.skipif(not OpenVinoEngine.is_fast_in("bf16"), reason="this CPU is not fast in bf16")
def test_build_is_exact_by_default_and_says_on_which_images_it_was_measured(
    own_network: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scripts.model.precision.MIN_GAIN", 0.0)  # four images say little about speed
    monkeypatch.setattr("scripts.model.precision.can_quantise", lambda: False)  # NNCF imports torch
    images = ("--images", str(pictures(tmp_path / "pictures", 4)))
    ran = run("build", *own_network, *images, "--out", str(tmp_path / "bundle"))
    assert ran.exit_code == 0, ran.output
    assert load_bundle(tmp_path / "bundle").manifest.precision == "exact"
    assert "4 images: folder pictures" in ran.output
    assert "the two best logits differ by less than" in run("show", str(tmp_path / "bundle")).output


def test_independent_labels_are_built_in_fp32_unless_another_precision_is_asked_for(
    own_network: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "spec.yaml").write_text(
        "input_size: 16\nfit: crop\nmean: [0.5]\nstd: [0.5]\nlabels: [red, green, blue]\noutputs: sigmoid\n"
    )
    ran = run("build", *own_network, "--out", str(tmp_path / "bundle"))
    assert "its labels are independent, so it answers in fp32" in ran.output
    assert load_bundle(tmp_path / "bundle").manifest.precision == "fp32"


def test_try_prints_labels_and_writes_what_the_network_saw(own_network: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(
        "input_size: [16, 16]\nlabels: [red, green, blue]\nfit: pad\nmean: [0.5]\nstd: [0.5]\nfill: [1, 2, 3]\n"
    )
    assert run("build", *own_network, "--precision", "fp32", "--out", str(tmp_path / "bundle")).exit_code == 0
    photo, seen = tmp_path / "0.png", tmp_path / "seen"
    Image.new("RGB", (64, 32), "blue").save(photo)
    ran = run("try", str(tmp_path / "bundle"), str(photo), "--out", str(seen))
    assert ran.output.startswith(f"{photo}: blue "), ran.output
    with Image.open(photo) as image, Image.open(seen / "1-0.png") as written:
        expected = ImageOps.pad(image, (16, 16), Image.Resampling.BILINEAR, (1, 2, 3))
        assert written.tobytes() == expected.tobytes()
    (tmp_path / "text.jpg").write_text("no image")
    ran = run("try", str(tmp_path / "bundle"), str(tmp_path / "text.jpg"))
    assert (ran.exit_code, ran.output.count("\n")) == (1, 1)
    assert f"{tmp_path}/text.jpg: this is not an image" in ran.output


def test_build_says_where_this_cpu_cannot_measure_low_precision(
    own_network: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OpenVinoEngine, "is_fast_in", lambda _precision: False)
    ran = run("build", *own_network, "--out", str(tmp_path / "bundle"))
    assert ran.exit_code == 0, ran.output
    assert "not fast in bf16 or int8, or lacks ./scripts/setup.sh torch for int8" in ran.output
    assert "so it could not be measured and the bundle is fp32" in ran.output


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((), "Missing argument 'SOURCE'"),
        (("net.onnx",), "needs --spec"),
        (("resnet18", "--spec", "spec.yaml"), "a name has none"),
        (("net.onnx", "--spec", "spec.yaml", "--weights", "own.pth"), "--weights is for a network of torchvision"),
        (("photos", "--weights", "own.pth"), "--weights is for a network of torchvision"),
        (("resnet18", "--labels", __file__), "--labels is for --weights"),
    ],
)
def test_build_says_which_options_go_together(arguments: tuple[str, ...], complaint: str) -> None:
    ran = run("build", *arguments)
    assert ran.exit_code == 2
    assert complaint in ran.output
