"""Exact answers: low precision decides only where its error cannot."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app_tier.engines import Batch, ExactEngine, has_int8_dot_products, top_two_gap


class Scripted:
    """An engine whose answer to image k is row k of a table; the first pixel of an image is its number."""

    def __init__(self, table: list[list[float]]) -> None:
        self.table = np.asarray(table, np.float32)
        self.asked: list[list[int]] = []

    def infer(self, batch: Batch) -> Batch:
        numbers = batch[:, 0, 0, 0].astype(int)
        self.asked.append(numbers.tolist())
        answers: Batch = self.table[numbers]
        return answers


def numbered(count: int) -> Batch:
    return np.arange(count, dtype=np.float32).reshape(-1, 1, 1, 1)


def test_only_the_unsure_images_are_asked_again_and_get_the_reference_answer() -> None:
    fast = Scripted([[0.9, 0.1], [0.51, 0.49], [0.1, 0.9], [0.49, 0.51]])
    reference = Scripted([[0.8, 0.2], [0.48, 0.52], [0.2, 0.8], [0.52, 0.48]])
    answers = ExactEngine(fast, reference, margin=0.2).infer(numbered(4))
    assert reference.asked == [[1, 3]]
    assert answers == pytest.approx(np.array([[0.9, 0.1], [0.48, 0.52], [0.1, 0.9], [0.52, 0.48]]))


@pytest.mark.parametrize(
    ("unsure", "sizes"), [(1, [1]), (2, [2]), (3, [2, 1]), (4, [4]), (7, [4, 2, 1]), (9, [4, 4, 1])]
)
def test_many_unsure_images_are_asked_again_in_batches_of_three_sizes(unsure: int, sizes: list[int]) -> None:
    reference = Scripted([[0.4, 0.6]] * unsure)
    answers = ExactEngine(Scripted([[0.5, 0.5]] * unsure), reference, margin=0.2).infer(numbered(unsure))
    assert [len(asked) for asked in reference.asked] == sizes
    assert [number for asked in reference.asked for number in asked] == list(range(unsure))
    assert (answers.argmax(1) == 1).all()


def test_a_batch_that_is_sure_never_reaches_the_reference() -> None:
    reference = Scripted([[0.5, 0.5]])
    ExactEngine(Scripted([[0.9, 0.1]]), reference, margin=0.2).infer(numbered(1))
    assert reference.asked == []


def test_the_best_two_of_a_thousand_unlikely_labels_are_told_apart_by_their_logits() -> None:
    row = np.full((1, 1000), 1e-4, np.float32)
    row[0, [3, 5]] = 0.02, 0.01
    assert top_two_gap(row)[0] == pytest.approx(np.log(2), rel=1e-5)


def test_certainty_beyond_float32_is_sure_and_no_warning() -> None:
    assert top_two_gap(np.array([[1, 0, 0]], np.float32))[0] > 80


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


def test_a_machine_that_does_not_tell_is_taken_for_slow(tmp_path: Path) -> None:
    assert not has_int8_dot_products(tmp_path / "missing")
