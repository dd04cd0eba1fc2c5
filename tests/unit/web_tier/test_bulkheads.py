"""Bulkheads: so many at once and no more, a quarter of them for one user, and threads left for everything else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from web_tier.bulkheads import Bulkhead, Bulkheads


def entered(bulkhead: Bulkhead, *owners: str) -> list[bool]:
    return [bulkhead.enter(owner) for owner in owners]


def test_a_user_has_a_quarter_and_all_have_the_whole() -> None:
    bulkhead = Bulkhead(8)
    assert entered(bulkhead, "ann", "ann", "ann", "bob") == [True, True, False, True]
    assert entered(bulkhead, "c", "c", "d", "d", "e", "f") == [True, True, True, True, True, False]
    bulkhead.leave("ann")
    assert entered(bulkhead, "ann", "bob") == [True, False]


def test_without_sign_in_only_the_whole_counts() -> None:
    assert entered(Bulkhead(3), "", "", "", "") == [True, True, True, False]


def test_a_place_is_given_back_however_its_block_ends() -> None:
    bulkhead = Bulkhead(1)
    with pytest.raises(RuntimeError), bulkhead.place("ann"):
        raise RuntimeError
    with bulkhead.place("ann") as first, bulkhead.place("bob") as second:
        assert (first, second) == (True, False)
    assert bulkhead.enter("bob")


@given(st.integers(8, 4_096))
def test_s3_one_thread_in_eight_at_least_is_left_for_everything_else(threads: int) -> None:
    all_of_them = Bulkheads.of(threads)
    held = all_of_them.waiting.size + all_of_them.streams.size + all_of_them.pictures.size
    assert held <= threads * 7 / 8
