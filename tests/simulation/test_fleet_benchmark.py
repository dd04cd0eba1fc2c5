"""The benchmark `fleet`: what it plays, what it is held to, and how it is shown."""

from dataclasses import replace

import pytest

from benchmarks.fleet import PROMISES, QUICK, batch_bars, fleet_settings, play, report_of
from benchmarks.report import Bar
from simulator.engine import CERTAIN, Conditions, simulate_fleet
from simulator.table import Row
from simulator.traces import batch, named

KEPT = {name: promise.p95_seconds for name, promise in PROMISES.items()}


def row(trace: str, policy: str = "deadline", **measures: float) -> Row:
    """Return a row that keeps every promise but for `measures`."""
    kept = dict.fromkeys(("cost", "p50_s", "p99_s", "missed_percent", "launches", "peak", "cost_over_bound"), 1.0)
    return Row(trace, policy, {**kept, "p95_s": KEPT[trace], **measures})


def missed(rows: list[Row], beyond: int = 0) -> list[str]:
    return [bar.what for bar in report_of(rows, beyond, 0.0).bars if not bar.ok]


def test_every_trace_has_a_promise() -> None:
    assert list(named(1.0)) == list(PROMISES)


def test_a_trace_is_played_by_both_policies() -> None:
    pytest.importorskip("scipy", reason="./scripts/setup.sh simulate")
    rows, beyond = play("batch-100", QUICK)
    assert [(each.trace, each.policy) for each in rows] == [("batch-100", "backlog"), ("batch-100", "deadline")]
    assert missed(list(rows), beyond) == []


@pytest.mark.parametrize(
    ("measures", "what"),
    [
        ({"p95_s": 91.0}, "deadline, batch-100: p95, s"),
        ({"cost_over_bound": 1.11}, "deadline, batch-100: cost ÷ clairvoyant bound"),
        ({"missed_percent": 5.1}, "deadline, batch-100: late, %"),
        ({"cost_over_bound": 0.99}, "cost ÷ clairvoyant bound, both policies, least"),
    ],
)
def test_a_promise_that_is_broken_misses_its_bar(measures: dict[str, float], what: str) -> None:
    kept, other = row("batch-100"), row("mmpp")
    assert missed([kept, other]) == []
    assert missed([replace(kept, measures={**kept.measures, **measures}), other]) == [what]


def test_a_decision_beyond_the_maximum_misses_a_bar() -> None:
    assert missed([row("mmpp")], beyond=1) == ["decisions beyond the maximum, both policies, every trace"]


def test_a_hundred_images_in_ninety_seconds_take_no_more_than_five_workers() -> None:
    def bars(images_per_worker: int) -> list[Bar]:
        settings = fleet_settings("backlog", images_per_worker=images_per_worker)
        return batch_bars(simulate_fleet(batch(100, 90.0), settings, Conditions(CERTAIN)))

    workers, billed = bars(20)
    assert (workers.value, workers.ok) == (5, True)
    assert (billed.value, billed.ok) == (5 * (25 + 30 + 10), True)
    assert [bar.ok for bar in bars(17)] == [False, False]
