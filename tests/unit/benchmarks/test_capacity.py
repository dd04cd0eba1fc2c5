"""The benchmark `capacity`: how a rate is taken from samples, and which bars a slow controller misses."""

import pytest

from benchmarks.capacity import CapacitySample, Recording, recording, report_of


def test_a_recording_is_measured_between_its_first_and_its_last_share() -> None:
    starting = [CapacitySample(float(second), 0, 0.5 * second, 0.0, 7 * second) for second in range(10)]
    steady = [
        CapacitySample(10.0 + second, 100 * second, 5.0 + 0.1 * second, 0.4 * second, 70 + 30 * second)
        for second in range(1, 11)
    ]
    found = recording([*starting, *steady])
    assert found.images_per_second == pytest.approx(100.0)
    assert found.cpu_ms == pytest.approx(1.0)
    assert found.calls == pytest.approx(0.3)
    assert found.cloud_share == pytest.approx(0.4)


def test_answers_that_are_recorded_between_two_samples_have_a_rate() -> None:
    found = recording([CapacitySample(1.0, 0, 0.1, 0.1, 3), CapacitySample(1.2, 60, 0.2, 0.2, 51)])
    assert found.images_per_second == pytest.approx(300.0)
    assert found.calls == pytest.approx(0.8)


FAST = Recording(1_600.0, cpu_ms=0.3, calls=0.3, cloud_share=0.6)


def missed(*recordings: Recording) -> list[str]:
    report = report_of(dict(zip((1, 20, 100), recordings, strict=True)), bare=20_000.0)
    return [bar.what for bar in report.bars if not bar.ok]


def test_a_controller_that_is_as_fast_with_many_jobs_holds_every_bar() -> None:
    assert missed(FAST, FAST, FAST) == []


def test_a_controller_with_sequential_calls_misses_the_bars_of_many_jobs() -> None:
    one_by_one = Recording(34.0, cpu_ms=0.3, calls=2.0, cloud_share=0.1)
    assert missed(FAST, FAST, one_by_one) == [
        "100 jobs: images/s ÷ items/s of the bare local cloud",
        "100 jobs: calls for an image",
        "images/s: 100 jobs ÷ 1",
    ]
