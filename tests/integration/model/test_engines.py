"""Both engines give the same answers, the worker's one needs no torch, and pixels are those of torchvision.

What needs torch is thorough: to import it takes seconds of each process.
"""

from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from app_tier.bundle import Bundle, EngineError, load_bundle
from app_tier.classify import shares_of
from app_tier.engines import Batch, ExactEngine, OpenVinoEngine, TorchEngine, open_engine
from app_tier.preprocess import load_pixels, load_square
from core.bundle_manifest import IR_NAME, Precision, Preprocess
from scripts.demo_model.signs import samples
from tests.support.processes import run_python
from tests.support.waiting import DEADLINE_SECONDS

DRAWN = 100
TORCH = pytest.param("torch", marks=pytest.mark.thorough)


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return load_bundle()


@pytest.fixture(scope="module")
def truth_and_batch(bundle: Bundle) -> tuple[list[str], Batch]:
    drawn = list(samples(DRAWN, seed=2024))
    spec = bundle.manifest.preprocess
    return [sample.label for sample in drawn], np.stack([load_pixels(sample.data, spec) for sample in drawn])


@pytest.mark.thorough
def test_openvino_answers_as_torch_does(bundle: Bundle, truth_and_batch: tuple[list[str], Batch]) -> None:
    _, batch = truth_and_batch
    ours = open_engine("openvino", bundle).infer(batch)
    reference = open_engine("torch", bundle).infer(batch)
    assert ours.shape == reference.shape == (DRAWN, len(bundle.labels))
    assert (ours.argmax(1) == reference.argmax(1)).all()
    assert np.abs(ours - reference).max() < 1e-2


def test_at_least_99_of_100_drawn_signs_are_right(bundle: Bundle, truth_and_batch: tuple[list[str], Batch]) -> None:
    truth, batch = truth_and_batch
    answers = [bundle.labels[best] for best in OpenVinoEngine(bundle).infer(batch).argmax(1)]
    assert sum(a == t for a, t in zip(answers, truth, strict=True)) >= 99


@pytest.mark.parametrize("name", ["openvino", TORCH])
def test_an_answer_does_not_depend_on_the_batch_it_came_in(
    name: str, bundle: Bundle, truth_and_batch: tuple[list[str], Batch]
) -> None:
    batch = truth_and_batch[1][:9]
    engine = open_engine(name, bundle)
    together = engine.infer(batch)
    alone = np.concatenate([engine.infer(batch[k : k + 1]) for k in range(9)])
    assert np.abs(together - alone).max() < 1e-4


def test_openvino_sees_batches_of_few_sizes_for_each_of_which_it_keeps_memory(bundle: Bundle) -> None:
    engine, sizes = OpenVinoEngine(bundle), list[int]()

    class Recorder:
        def __init__(self, request: Any) -> None:
            self._request = request

        def start_async(self, batches: list[Batch], share_inputs: bool) -> None:
            sizes.append(len(batches[0]))
            self._request.start_async(batches, share_inputs=share_inputs)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._request, name)

    engine._idle.put_nowait(Recorder(engine._idle.get_nowait()))
    assert [len(engine.infer(np.zeros((count, 3, 32, 32), np.float32))) for count in (1, 7, 8)] == [1, 7, 8]
    assert sizes == [1, 4, 2, 1, 8]


@pytest.mark.parametrize(
    ("name", "precision", "within"),
    [
        ("openvino", "fp32", 1e-3),
        ("openvino", "bf16", 0.1),
        ("openvino", "exact", 0.1),
        pytest.param("torch", "fp32", 1e-4, marks=pytest.mark.thorough),
    ],
)
def test_some_labels_have_the_softmax_of_the_logits_of_these_labels_alone(
    name: str, precision: Precision, within: float, bundle: Bundle, truth_and_batch: tuple[list[str], Batch]
) -> None:
    batch, random = truth_and_batch[1], np.random.default_rng(5)
    possible = random.random((len(batch), len(bundle.labels))) < 0.3
    possible[:, 0], possible[0] = True, True  # at least one label in each image, and all in the first
    logits = np.log(open_engine(name, bundle, precision="fp32").infer(batch).astype(np.float64))
    powers = np.exp(logits - logits.max(1, keepdims=True, where=possible, initial=-np.inf)) * possible
    opened = in_precision(bundle, precision, 0.25 if precision == "exact" else None)
    scores = open_engine(name, opened, precision=precision).infer(batch, possible)
    assert scores.dtype == np.float32
    assert (scores[~possible] == 0).all()
    assert np.abs([shares_of(row) for row in scores] - powers / powers.sum(1, keepdims=True)).max() < within


def test_an_answer_stays_what_it_was_when_the_next_batch_is_asked(
    bundle: Bundle, truth_and_batch: tuple[list[str], Batch]
) -> None:
    engine = OpenVinoEngine(bundle)
    first = engine.infer(truth_and_batch[1][:4])
    kept = first.copy()
    engine.infer(truth_and_batch[1][4:8])
    assert (first == kept).all()


@pytest.mark.parametrize(
    ("name", "precision"),
    [("openvino", "fp32"), ("openvino", "exact"), pytest.param("torch", "fp32", marks=pytest.mark.thorough)],
)
def test_two_threads_at_once_get_the_answers_that_one_gets(
    name: str, precision: Precision, bundle: Bundle, truth_and_batch: tuple[list[str], Batch]
) -> None:
    opened = in_precision(bundle, precision, 0.25 if precision == "exact" else None)
    engine = open_engine(name, opened, threads=2, streams=2)
    parts = np.array_split(truth_and_batch[1], 10)
    with ThreadPoolExecutor(2) as threads:
        together = list(threads.map(engine.infer, parts * 2))
    alone = [engine.infer(part) for part in parts]
    # Exact answers change by what bf16 and fp32 differ by, when the engine chooses the other way as the faster one.
    most = 0.02 if precision == "exact" else 0
    assert all(np.abs(ours - theirs).max() <= most for ours, theirs in zip(together, alone * 2, strict=True))
    assert all((ours.argmax(1) == theirs.argmax(1)).all() for ours, theirs in zip(together, alone * 2, strict=True))


def test_more_threads_than_streams_wait_for_their_turn(
    bundle: Bundle, truth_and_batch: tuple[list[str], Batch]
) -> None:
    engine = OpenVinoEngine(bundle)
    expected = engine.infer(truth_and_batch[1])
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(engine.infer, [truth_and_batch[1]] * 8))
    assert all((answer == expected).all() for answer in answers)


def test_a_call_that_gets_no_stream_in_time_says_so(
    bundle: Bundle, truth_and_batch: tuple[list[str], Batch], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = OpenVinoEngine(bundle)
    monkeypatch.setattr("app_tier.engines.MAX_WAIT_SECONDS", 0.01)
    with engine._request(), pytest.raises(EngineError, match="more threads ask than there are streams"):
        engine.infer(truth_and_batch[1])


@pytest.mark.processes
def test_a_network_without_memory_for_a_batch_gives_no_answer_then_or_later() -> None:
    program = """
import os, resource, numpy
from app_tier.bundle import load_bundle
from app_tier.engines import open_engine
engine = open_engine("openvino", load_bundle())
batch = numpy.zeros((64, 3, 32, 32), "float32")
engine.infer(batch[:1])
pages = int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize(), resource.RLIM_INFINITY))
for images in (64, 1):
    try:
        print("answered", engine.infer(batch[:images]).shape, flush=True)
    except Exception as error:
        print(type(error).__name__, str(error)[:28], flush=True)
os._exit(0)  # in good order it may not end: its heap is damaged
"""
    ran = run_python(program)
    assert ran.stdout.splitlines() == ["EngineError OpenVINO failed on 64 images"] * 2


def test_an_unknown_engine_is_refused_with_the_choices(bundle: Bundle) -> None:
    with pytest.raises(EngineError, match="no engine 'tensorrt': set engine to one of openvino, torch"):
        open_engine("tensorrt", bundle)


def test_a_network_that_openvino_cannot_read_is_named(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / IR_NAME).write_text("<net>")
    with pytest.raises(EngineError, match="OpenVINO cannot run bundle demo"):
        OpenVinoEngine(Bundle(tmp_path, bundle.manifest, bundle.digest))


@pytest.mark.processes
def test_classifying_with_openvino_imports_neither_torch_nor_a_converter_nor_makers_of_networks() -> None:
    program = """
import sys, numpy
from app_tier.bundle import load_bundle
from app_tier.engines import open_engine
open_engine("openvino", load_bundle()).infer(numpy.zeros((1, 3, 32, 32), "float32"))
slow = ("torch", "torchvision", "nncf", "openvino.tools.ovc", "openvino_telemetry")
print([name for name in sys.modules if name in slow or name.startswith("openvino.opset")])
import openvino
print(openvino.opset13.relu.__name__, hasattr(openvino, "opset99"))
from openvino import opset1
print(opset1.relu.__name__)
"""
    ran = run_python(program)
    assert ran.stdout.splitlines() == ["[]", "relu False", "relu"]


@pytest.mark.processes
def test_the_torch_engine_without_torch_says_how_to_install_it() -> None:
    program = """
import sys
sys.modules["torch"] = None
from app_tier.bundle import load_bundle
from app_tier.engines import open_engine
try:
    open_engine("torch", load_bundle())
except Exception as error:
    print(type(error).__name__, error)
"""
    ran = run_python(program)
    assert ran.stdout.strip() == "EngineError torch is not installed: run ./scripts/setup.sh torch"


def in_precision(bundle: Bundle, precision: Precision, margin: float | None = None) -> Bundle:
    changes = {"precision": precision, "margin": margin}
    return Bundle(bundle.folder, bundle.manifest.model_copy(update=changes), bundle.digest)


@pytest.mark.skipif(not OpenVinoEngine.is_fast_in("bf16"), reason="this CPU has no bf16")
def test_exact_answers_as_fp32_where_bf16_alone_does_not(bundle: Bundle) -> None:
    noise = np.random.default_rng(3).normal(size=(300, 3, 32, 32)).astype(np.float32)
    fp32, bf16 = (OpenVinoEngine(bundle, 2, precision).infer(noise) for precision in ("fp32", "bf16"))
    exact = open_engine("openvino", in_precision(bundle, "exact", 0.25), 2)
    assert isinstance(exact, ExactEngine)
    assert (exact.infer(noise).argmax(1) == fp32.argmax(1)).all()
    assert not (bf16 == fp32).all()


@pytest.mark.parametrize("precision", ["exact", "bf16", "int8"])
def test_a_cpu_that_is_not_fast_in_low_precision_answers_in_fp32_alone(
    precision: Precision, bundle: Bundle, truth_and_batch: tuple[list[str], Batch], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OpenVinoEngine, "is_fast_in", lambda _precision: False)
    batch = truth_and_batch[1][:8]
    engine = open_engine("openvino", in_precision(bundle, precision, 0.1 if precision == "exact" else None))
    assert isinstance(engine, OpenVinoEngine)
    assert (engine.infer(batch) == OpenVinoEngine(bundle).infer(batch)).all()


def test_exact_needs_a_bundle_with_a_margin(bundle: Bundle) -> None:
    with pytest.raises(EngineError, match="no measured margin for exact answers: build it with --precision exact"):
        open_engine("openvino", bundle, precision="exact")


@pytest.mark.thorough
def test_torch_on_a_cpu_is_the_fp32_reference_for_every_bundle(
    bundle: Bundle, truth_and_batch: tuple[list[str], Batch]
) -> None:
    batch = truth_and_batch[1][:4]
    engine = open_engine("torch", in_precision(bundle, "bf16"))
    assert (engine.infer(batch) == open_engine("torch", bundle).infer(batch)).all()


@pytest.mark.thorough
def test_the_torch_engine_computes_in_bf16_as_it_does_on_a_gpu(
    bundle: Bundle, truth_and_batch: tuple[list[str], Batch]
) -> None:
    batch = truth_and_batch[1]
    bf16, fp32 = (TorchEngine(bundle, 1, precision).infer(batch) for precision in ("bf16", "fp32"))
    assert bf16.dtype == np.float32
    assert 0 < np.abs(bf16 - fp32).max() < 0.2
    assert np.mean(bf16.argmax(1) == fp32.argmax(1)) >= 0.98


FOUR_ASK_FIRST = """
import faulthandler, os, sys, threading
import numpy as np
from app_tier.bundle import load_bundle
from app_tier.engines import open_engine
def four_ask():
    faulthandler.dump_traceback_later(float(sys.argv[1]), exit=True)
    engine, together = open_engine("openvino", load_bundle(), threads=4, streams=4), threading.Barrier(4)
    def ask():
        together.wait()
        engine.infer(np.zeros((1, 3, 32, 32), np.float32))
    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
assert "openvino" not in sys.modules
for _ in range(6):
    if os.fork() == 0:
        four_ask()
        os._exit(0)
print([os.wait()[1] for _ in range(6)])
"""


@pytest.mark.processes
def test_threads_whose_first_question_comes_at_the_same_time_are_all_answered() -> None:
    """Of a process without the tables that `import_openvino` fills, every second one hung for ever."""
    assert run_python(FOUR_ASK_FIRST, str(DEADLINE_SECONDS / 2)).stdout.strip() == str([0] * 6)


SIZES = pytest.mark.parametrize("size", [(64, 64), (1600, 1200), (333, 517), (31, 33), (1, 70), (50, 7)])


@pytest.mark.thorough
@SIZES
@pytest.mark.parametrize(("resize", "crop"), [(32, 32), (256, 224), (232, 224)])
def test_geometry_is_that_of_torchvisions_presets(size: tuple[int, int], resize: int, crop: int) -> None:
    from torchvision.transforms import InterpolationMode, functional

    image = noise(size)
    theirs = functional.center_crop(functional.resize(image, resize, InterpolationMode.BILINEAR), [crop, crop])
    assert np.abs(seen(image, resize=resize, crop=crop).astype(int) - np.asarray(theirs)).max() <= 2


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
@SIZES
def test_each_fit_and_interpolation_is_that_of_torchvision_or_pillow(
    size: tuple[int, int], interpolation: str
) -> None:
    image, resampling = noise(size), Image.Resampling[interpolation.upper()]
    described: dict[str, Any] = {"crop": (48, 64), "fill": (9, 99, 200), "interpolation": interpolation}
    stretched, padded = image.resize((64, 48), resampling), ImageOps.pad(image, (64, 48), resampling, (9, 99, 200))
    assert (seen(image, fit="stretch", resize=(48, 64), **described) == np.asarray(stretched)).all()
    assert (seen(image, fit="pad", resize=(48, 64), **described) == np.asarray(padded)).all()
    # As torchvision's functions do: of a short side of 80 pixels the other follows, rounded down, as corners are not.
    covering = tuple(80 * side // min(size) for side in size)
    for fit, (width, height) in (("crop", covering), ("stretch", (80, 80))):
        left, top = round((width - 64) / 2), round((height - 48) / 2)
        cropped = image.resize((width, height), resampling).crop((left, top, left + 64, top + 48))
        difference = seen(image, fit=fit, resize=80, **described).astype(int) - np.asarray(cropped)
        # Pillow resizes the side first that saves more, which a crop can change; noise's overshoot is cut off then.
        assert np.abs(difference).mean() < 1, fit


def noise(size: tuple[int, int]) -> Image.Image:
    return Image.fromarray(np.random.default_rng(3).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def seen(image: Image.Image, **described: Any) -> NDArray[np.uint8]:
    encoded = BytesIO()
    image.save(encoded, "BMP")
    return load_square(encoded.getvalue(), Preprocess(mean=(0, 0, 0), std=(1, 1, 1), **described))
