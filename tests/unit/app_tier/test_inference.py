"""From an image's bytes to its prediction: pixels, the engines' answers, and what follows from them."""

from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from app_tier.bundle import DEMO_BUNDLE, EngineError, read_manifest
from app_tier.classify import Classifier, shares_of, top_labels
from app_tier.decode import Pixels, decode
from app_tier.engines import (
    RECHECK_BATCHES,
    Batch,
    ExactEngine,
    ExactPace,
    Possible,
    has_int8_dot_products,
    of_possible,
    top_two_gap,
)
from app_tier.preprocess import load_pixels, load_square
from app_tier.task import Task, new_task
from core.bundle_manifest import Preprocess
from core.images import FORMATS, ImageLimits, ImageRejectedError
from core.label_sets import classes_in, label_set
from core.messages import MODEL_FAILED, RequestedModel
from scripts.demo_model.signs import draw, encode
from tests.support.clocks import ManualClock
from tests.support.hostile_images import HONEST
from tests.support.unsandboxed import central_crop
from tests.support.worker import (
    colour_bundle,
    colour_model,
    delivery,
    fetched,
    picture,
)

DEMO_PREPROCESS = read_manifest(DEMO_BUNDLE).preprocess
IMAGENET_PREPROCESS = Preprocess(resize=256, crop=224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))

PLAIN = Preprocess(resize=32, crop=32, mean=(0, 0, 0), std=(1, 1, 1))
RED, WHITE = (200, 20, 20), (255, 255, 255)


def encoded(image: Image.Image, format_name: str = "PNG", **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, format_name, **options)
    return buffer.getvalue()


def half_and_half() -> Image.Image:
    """Left half black, right half white."""
    image = Image.new("RGB", (64, 64), "black")
    image.paste("white", (32, 0, 64, 64))
    return image


def middle(data: bytes) -> tuple[int, int, int]:
    red, green, blue = load_square(data, PLAIN)[16, 16]
    return int(red), int(green), int(blue)


def about(expected: Any) -> Any:
    return pytest.approx(expected, abs=6)


def test_pixels_are_float32_channels_first_and_normalised() -> None:
    spec = Preprocess(resize=8, crop=8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.25, 0.5))
    pixels = load_pixels(encoded(Image.new("RGB", (20, 10), (255, 255, 0))), spec)
    assert pixels.shape == (3, 8, 8)
    assert pixels.dtype == np.float32
    assert pixels[:, 4, 4] == pytest.approx([1, 2, -1])


@pytest.mark.parametrize("mode", ["1", "LA", "P"])
def test_every_png_mode_gives_its_colour(mode: str) -> None:
    grey = Image.new("RGB", (40, 40), WHITE if mode == "1" else (102, 102, 102)).convert(mode)
    assert middle(encoded(grey)) == about(WHITE if mode == "1" else (102, 102, 102))


@pytest.mark.parametrize("kind", [kind for kind in HONEST if "16-bit" in kind])
def test_16_bits_keep_their_brightness(kind: str) -> None:
    assert middle(HONEST[kind]()) == about((156, 156, 156))


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
@pytest.mark.parametrize("mode", ["RGB", "CMYK", "L"])
def test_jpeg_of_every_kind_gives_its_colour(mode: str, options: dict[str, Any]) -> None:
    image = Image.new("RGB", (40, 40), RED).convert(mode)
    assert middle(encoded(image, "JPEG", **options)) == about(image.convert("RGB").getpixel((0, 0)))


def test_the_extreme_aspect_ratio_costs_nothing() -> None:
    assert middle(encoded(Image.new("RGB", (100_000, 1), RED))) == about(RED)


_UPRIGHT = [
    *range(2),
    *(
        Image.Transpose[name]
        for name in (
            "FLIP_LEFT_RIGHT",
            "ROTATE_180",
            "FLIP_TOP_BOTTOM",
            "TRANSPOSE",
            "ROTATE_90",
            "TRANSVERSE",
            "ROTATE_270",
        )
    ),
]


@pytest.mark.parametrize("size", [(320, 240), (427, 641)])
@pytest.mark.parametrize(
    ("resize", "crop", "more"),
    [
        *((resize, crop, {}) for resize, crop in ((256, 224), (232, 224), (224, 224), (36, 32), (65, 64))),
        ((57, 80), (48, 63), {"interpolation": "bicubic"}),
        ((57, 80), (48, 63), {"fit": "stretch"}),
        ((48, 63), (48, 63), {"fit": "pad", "fill": (9, 99, 200)}),
    ],
)
def test_a_turned_photo_has_the_crop_of_the_upright_one(
    size: tuple[int, int], resize: Any, crop: Any, more: dict[str, Any]
) -> None:
    spec = Preprocess(resize=resize, crop=crop, mean=(0, 0, 0), std=(1, 1, 1), **more)
    upright, exif = Image.effect_noise(size, 80).convert("RGB"), Image.Exif()
    expected = load_square(encoded(upright, compress_level=1), spec)
    for orientation in range(2, 9):
        exif[0x0112] = orientation
        turned = encoded(upright.transpose(_UPRIGHT[orientation]), exif=exif.tobytes(), compress_level=1)
        difference = np.abs(load_square(turned, spec).astype(int) - expected)
        assert difference.mean() < 0.5, orientation
        # A side is resized before the other, and each step rounds by at most half a level: both orders are within one
        # level of the exact value, so within two of each other. Bicubic's overshoot of noise is cut off between them.
        assert difference.max() <= 2 or spec.interpolation == "bicubic", orientation


def test_broken_exif_does_not_cost_a_good_picture() -> None:
    data = encoded(half_and_half(), "JPEG", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff")
    assert load_square(data, PLAIN)[16, 29].min() > 200


@pytest.mark.parametrize("format_name", FORMATS)
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_truncated_image_is_refused_and_says_so(format_name: str, share: float) -> None:
    picture, _ = draw(3, seed=1, size=(160, 120))
    data = encoded(picture, format_name)
    with pytest.raises(ImageRejectedError) as caught:
        load_pixels(data[: int(len(data) * share)], PLAIN)
    assert caught.value.code == "truncated"
    assert str(int(len(data) * share)) in caught.value.message


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
def test_a_large_jpeg_may_lack_its_end_mark_alone_also_at_a_reduced_scale(options: dict[str, Any]) -> None:
    picture, _ = draw(3, seed=1, size=(3_200, 3_100))
    data = encoded(picture, "JPEG", **options)
    assert (load_square(data[:-2], PLAIN) == load_square(data, PLAIN)).all()
    with pytest.raises(ImageRejectedError, match=r"^the JPEG of 3200 x 3100 pixels ends after \d+ bytes, before"):
        load_square(data[:-3], PLAIN)


def test_a_damaged_image_is_refused_as_undecodable() -> None:
    data = bytearray(encoded(half_and_half(), "PNG"))
    at = data.index(b"IDAT") + 6
    data[at : at + 8] = b"\xff" * 8
    with pytest.raises(ImageRejectedError) as caught:
        load_pixels(bytes(data), PLAIN)
    assert caught.value.code == "undecodable"
    assert (
        caught.value.message == "the PNG of 64 x 64 pixels is damaged or of a rare kind: save it again as JPEG or PNG"
    )


@given(
    st.sampled_from(list(FORMATS)),
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=8),
)
def test_damage_anywhere_gives_pixels_or_a_refusal_and_nothing_else(
    format_name: str, damage: list[tuple[float, int]]
) -> None:
    data = bytearray(encoded(half_and_half(), format_name))
    for where, value in damage:
        data[int(where * (len(data) - 1))] = value
    try:
        assert load_square(bytes(data), PLAIN, ImageLimits(max_pixels=10**6)).shape == (32, 32, 3)
    except ImageRejectedError as error:
        assert error.message


@pytest.mark.parametrize(
    ("spec", "size"),
    [
        (DEMO_PREPROCESS, (1600, 1200)),
        (IMAGENET_PREPROCESS, (2800, 2100)),
        (Preprocess(resize=200, crop=176, mean=(0, 0, 0), std=(1, 1, 1)), (2800, 2100)),
        (PLAIN.model_copy(update={"resize": (160, 224), "crop": (160, 224), "fit": "stretch"}), (2800, 2100)),
        (PLAIN.model_copy(update={"resize": 224, "crop": 224, "fit": "pad"}), (2100, 2800)),
        (IMAGENET_PREPROCESS.model_copy(update={"interpolation": "bicubic"}), (2800, 2100)),
        (IMAGENET_PREPROCESS.model_copy(update={"interpolation": "lanczos"}), (2800, 2100)),
    ],
    ids=["32", "224 from half the sides", "176 from a quarter", "stretch", "pad", "bicubic", "lanczos"],
)
def test_reduced_decoding_of_a_large_jpeg_hardly_changes_a_pixel(spec: Preprocess, size: tuple[int, int]) -> None:
    picture, _ = draw(7, seed=5, size=size)
    data = encode(picture, "JPEG")
    reduced, full = load_square(data, spec), load_square(data, spec, full_resolution=True)
    difference = np.abs(reduced.astype(int) - full)
    assert 0 < difference.max() <= 12
    assert difference.mean() < 1


@pytest.mark.parametrize(
    ("spec", "short"),
    [
        (DEMO_PREPROCESS, 767),
        (IMAGENET_PREPROCESS, 1279),
        (PLAIN.model_copy(update={"resize": (64, 224), "crop": (64, 224), "fit": "stretch"}), 1119),
    ],
    ids=["32", "224", "64 x 224"],
)
def test_a_jpeg_that_is_not_much_larger_than_needed_is_decoded_in_full(spec: Preprocess, short: int) -> None:
    picture, _ = draw(7, seed=5, size=(short + 100, short))
    data = encode(picture, "JPEG")
    assert (load_square(data, spec) == load_square(data, spec, full_resolution=True)).all()


BUNDLE = colour_bundle()


@dataclass(frozen=True)
class SameAnswer:
    """Returns the same probabilities for each batch, as a network does after a failure that it did not report."""

    answer: Batch

    def infer(self, _batch: Batch, possible: Possible | None = None) -> Batch:
        return of_possible(self.answer, possible)


def two_tasks(answer: Batch) -> list[Task[Pixels]]:
    """Return the tasks of two images for a network with this answer."""
    return [
        decode(
            fetched(new_task(delivery(number)), colour_model(SameAnswer(answer))).with_payload(picture("red")),
            BUNDLE.manifest.preprocess,
            ImageLimits(),
            central_crop,
        )
        for number in range(2)
    ]


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (np.ones((1, 3), np.float32), r"answered \(1, 3\), not \(2, 3\)"),
        (np.ones((2, 4), np.float32), r"answered \(2, 4\), not \(2, 3\)"),
    ],
)
def test_what_cannot_be_the_answer_to_this_batch_is_the_engines_fault(answer: Batch, complaint: str) -> None:
    with pytest.raises(EngineError, match=complaint):
        Classifier("i-1", 2).classify(two_tasks(answer))


@pytest.mark.parametrize("score", [np.nan, np.inf])
def test_an_image_whose_scores_are_no_numbers_fails_alone_and_at_once(score: float) -> None:
    tasks = two_tasks(np.array([[0.1, score, 0.2], [0.1, 0.7, 0.2]], np.float32))
    failed, done = (task.payload for task in Classifier("i-1", 2).classify(tasks))
    assert (failed.status, failed.error, failed.attempts) == ("failed", MODEL_FAILED, 1)
    assert (done.status, done.label) == ("done", "green")


@given(st.integers(2, 1_200), st.integers(0, 2**32), st.floats(0.1, 12), st.data())
def test_shares_of_possible_labels_are_a_softmax_over_these_labels_alone(
    classes: int, seed: int, spread: float, data: st.DataObject
) -> None:
    random = np.random.default_rng(seed)
    logits = random.standard_normal(classes) * spread
    probabilities = (np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()).astype(np.float32)
    size = data.draw(st.integers(1, classes))
    # The least likely ones are far beyond the best five.
    chosen = np.argsort(logits)[:size] if data.draw(st.booleans()) else random.choice(classes, size, replace=False)
    labels = [f"{number}" for number in range(classes)]
    possible = list(classes_in(label_set("f" * 64, labels, {labels[number] for number in chosen})))
    assert possible == sorted(chosen.tolist())
    expected = np.exp(logits[possible] - logits[possible].max())
    occurs = np.zeros((1, classes), np.bool_)
    occurs[0, possible] = True
    shares = shares_of(of_possible(probabilities[None], occurs)[0])
    assert shares[possible] == pytest.approx(expected / expected.sum(), rel=1e-4)
    assert float(shares.sum()) == pytest.approx(1)
    assert np.count_nonzero(shares) == size


def test_without_any_probability_no_label_has_a_share() -> None:
    assert shares_of(np.array([0, 0, 0], np.float32)).tolist() == [0, 0, 0]


@pytest.mark.parametrize("outputs", ["logits", "sigmoid"])
def test_each_image_of_a_batch_has_the_labels_that_can_occur_in_its_job(outputs: str) -> None:
    manifest = BUNDLE.manifest.model_copy(update={"provenance": {"outputs": outputs}})
    model = colour_model(SameAnswer(np.array([[0.7, 0.2, 0.1]] * 3, np.float32)), replace(BUNDLE, manifest=manifest))
    tasks = []
    for number, chosen in enumerate([("green", "blue"), None, ("blue",)]):
        only = None if chosen is None else label_set(BUNDLE.digest, BUNDLE.labels, chosen)
        named = RequestedModel(digest=BUNDLE.digest, place="p", only=only)
        one = delivery(number)
        one = replace(one, request=one.request.model_copy(update={"model": named}))
        task = fetched(new_task(one), model).with_payload(picture("red"))
        tasks.append(decode(task, manifest.preprocess, ImageLimits(), central_crop))
    some, every, one_only = (task.payload for task in Classifier("i-1", 5).classify(tasks))
    whole = 1 if outputs == "sigmoid" else 0.3
    assert [(pair.label, pair.score) for pair in some.top] == [
        ("green", round(0.2 / whole, 6)),
        ("blue", round(0.1 / whole, 6)),
    ]
    assert some.probabilities == pytest.approx((0, 0.2 / whole, 0.1 / whole), abs=1e-6)
    assert [pair.label for pair in every.top] == ["red", "green", "blue"]
    assert (one_only.label, one_only.score) == ("blue", 0.1 if outputs == "sigmoid" else 1.0)
    assert [each.possible_labels for each in (some, every, one_only)] == [2, None, 1]
    assert {each.model and each.model.digest for each in (some, every, one_only)} == {BUNDLE.digest}


def test_of_equally_likely_labels_the_earlier_class_comes_first() -> None:
    top = top_labels(np.array([0.2, 0.4, 0.4], np.float32), ("a", "b", "c"), 3)
    assert [pair.label for pair in top] == ["b", "c", "a"]


class Scripted:
    """An engine that answers image k with row k of a table; the first pixel of an image is its number."""

    def __init__(self, table: list[list[float]]) -> None:
        self.table = np.asarray(table, np.float32)
        self.asked: list[list[int]] = []

    def infer(self, batch: Batch, possible: Possible | None = None) -> Batch:
        numbers = batch[:, 0, 0, 0].astype(int)
        self.asked.append(numbers.tolist())
        return of_possible(self.table[numbers], possible)


def numbered(count: int) -> Batch:
    return np.arange(count, dtype=np.float32).reshape(-1, 1, 1, 1)


def test_only_the_unsure_images_are_asked_again_and_get_the_reference_answer() -> None:
    fast = Scripted([[0.9, 0.1], [0.51, 0.49], [0.1, 0.9], [np.nan, np.nan]])
    reference = Scripted([[0.8, 0.2], [0.48, 0.52], [0.2, 0.8], [0.52, 0.48]])
    answers = ExactEngine(fast, reference, margin=0.2).infer(numbered(4))
    assert reference.asked == [[1, 3]]
    assert answers == pytest.approx(np.array([[0.9, 0.1], [0.48, 0.52], [0.1, 0.9], [0.52, 0.48]]))


def test_an_image_is_asked_again_if_the_two_best_of_its_possible_labels_are_close() -> None:
    table = [[0.9, 0.05, 0.049], [0.9, 0.05, 0.049], [0.5, 0.49, 0.01]]
    reference = Scripted([[0.9, 0.04, 0.06]] * 3)
    possible = np.array([[True, True, True], [False, True, True], [True, False, True]])
    answers = ExactEngine(Scripted(table), reference, margin=0.2).infer(numbered(3), possible)
    assert reference.asked == [[1]]
    assert answers[1] == pytest.approx([0, 0.04, 0.06])


class Costly(Scripted):
    """A scripted engine that takes `cost` seconds an image."""

    def __init__(self, table: list[list[float]], clock: ManualClock, cost: float) -> None:
        super().__init__(table)
        self.clock, self.cost = clock, cost

    def infer(self, batch: Batch, possible: Possible | None = None) -> Batch:
        self.clock.advance(self.cost * len(batch))
        return super().infer(batch, possible)


@dataclass
class Flood:
    """An exact engine in batches of eight, of which the first so many images are unsure; fp32 takes 1 s an image."""

    unsure: int
    low_seconds: float
    expected_share: float = 0.0

    def __post_init__(self) -> None:
        self.clock = ManualClock()
        low = [[0.5, 0.5]] * self.unsure + [[0.9, 0.1]] * (8 - self.unsure)
        self.low = Costly(low, self.clock, self.low_seconds)
        self.fp32 = Costly([[0.4, 0.6]] * self.unsure + [[0.8, 0.2]] * (8 - self.unsure), self.clock, 1.0)
        self.engine = ExactEngine(self.low, self.fp32, 0.2, "int8", self.expected_share, self.clock)

    def seconds(self, batches: int) -> float:
        """Return what so many batches took; each answer must have fp32's label."""
        before = self.clock()
        for _ in range(batches):
            assert self.engine.infer(numbered(8)).argmax(1).tolist() == [1] * self.unsure + [0] * (8 - self.unsure)
        return self.clock() - before


SETTLED = 20
"""Batches after which every flood has been measured."""


@pytest.mark.parametrize(("unsure", "low_seconds"), [(8, 0.9), (8, 0.3), (4, 0.5), (0, 2.0), (3, 0.5), (0, 0.3)])
@pytest.mark.parametrize("expected_share", [0.0, 0.5, 1.0])
def test_in_the_long_run_exact_takes_at_most_a_hundredth_more_than_fp32_alone(
    unsure: int, low_seconds: float, expected_share: float
) -> None:
    flood = Flood(unsure, low_seconds, expected_share)
    assert flood.seconds(RECHECK_BATCHES) <= 1.01 * 8 * RECHECK_BATCHES


def test_low_precision_stops_when_images_become_harder_and_returns_when_easier() -> None:
    flood = Flood(0, 0.5)
    flood.seconds(SETTLED)
    flood.low.table[:] = 0.5
    flood.fp32.table[:] = [0.4, 0.6]
    flood.unsure = 8
    flood.seconds(SETTLED)
    assert not flood.engine.is_low_first
    flood.low.table[:] = [0.1, 0.9]
    flood.seconds(RECHECK_BATCHES)
    assert flood.engine.is_low_first


def test_a_batch_that_was_disturbed_does_not_decide() -> None:
    pace = ExactPace()
    for low_seconds in (80.0, 4.0, 40.0, 4.0, 90.0):
        pace.next_batch()
        pace.passed(images=8, unsure=0, low_seconds=low_seconds, again=4, fp32_seconds=4.0)
    assert pace.gain == pytest.approx(2)
    assert pace.is_low_first


@given(st.lists(st.floats(-20, 20), min_size=2, max_size=30))
def test_the_gap_is_the_difference_of_the_two_largest_logits(logits: list[float]) -> None:
    exponentials = np.exp(np.array(logits) - max(logits))
    probabilities = (exponentials / exponentials.sum()).astype(np.float32)
    second, first = sorted(logits)[-2:]
    assert top_two_gap(probabilities[None])[0] == pytest.approx(first - second, abs=1e-3)


@pytest.mark.parametrize(
    ("flags", "fast"),
    [("fpu avx2 avx512f avx512_vnni", True), ("fpu avx2 avx_vnni", True), ("fpu avx2 avx512f", False), ("", False)],
)
def test_int8_is_fast_where_the_cpu_multiplies_and_adds_at_once(flags: str, fast: bool, tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(f"model name\t: a CPU\nflags\t\t: {flags}\n")
    assert has_int8_dot_products(tmp_path / "cpuinfo") is fast


def test_a_machine_of_unknown_speed_is_taken_for_slow(tmp_path: Path) -> None:
    assert not has_int8_dot_products(tmp_path / "missing")
