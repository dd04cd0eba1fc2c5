import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app_tier.sizing import Machine, Sizing, sized, this_machine
from core.config import Worker as WorkerConfig
from core.config import parse_config
from tests.conftest import shipped_values

GIB = 2**30
WAIT = 0.005


def config(**settings: Any) -> WorkerConfig:
    values = shipped_values()
    values["worker"] |= settings
    return parse_config(values).worker


@pytest.mark.parametrize(
    ("cores", "gibibytes", "expected"),
    [
        (1, 2, Sizing(1, 1, 8, 1, 8, 8, WAIT)),
        (2, 4, Sizing(2, 2, 8, 2, 16, 16, WAIT)),
        (4, 8, Sizing(4, 4, 8, 4, 32, 32, WAIT)),
        (16, 32, Sizing(16, 16, 8, 16, 64, 64, WAIT)),
    ],
)
def test_each_core_has_a_stream_of_its_own(cores: int, gibibytes: int, expected: Sizing) -> None:
    assert sized(config(), Machine(cores, gibibytes * GIB), input_size=224) == expected


def test_what_is_configured_stays() -> None:
    wanted = {
        "threads": 3,
        "streams": 1,
        "batch_size": 32,
        "decode_threads": 5,
        "fetch_threads": 6,
        "publish_threads": 7,
    }
    assert sized(config(**wanted), Machine(16, 32 * GIB), 224) == Sizing(1, 3, 32, 5, 6, 7, WAIT)


def test_there_are_never_more_streams_than_threads_of_the_engine() -> None:
    assert sized(config(threads=2, streams=8), Machine(4, 8 * GIB), 224).streams == 2


def test_torch_computes_one_batch_at_a_time_and_a_larger_one() -> None:
    sizing = sized(config(engine="torch"), Machine(16, 128 * GIB), 224)
    assert (sizing.streams, sizing.engine_threads, sizing.batch_size) == (1, 16, 32)


def test_little_memory_or_large_images_make_small_batches() -> None:
    assert sized(config(), Machine(2, GIB // 2), 224).batch_size == 3
    assert sized(config(), Machine(2, 4 * GIB), 600).batch_size == 3
    assert sized(config(), Machine(64, GIB // 2), 1024).batch_size == 1


@given(cores=st.integers(1, 256), memory=st.integers(2**28, 2**40), size=st.integers(1, 2048))
def test_what_is_in_hand_fills_every_stage(cores: int, memory: int, size: int) -> None:
    sizing = sized(config(), Machine(cores, memory), size)
    assert sizing.in_flight >= sizing.fetch_threads + sizing.streams * sizing.batch_size + sizing.publish_threads
    assert sizing.in_flight >= 3 * sizing.streams * sizing.batch_size


def test_a_control_group_that_allows_less_than_the_machine_has_counts(tmp_path: Path) -> None:
    limit = tmp_path / "memory.max"
    unlimited = this_machine(limit)
    assert unlimited.cores == len(os.sched_getaffinity(0))
    limit.write_text("max\n")
    assert this_machine(limit) == unlimited
    limit.write_text("1048576\n")
    assert this_machine(limit).memory_bytes == 1048576
    limit.write_text(f"{2**60}\n")
    assert this_machine(limit) == unlimited
