import itertools
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from app_tier.preprocess import Preprocess
from benchmarks.bare import Bare, measure
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
