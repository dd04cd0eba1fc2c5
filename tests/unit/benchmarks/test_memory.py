from dataclasses import replace

import pytest

from benchmarks.memory import report_of
from benchmarks.running import Measured

BATCH = Measured(
    images=1_000,
    right=1_000,
    seconds=4.0,
    latency_s=[1.0],
    cpu_ms={},
    resident_mb={"web": 90.0, "controller": 80.0, "worker": 100.0, "cloud": 200.0},
    peak_mb={},
    growth={},
    others_cores=0.0,
)


def test_growth_is_counted_from_the_end_of_the_first_batch() -> None:
    later = replace(BATCH, resident_mb={"web": 99.0, "controller": 100.0, "worker": 100.0, "cloud": 210.0})
    report = report_of([BATCH, replace(BATCH, resident_mb=dict.fromkeys(BATCH.resident_mb, 500.0)), later])
    grown = {bar.what.partition(":")[0]: (bar.value, bar.ok) for bar in report.bars}
    assert grown == {
        "web": (pytest.approx(1.1), True),
        "controller": (1.25, False),
        "worker": (1.0, True),
        "cloud": (1.05, True),
    }
    assert report.figures["images"] == 3_000
    assert report.figures["cloud_kept_kb_an_image"] == pytest.approx(5.12)
    assert report.figures["batch_2_web_mb"] == 500.0
