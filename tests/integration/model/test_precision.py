"""A bundle gets the precision that it was asked for, measured against fp32, and no file that it does not need.

What needs NNCF is thorough: it imports torch, which takes seconds of each process.
"""

import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app_tier.bundle import DEMO_BUNDLE, Bundle, BundleBuildError, file_digest, load_bundle, load_zip
from app_tier.engines import OpenVinoEngine, open_engine
from core.bundle_manifest import INT8_IR_NAME, INT8_WEIGHTS_NAME, IR_NAME, IR_WEIGHTS_NAME, LowPrecision
from scripts.demo_model.signs import samples
from scripts.model import precision as module
from scripts.model import sample_images
from scripts.model.build import write_manifest
from scripts.model.commands import rows_of
from scripts.model.precision import Compared, Target, choose_precision, compare, quantise
from scripts.model.sample_images import (
    CALIBRATION_IMAGES,
    FEW,
    UNKNOWN,
    Labelled,
    decoded,
    images_for,
    source_of,
    split_images,
)
from tests.support.processes import run_python

needs_bf16 = pytest.mark.skipif(not OpenVinoEngine.is_fast_in("bf16"), reason="this CPU has no bf16")
needs_int8 = pytest.mark.skipif(not OpenVinoEngine.is_fast_in("int8"), reason="this CPU is not fast in int8")


@pytest.fixture(scope="module")
def signs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty signs with their labels, and a file that is no picture."""
    folder = tmp_path_factory.mktemp("signs")
    for number, sample in enumerate(samples(40, seed=11, sizes=(((64, 64), 1.0),))):
        (folder / sample.label).mkdir(exist_ok=True)
        (folder / sample.label / f"{number}.png").write_bytes(sample.data)
    (folder / "broken.jpg").write_bytes(b"no picture")
    return folder


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return load_bundle(Path(shutil.copytree(DEMO_BUNDLE, tmp_path / "bundle")))


PROGRAM = """
import sys
from pathlib import Path
from app_tier.bundle import load_bundle
from scripts.model.precision import quantise
from scripts.model.sample_images import Labelled
from scripts.demo_model.signs import samples
from app_tier.engine_imports import import_openvino
bundle, images = load_bundle(Path(sys.argv[1])), (Labelled(sample.data, None) for sample in samples(20, seed=1))
quantised, count = quantise(bundle, images)
path, plain = str(quantised.path("model-int8.xml")), {"INFERENCE_PRECISION_HINT": "f32"}
layers = import_openvino().Core().compile_model(path, "CPU", plain).get_runtime_model().get_ops()
kinds = [[layer.get_rt_info()[key].astype(str) for key in ("layerType", "runtimePrecision")] for layer in layers]
convolutions = {precision in ("u8", "i8") for kind, precision in kinds if kind == "Convolution"}
adds = [kind for kind, _ in kinds if kind == "Eltwise"]  # none, since the convolution before each does it
print(count, convolutions, adds, "openvino_telemetry" in sys.modules)
"""


@pytest.fixture(scope="module")
def quantising(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, "subprocess.CompletedProcess[str]"]:
    """A folder in which a process has quantised the demo bundle, which takes NNCF seconds; and how it ended."""
    folder = Path(shutil.copytree(DEMO_BUNDLE, tmp_path_factory.mktemp("int8") / "bundle"))
    return folder, run_python(PROGRAM, str(folder))


def quantise_by_copying(monkeypatch: pytest.MonkeyPatch, network: Path, weights: Path) -> None:
    """Let `quantise` copy these files, for tests of what follows it."""

    def quantise(bundle: Bundle, images: Iterable[Labelled]) -> tuple[Bundle, int]:
        copied = {INT8_IR_NAME: network, INT8_WEIGHTS_NAME: weights}
        written = {name: file_digest(Path(shutil.copy(made, bundle.folder / name))) for name, made in copied.items()}
        manifest = bundle.manifest.model_copy(update={"files": bundle.manifest.files | written})
        return replace(bundle, manifest=manifest), len(list(decoded(images, manifest)))

    monkeypatch.setattr(module, "quantise", quantise)
    monkeypatch.setattr(module, "can_quantise", lambda: True)


@pytest.fixture
def quantised_before(
    quantising: tuple[Path, "subprocess.CompletedProcess[str]"], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Let `quantise` copy the network that the process has made."""
    made, _ = quantising
    quantise_by_copying(monkeypatch, made / INT8_IR_NAME, made / INT8_WEIGHTS_NAME)


@pytest.fixture
def without_nncf(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the network of fp32 stand for that of int8: what is measured of it is given."""
    quantise_by_copying(monkeypatch, DEMO_BUNDLE / IR_NAME, DEMO_BUNDLE / IR_WEIGHTS_NAME)


@pytest.fixture
def int8_bundle(bundle: Bundle, signs: Path, quantised_before: None) -> Bundle:
    """The demo bundle in int8."""
    return settled(bundle, choose_precision(bundle, Target("int8", signs)))


def settled(bundle: Bundle, fields: dict[str, Any]) -> Bundle:
    write_manifest(bundle.manifest.model_copy(update=fields), bundle.folder)
    return load_bundle(bundle.folder)


def measured_as(monkeypatch: pytest.MonkeyPatch, **seconds: float) -> None:
    """Let each low precision answer as fp32 does, in so many seconds where fp32 takes one."""
    rows = np.array([[0.9, 0.1], [0.2, 0.8]], np.float32)

    def compared(_bundle: Bundle, _images: object, lows: tuple[LowPrecision, ...]) -> dict[LowPrecision, Compared]:
        return {low: Compared(rows, rows, np.array([0, 1]), 1.0, seconds[low]) for low in lows}

    monkeypatch.setattr(module, "compare", compared)


@pytest.mark.thorough
@needs_int8
def test_int8_is_written_measured_on_other_images_and_answers_from_a_zip_too(
    int8_bundle: Bundle, tmp_path: Path
) -> None:
    built = int8_bundle
    assert built.manifest.precision == "int8"
    assert {INT8_IR_NAME, INT8_WEIGHTS_NAME} <= built.manifest.files.keys()
    measured = built.manifest.measured
    assert measured is not None
    assert measured.calibrated + measured.images == 40
    assert measured.same_top1 >= 0.98
    noise = np.random.default_rng(3).normal(size=(50, 3, 32, 32)).astype(np.float32)
    fp32, ours = open_engine("openvino", built, precision="fp32").infer(noise), open_engine("openvino", built)
    assert 0 < np.abs(ours.infer(noise) - fp32).max() < 0.5
    assert built.digest != load_bundle().digest
    zipped = load_zip(Path(shutil.make_archive(str(tmp_path / "int8"), "zip", built.folder)), tmp_path / "cache")
    assert zipped.digest == built.digest
    assert (open_engine("openvino", zipped).infer(noise) == ours.infer(noise)).all()


@needs_int8
@needs_bf16
@pytest.mark.usefixtures("without_nncf")
@pytest.mark.parametrize(("bf16", "int8", "first"), [(0.5, 0.2, "int8"), (0.5, 0.7, "bf16")])
def test_exact_asks_first_what_was_faster_in_sum_and_keeps_only_its_files(
    bf16: float, int8: float, first: str, bundle: Bundle, signs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured_as(monkeypatch, bf16=bf16, int8=int8)
    built = settled(bundle, choose_precision(bundle, Target("exact", signs)))
    assert (built.manifest.precision, built.manifest.first) == ("exact", first)
    assert built.manifest.measured is not None
    assert built.manifest.measured.speeds == pytest.approx({"bf16": 1 / bf16, "int8": 1 / int8})
    assert built.manifest.measured.shares == {"bf16": 0, "int8": 0}
    assert (INT8_IR_NAME in built.manifest.files) == (built.folder / INT8_IR_NAME).exists() == (first == "int8")


@needs_int8
@pytest.mark.usefixtures("without_nncf")
def test_exact_is_fp32_alone_where_low_precision_with_its_repeats_is_not_faster(
    bundle: Bundle, signs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OpenVinoEngine, "is_fast_in", lambda precision: precision == "int8")
    fp32 = np.array([[0.9, 0.1], [0.51, 0.49]], np.float32)
    unsure = Compared(fp32, np.array([[0.9, 0.1], [0.49, 0.51]], np.float32), np.array([0, 0]), 1.0, 0.45)
    monkeypatch.setattr(module, "compare", lambda *_arguments: {"int8": unsure})
    plain = bundle.digest
    built = settled(bundle, choose_precision(bundle, Target("exact", signs)))
    assert (built.manifest.precision, built.digest) == ("fp32", plain)
    assert {path.name for path in built.folder.iterdir()} == {path.name for path in DEMO_BUNDLE.iterdir()}
    measured = built.manifest.measured
    assert measured is not None
    assert measured.speeds == {"int8": pytest.approx(1 / 0.95)}
    assert measured.shares == {"int8": 0.5}
    assert (measured.speed, measured.repeated, measured.same_top1, measured.accuracy) == (1, 0, 1, 1)
    assert isinstance(open_engine("openvino", built), OpenVinoEngine)
    said = dict(rows_of(built.manifest))["precision"]
    assert said.startswith("exact: fp32 alone, since int8 first would take 0.95 times as long: 50% of the images are")


@pytest.fixture
def low_precision_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ``exact`` take a low precision first, however a few images were timed on a busy machine."""
    monkeypatch.setattr(module, "MIN_GAIN", 0.0)


@pytest.mark.thorough
@needs_int8
@pytest.mark.usefixtures("low_precision_is_faster", "quantised_before")
def test_the_demo_network_answers_as_fp32_does_when_it_asks_int8_first(
    bundle: Bundle, signs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OpenVinoEngine, "is_fast_in", lambda precision: precision == "int8")
    built = settled(bundle, choose_precision(bundle, Target("exact", signs)))
    assert built.manifest.first == "int8"
    assert built.manifest.measured is not None
    assert (built.manifest.measured.images, built.manifest.measured.same_top1) == (20, 1)
    fresh = np.random.default_rng(5).normal(size=(200, 3, 32, 32)).astype(np.float32)
    exact, fp32 = (open_engine("openvino", built, precision=kind).infer(fresh) for kind in ("exact", "fp32"))
    assert np.mean(exact.argmax(1) == fp32.argmax(1)) >= 0.99


@needs_bf16
@pytest.mark.usefixtures("low_precision_is_faster")
def test_without_nncf_exact_asks_bf16_first(bundle: Bundle, signs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "can_quantise", lambda: False)
    fields = choose_precision(bundle, Target("exact", signs))
    assert fields["first"] == "bf16"
    measured = fields["measured"]
    assert (measured.images, measured.labelled, measured.same_top1) == (40, 40, 1)
    assert measured.accuracy == measured.accuracy_fp32
    assert 0 < fields["margin"] < 2
    assert measured.source == f"folder {signs.name}"


@pytest.mark.thorough
@needs_bf16
@needs_int8
@pytest.mark.usefixtures("low_precision_is_faster")
def test_a_network_that_nncf_cannot_quantise_is_exact_with_bf16_and_never_int8(
    bundle: Bundle, signs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*_arguments: object, **_options: object) -> None:
        raise ValueError("an unknown operation")

    monkeypatch.setattr("nncf.quantize", unsupported)
    assert choose_precision(bundle, Target("exact", signs))["first"] == "bf16"
    with pytest.raises(BundleBuildError, match=r"NNCF cannot quantise the network \(an unknown operation"):
        choose_precision(bundle, Target("int8", signs))


@pytest.mark.parametrize("target", [Target("exact"), Target("bf16"), Target("int8")])
def test_a_cpu_that_is_not_fast_in_low_precision_builds_fp32(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OpenVinoEngine, "is_fast_in", lambda _precision: False)
    assert choose_precision(load_bundle(), target) == {"precision": "fp32"}


def test_images_to_measure_on_of_which_none_can_be_decoded_are_refused() -> None:
    with pytest.raises(BundleBuildError, match="none of the images can be classified"):
        compare(load_bundle(), [Labelled(b"no picture", None)], ())


@pytest.mark.thorough
@pytest.mark.processes
def test_every_convolution_and_residual_add_is_int8_and_nothing_is_printed_or_sent(
    quantising: tuple[Path, "subprocess.CompletedProcess[str]"],
) -> None:
    _, ended = quantising
    assert ended.stdout.strip() == "20 {True} [] False"
    assert ended.stderr == ""


@pytest.mark.thorough
def test_images_to_calibrate_on_of_which_none_can_be_decoded_are_refused() -> None:
    with pytest.raises(BundleBuildError, match="none of the images to calibrate int8 on"):
        quantise(load_bundle(), [Labelled(b"no picture", None)])


def test_without_nncf_the_command_that_installs_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(BundleBuildError, match=r"nncf is not installed.*\./scripts/setup\.sh torch"):
        quantise(load_bundle(), [Labelled(sample.data, None) for sample in samples(1, seed=1)])


def folder_of(path: Path, count: int) -> Path:
    for number in range(count):
        (path / f"label {number % 2}").mkdir(parents=True, exist_ok=True)
        (path / f"label {number % 2}" / f"{number}.png").write_bytes(b"%d" % number)
    return path


def test_without_a_folder_other_images_are_drawn_to_calibrate_than_to_measure_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sample_images, "CALIBRATION_IMAGES", 20)
    monkeypatch.setattr(sample_images, "DRAWN_IMAGES", 40)
    calibration, measured = (set(images) for images in split_images(None))
    assert (len(calibration), len(measured)) == (20, 40)
    assert not calibration & measured
    assert sum(image.label is None for image in measured) == 20
    assert "drawn" in source_of(None)


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
