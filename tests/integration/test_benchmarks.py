"""Benchmarks that start parts of the system: a controller and a worker."""

import os
from pathlib import Path

import pytest

from app_tier.bundle import DEMO_BUNDLE
from benchmarks.capacity import CapacityBench
from benchmarks.coldstart import StartBench
from localcloud.launch import LocalCloud

pytestmark = [pytest.mark.processes, pytest.mark.thorough]


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variables of this process, which a benchmark changes."""
    monkeypatch.setattr(os, "environ", os.environ.copy())


@pytest.mark.usefixtures("environment")
def test_a_real_controller_records_each_answer_once_and_its_calls_are_counted(
    cloud: LocalCloud, tmp_path: Path
) -> None:
    bench = CapacityBench(cloud, tmp_path)
    for jobs in (1, 3):
        found = bench.record(jobs, 120)
        assert found.images_per_second > 0
        assert found.calls > 0


@pytest.mark.usefixtures("environment")
def test_a_start_is_measured_from_the_process_to_its_answer(cloud: LocalCloud) -> None:
    start = StartBench(cloud).start(DEMO_BUNDLE)
    assert 0 < start.poll_s < start.answer_s
    assert start.peak_mb > 20
