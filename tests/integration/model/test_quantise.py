"""Quantising is quiet, phones nobody, and says what is missing."""

import subprocess
import sys
from pathlib import Path

import pytest

from app_tier.bundle.errors import BundleBuildError
from app_tier.bundle.load import load_bundle
from scripts.demo_model.signs import samples
from scripts.model.quantise import quantise
from scripts.model.sample_images import Labelled
from tests.support.waiting import DEADLINE_SECONDS

PROGRAM = """
import shutil, sys
from pathlib import Path
from app_tier.bundle.load import DEMO_BUNDLE, load_bundle
from scripts.model.quantise import forget_int8, quantise
from scripts.model.sample_images import Labelled
from scripts.demo_model.signs import samples
from app_tier.engine_imports import import_openvino
bundle = load_bundle(Path(shutil.copytree(DEMO_BUNDLE, Path(sys.argv[1]) / "bundle")))
quantised, count = quantise(bundle, [Labelled(sample.data, None) for sample in samples(20, seed=1)])
path, plain = str(quantised.path("model-int8.xml")), {"INFERENCE_PRECISION_HINT": "f32"}
layers = import_openvino().Core().compile_model(path, "CPU", plain).get_runtime_model().get_ops()
kinds = [[layer.get_rt_info()[key].astype(str) for key in ("layerType", "runtimePrecision")] for layer in layers]
convolutions = {precision in ("u8", "i8") for kind, precision in kinds if kind == "Convolution"}
adds = [kind for kind, _ in kinds if kind == "Eltwise"]  # none, since the convolution before each does it
same = forget_int8(quantised).digest == bundle.digest and len(list(bundle.folder.iterdir())) == 4
print(count, convolutions, adds, same, "openvino_telemetry" in sys.modules)
"""


@pytest.mark.processes
def test_every_convolution_and_residual_add_is_int8_nothing_is_printed_and_nobody_told(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        timeout=DEADLINE_SECONDS,
    )
    assert ran.stdout.strip() == "20 {True} [] True False"
    assert ran.stderr == ""


def test_images_of_which_none_can_be_decoded_are_refused() -> None:
    with pytest.raises(BundleBuildError, match="none of the images to calibrate int8 on"):
        quantise(load_bundle(), [Labelled(b"no picture", None)])


def test_without_nncf_the_command_that_installs_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(BundleBuildError, match=r"nncf is not installed.*\./scripts/setup\.sh torch"):
        quantise(load_bundle(), [Labelled(sample.data, None) for sample in samples(1, seed=1)])
