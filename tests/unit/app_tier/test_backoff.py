from app_tier.backoff import MAX_SECONDS, Backoff


def test_nothing_pauses_while_all_is_well() -> None:
    assert Backoff().pause_seconds() == 0


def test_pauses_double_up_to_a_bound() -> None:
    backoff = Backoff(jitter=lambda _least, most: most)
    pauses = []
    for _ in range(9):
        backoff.failed("put")
        pauses.append(backoff.pause_seconds())
    assert pauses == [1, 2, 4, 8, 16, 30, 30, 30, 30]


def test_a_pause_is_jittered_between_half_and_all_of_it() -> None:
    seen: list[tuple[float, float]] = []
    backoff = Backoff(jitter=lambda least, most: seen.append((least, most)) or least)  # type: ignore[func-returns-value]
    for _ in range(100):
        backoff.failed("put")
    assert backoff.pause_seconds() == MAX_SECONDS / 2
    assert seen == [(MAX_SECONDS / 2, MAX_SECONDS)]


def test_a_success_forgets_the_failures_of_its_own_kind() -> None:
    backoff = Backoff()
    backoff.failed("put")
    backoff.succeeded("receive")
    assert backoff.pause_seconds() > 0
    backoff.succeeded("put")
    assert backoff.pause_seconds() == 0
