"""One worker against its engine and decode alone."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from app_tier.bundle import load_bundle
from app_tier.engines import OpenVinoEngine
from app_tier.preprocess import Preprocess
from benchmarks.bare import Bare, measure
from benchmarks.flood import Flood
from benchmarks.measure import CpuSample, Window
from benchmarks.worker import LEAST, cases, figures_of, in_precision
from scripts.demo_model.signs import draw, encode

SPEC = Preprocess(resize=8, crop=8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
PHOTOS = [encode(draw(0, seed, (16, 16))[0], "JPEG") for seed in range(3)]


class FakeEngine:
    """Keeps what it was asked."""

    def __init__(self) -> None:
        self.batches: list[NDArray[np.float32]] = []

    def infer(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        self.batches.append(batch)
        return np.zeros((len(batch), 2), np.float32)


def ticks(step: float) -> Iterator[float]:
    return itertools.count(0.0, step)


def test_batches_are_measured_until_the_time_is_over_and_the_first_only_warms_up() -> None:
    engine, wall, cpu = FakeEngine(), ticks(1.0), ticks(0.25)
    bare = measure(engine, SPEC, PHOTOS, 4, 3.0, clock=lambda: next(wall), cpu_clock=lambda: next(cpu))
    assert bare == Bare(images=12, seconds=3.0, decode_s=0.75, infer_s=0.75)
    assert [batch.shape for batch in engine.batches] == [(4, 3, 8, 8)] * 4


def test_photos_come_in_turn_and_over_again() -> None:
    engine, wall = FakeEngine(), ticks(1.0)
    measure(engine, SPEC, PHOTOS, 2, 2.0, clock=lambda: next(wall))
    first, second, third = engine.batches
    np.testing.assert_array_equal(np.concatenate([first, second, third])[:3], np.concatenate([second, third])[1:4])


def test_two_measurements_make_one_of_their_sums() -> None:
    both = Bare(10, 1.0, 0.1, 0.4) + Bare(30, 3.0, 0.3, 1.2)
    assert both.images_per_second == pytest.approx(10)
    assert both.decode_ms == pytest.approx(10)
    assert both.infer_ms == pytest.approx(40)


BARE = Bare(images=100, seconds=1.0, decode_s=0.3, infer_s=0.7)
NOTHING = dict.fromkeys(("worker", "cloud", "worker_core", "other_core"), 0.0)
USED = {"worker": 6.0, "cloud": 2.0, "worker_core": 7.0, "other_core": 5.0}
FLOOD = Flood(
    images=1000,
    window=Window(0.0, 10.0, 500),
    samples=[CpuSample(0.0, NOTHING), CpuSample(10.0, USED)],
    calls={"s3": 2000, "sqs": 300},
    fetched_ms=25.0,
    stored_ms=30.0,
)


def test_the_worker_is_held_against_its_engine_and_decode_alone() -> None:
    figures = figures_of(BARE, FLOOD)
    assert figures["images_per_second"] == pytest.approx(50)
    assert figures["bare_images_per_second"] == pytest.approx(100)
    assert figures["to_bare_ratio"] == pytest.approx(0.5)


def test_what_is_neither_decode_nor_network_is_the_rest() -> None:
    figures = figures_of(BARE, FLOOD)
    assert figures["worker_cpu_ms"] == pytest.approx(12)
    assert figures["decode_cpu_ms"] + figures["infer_cpu_ms"] + figures["rest_cpu_ms"] == pytest.approx(12)
    assert figures["rest_cpu_ms"] == pytest.approx(2)
    assert figures["to_bare_cpu_ratio"] == pytest.approx(10 / 12)


def test_the_cores_time_is_told_apart_by_who_had_it() -> None:
    figures = figures_of(BARE, FLOOD)
    assert figures["core_idle"] == pytest.approx(0.3)
    assert figures["core_of_others"] == pytest.approx(0.1)
    assert figures["other_core_busy"] == pytest.approx(0.5)
    assert figures["other_core_of_cloud"] == pytest.approx(0.2)


def test_what_others_took_of_the_core_does_not_count_in_the_undisturbed_ratio() -> None:
    slowed = replace(BARE, seconds=2.0)
    assert figures_of(slowed, FLOOD)["to_bare_undisturbed_ratio"] == pytest.approx(500 / 9 / 100)


def test_calls_are_counted_for_each_image() -> None:
    figures = figures_of(BARE, FLOOD)
    assert figures["s3_calls_per_image"] == 2
    assert figures["sqs_calls_per_image"] == 0.3


@pytest.mark.parametrize(
    ("quick", "fast", "measured"),
    [
        (False, {"fp32", "bf16", "int8"}, ["bf16", "int8"]),
        (True, {"fp32", "bf16", "int8"}, ["int8"]),
        (False, {"fp32", "int8"}, ["int8"]),
        (False, {"fp32"}, ["fp32"]),
        (True, {"fp32"}, ["fp32"]),
    ],
)
def test_both_networks_are_measured_in_what_the_cpu_is_fast_at(
    quick: bool, fast: set[str], measured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OpenVinoEngine, "is_fast_in", staticmethod(fast.__contains__))
    assert [str(case) for case in cases(quick)] == [f"{net}_{each}" for net in LEAST for each in measured]


def test_a_bundle_in_another_precision_is_whole_and_has_the_same_network(tmp_path: Path) -> None:
    original = load_bundle()
    made = load_bundle(in_precision(original, "fp32", tmp_path / "fp32"))
    assert made.manifest.precision == "fp32"
    assert made.manifest.files == original.manifest.files


def test_a_service_that_was_not_called_has_no_figure() -> None:
    assert "sqs_calls_per_image" not in figures_of(BARE, replace(FLOOD, calls={"s3": 1}))
