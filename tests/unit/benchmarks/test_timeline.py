import pytest

from benchmarks.timeline import Look, Window, steady, used

LOOKS = [Look(10.0, {"worker": 1.0}), Look(12.0, {"worker": 2.0}), Look(14.0, {"worker": 4.0})]


def sends(count: int, of: int = 10, every: float = 0.1) -> list[float]:
    """Return the moments of `count` sends of ten results, which are stamped within two milliseconds."""
    return [100 + every * send + 0.0002 * place for send in range(count) for place in range(of)]


def test_steady_results_give_their_true_speed() -> None:
    window = steady(sends(40))
    assert window.images / window.seconds == pytest.approx(100)


def test_a_slow_start_and_a_slow_end_do_not_count() -> None:
    moments = sends(40)
    late_end = [*moments[:-10], *(moment + 5 for moment in moments[-10:])]
    early_start = [*(moment - 5 for moment in late_end[:10]), *late_end[10:]]
    assert steady(early_start) == steady(moments)


def test_the_window_begins_and_ends_after_a_whole_send() -> None:
    window = steady(sends(11, of=8))
    assert window.images % 8 == 0


def test_the_order_in_which_results_are_read_changes_nothing() -> None:
    assert steady(sends(20)[::-1]) == steady(sends(20))


def test_too_few_results_have_no_steady_state() -> None:
    with pytest.raises(ValueError, match="take more images"):
        steady(sends(1))


def test_what_was_used_between_two_looks_counts_evenly() -> None:
    assert used(LOOKS, "worker", Window(11.0, 13.0, 1)) == pytest.approx(1.5)
    assert used(LOOKS, "worker", Window(10.0, 14.0, 1)) == pytest.approx(3.0)


def test_a_window_that_nobody_looked_at_is_refused() -> None:
    with pytest.raises(ValueError, match="there was no look"):
        used(LOOKS, "worker", Window(9.0, 13.0, 1))
