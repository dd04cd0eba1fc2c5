"""A bundle gets the precision that it was asked for, measured against fp32, and no file that it does not need."""

import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app_tier.bundle.errors import BundleBuildError, BundleDigestError
from app_tier.bundle.load import DEMO_BUNDLE, Bundle, load_bundle, load_zip
from app_tier.bundle.manifest import INT8_IR_NAME, INT8_WEIGHTS_NAME, LowPrecision
from app_tier.engines import OpenVinoEngine, open_engine
from scripts.demo_model.signs import samples
from scripts.model import precision as module
from scripts.model.build import write_manifest
from scripts.model.precision import Compared, Target, choose_precision, compare
from scripts.model.sample_images import Labelled

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


@pytest.fixture(scope="module")
def int8_bundle(signs: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The demo bundle in int8, which takes NNCF seconds: built once, for reading only."""
    bundle = load_bundle(Path(shutil.copytree(DEMO_BUNDLE, tmp_path_factory.mktemp("int8") / "bundle")))
    return settled(bundle, choose_precision(bundle, Target("int8", signs)))


@pytest.fixture
def quantised_before(int8_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let quantising copy the network of `int8_bundle`, for tests of what follows it."""

    def quantise(bundle: Bundle, images: Iterable[Labelled]) -> tuple[Bundle, int]:
        names = (INT8_IR_NAME, INT8_WEIGHTS_NAME)
        for name in names:
            shutil.copy(int8_bundle.folder / name, bundle.folder)
        files = bundle.manifest.files | {name: int8_bundle.manifest.files[name] for name in names}
        return replace(bundle, manifest=bundle.manifest.model_copy(update={"files": files})), len(list(images))

    monkeypatch.setattr(module, "quantise", quantise)


def settled(bundle: Bundle, fields: dict[str, Any]) -> Bundle:
    write_manifest(bundle.manifest.model_copy(update=fields), bundle.folder)
    return load_bundle(bundle.folder)


def measured_as(monkeypatch: pytest.MonkeyPatch, **seconds: float) -> None:
    """Let each low precision answer as fp32 does, in so many seconds where fp32 takes one."""
    rows = np.array([[0.9, 0.1], [0.2, 0.8]], np.float32)

    def compared(_bundle: Bundle, _images: object, lows: tuple[LowPrecision, ...]) -> dict[LowPrecision, Compared]:
        return {low: Compared(rows, rows, np.array([0, 1]), 1.0, seconds[low]) for low in lows}

    monkeypatch.setattr(module, "compare", compared)


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
@pytest.mark.usefixtures("quantised_before")
@pytest.mark.parametrize(("bf16", "int8", "first"), [(0.5, 0.2, "int8"), (0.5, 0.7, "bf16")])
def test_exact_asks_first_what_was_faster_in_sum_and_keeps_only_its_files(
    bf16: float, int8: float, first: str, bundle: Bundle, signs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured_as(monkeypatch, bf16=bf16, int8=int8)
    built = settled(bundle, choose_precision(bundle, Target("exact", signs)))
    assert (built.manifest.precision, built.manifest.first) == ("exact", first)
    assert built.manifest.measured is not None
    assert built.manifest.measured.speeds == pytest.approx({"bf16": 1 / bf16, "int8": 1 / int8})
    assert (INT8_IR_NAME in built.manifest.files) == (built.folder / INT8_IR_NAME).exists() == (first == "int8")


@needs_int8
def test_the_demo_network_answers_as_fp32_does_when_it_asks_int8_first(
    bundle: Bundle, signs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OpenVinoEngine, "is_fast_in", lambda precision: precision == "int8")
    built = settled(bundle, choose_precision(bundle, Target("exact", signs, calibration=signs)))
    assert built.manifest.first == "int8"
    assert built.manifest.measured is not None
    assert (built.manifest.measured.images, built.manifest.measured.same_top1) == (40, 1)
    fresh = np.random.default_rng(5).normal(size=(200, 3, 32, 32)).astype(np.float32)
    exact, fp32 = (open_engine("openvino", built, precision=kind).infer(fresh) for kind in ("exact", "fp32"))
    assert np.mean(exact.argmax(1) == fp32.argmax(1)) >= 0.99


@needs_bf16
def test_without_nncf_exact_asks_bf16_first(bundle: Bundle, signs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "can_quantise", lambda: False)
    fields = choose_precision(bundle, Target("exact", signs))
    assert fields["first"] == "bf16"
    measured = fields["measured"]
    assert (measured.images, measured.labelled, measured.same_top1) == (40, 40, 1)
    assert measured.accuracy == measured.accuracy_fp32
    assert 0 < fields["margin"] < 2
    assert measured.source == f"folder {signs.name}"


@needs_bf16
@needs_int8
def test_a_network_that_nncf_cannot_quantise_is_exact_with_bf16_and_no_bundle_in_int8(
    bundle: Bundle, signs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*_arguments: object, **_options: object) -> None:
        raise ValueError("an operation nobody has heard of")

    monkeypatch.setattr("nncf.quantize", unsupported)
    assert choose_precision(bundle, Target("exact", signs))["first"] == "bf16"
    with pytest.raises(
        BundleBuildError, match=r"NNCF cannot quantise the network \(an operation nobody has heard of"
    ):
        choose_precision(bundle, Target("int8", signs))


@needs_int8
@pytest.mark.usefixtures("quantised_before")
def test_int8_that_answers_otherwise_is_refused_unless_forced(
    bundle: Bundle, signs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def disagreeing(_bundle: Bundle, _images: object, _lows: object) -> dict[str, Compared]:
        rows = np.array([[0.9, 0.1], [0.2, 0.8]], np.float32)
        return {"int8": Compared(rows, rows[::-1], np.array([-1, -1]), 1.0, 0.2)}

    monkeypatch.setattr(module, "compare", disagreeing)
    with pytest.raises(BundleBuildError, match=r"answers 100\.00% of 2 images otherwise than fp32"):
        choose_precision(bundle, Target("int8", signs))
    forced = choose_precision(bundle, Target("int8", signs, force=True))
    assert forced["measured"].same_top1 == 0


@needs_int8
def test_one_changed_bit_of_the_int8_network_is_refused(int8_bundle: Bundle, tmp_path: Path) -> None:
    damaged = Path(shutil.copytree(int8_bundle.folder, tmp_path / "damaged"))
    data = bytearray((damaged / INT8_WEIGHTS_NAME).read_bytes())
    data[len(data) // 2] ^= 1
    (damaged / INT8_WEIGHTS_NAME).write_bytes(data)
    with pytest.raises(BundleDigestError, match=INT8_WEIGHTS_NAME):
        load_bundle(damaged)


@pytest.mark.parametrize("target", [Target("exact"), Target("bf16"), Target("int8")])
def test_a_cpu_that_is_not_fast_in_low_precision_builds_fp32(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OpenVinoEngine, "is_fast_in", lambda _precision: False)
    assert choose_precision(load_bundle(), target) == {"precision": "fp32"}


def test_images_of_which_none_can_be_decoded_are_refused() -> None:
    with pytest.raises(BundleBuildError, match="none of the images can be classified"):
        compare(load_bundle(), [Labelled(b"no picture", None)], ())
