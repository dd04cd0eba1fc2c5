"""The comparison of the capacity model with a real controller."""

import pytest

from benchmarks.capacity_check import modelled_recording, recording
from benchmarks.capacity_model import Setup
from benchmarks.virtual_aws import CallCosts


def test_a_recording_is_measured_between_its_first_and_its_last_share() -> None:
    loading = [(float(second), 0, 0.5 * second) for second in range(10)]
    steady = [(10.0 + second, 100 * second, 5.0 + 0.1 * second) for second in range(1, 11)]
    found = recording([*loading, *steady], 1_000)
    assert found.images_per_second == pytest.approx(100.0)
    assert found.cpu_ms == pytest.approx(1.0)


def test_the_model_records_every_answer_of_a_recording() -> None:
    found = modelled_recording(Setup(CallCosts(object=0.0), core_speed=lambda: 0.0), 4, 400)
    assert found.images_per_second > 0
    assert found.cpu_ms == 0
