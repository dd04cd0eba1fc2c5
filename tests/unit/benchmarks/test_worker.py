from dataclasses import replace
from pathlib import Path

import pytest

from app_tier.bundle.load import load_bundle
from app_tier.engines import OpenVinoEngine
from benchmarks.bare import Bare
from benchmarks.flood import Flood
from benchmarks.measure import CpuSample, Window
from benchmarks.worker import LEAST, Case, cases, figures_of, in_precision

BARE = Bare(images=100, seconds=1.0, decode_s=0.3, infer_s=0.7)
NOTHING = dict.fromkeys(("worker", "cloud", "proxy", "worker_core", "other_core"), 0.0)
USED = {"worker": 6.0, "cloud": 1.5, "proxy": 0.5, "worker_core": 7.0, "other_core": 5.0}
FLOOD = Flood(
    images=1000,
    window=Window(0.0, 10.0, 500),
    samples=[CpuSample(0.0, NOTHING), CpuSample(10.0, USED)],
    calls={"s3": 2000, "sqs": 300},
    fetched_ms=25.0,
    stored_ms=30.0,
)


def test_the_worker_is_held_against_its_engine_and_decode_alone() -> None:
    figures = figures_of(BARE, FLOOD)
    assert figures["images_per_second"] == pytest.approx(50)
    assert figures["bare_images_per_second"] == pytest.approx(100)
    assert figures["to_bare_ratio"] == pytest.approx(0.5)


def test_what_is_neither_decode_nor_network_is_the_rest() -> None:
    figures = figures_of(BARE, FLOOD)
    assert figures["worker_cpu_ms"] == pytest.approx(12)
    assert figures["decode_cpu_ms"] + figures["infer_cpu_ms"] + figures["rest_cpu_ms"] == pytest.approx(12)
    assert figures["rest_cpu_ms"] == pytest.approx(2)
    assert figures["to_bare_cpu_ratio"] == pytest.approx(10 / 12)


def test_the_cores_time_is_told_apart_by_who_had_it() -> None:
    figures = figures_of(BARE, FLOOD)
    assert figures["core_idle"] == pytest.approx(0.3)
    assert figures["core_of_others"] == pytest.approx(0.1)
    assert figures["other_core_busy"] == pytest.approx(0.5)
    assert figures["other_core_of_cloud"] == pytest.approx(0.2)


def test_what_others_took_of_the_core_does_not_count_in_the_undisturbed_ratio() -> None:
    slowed = replace(BARE, seconds=2.0)
    assert figures_of(slowed, FLOOD)["to_bare_undisturbed_ratio"] == pytest.approx(500 / 9 / 100)


def test_calls_are_counted_for_each_image() -> None:
    figures = figures_of(BARE, FLOOD)
    assert figures["s3_calls_per_image"] == 2
    assert figures["sqs_calls_per_image"] == 0.3


def test_resnet_50_must_hold_nine_tenths_and_resnet_18_eight() -> None:
    assert LEAST == {"resnet18": 0.8, "resnet50": 0.9}


@pytest.mark.parametrize(
    ("quick", "fast", "measured"),
    [
        (False, {"fp32", "bf16", "int8"}, ["bf16", "int8"]),
        (True, {"fp32", "bf16", "int8"}, ["int8"]),
        (False, {"fp32", "int8"}, ["int8"]),
        (False, {"fp32"}, ["fp32"]),
        (True, {"fp32"}, ["fp32"]),
    ],
)
def test_both_networks_are_measured_in_what_the_cpu_is_fast_at(
    quick: bool, fast: set[str], measured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OpenVinoEngine, "is_fast_in", staticmethod(fast.__contains__))
    assert [str(case) for case in cases(quick)] == [f"{net}_{each}" for net in LEAST for each in measured]


def test_a_case_is_named_by_network_and_precision() -> None:
    assert str(Case("resnet18", "bf16")) == "resnet18_bf16"


def test_a_bundle_in_another_precision_is_whole_and_has_the_same_network(tmp_path: Path) -> None:
    original = load_bundle()
    made = load_bundle(in_precision(original, "fp32", tmp_path / "fp32"))
    assert made.manifest.precision == "fp32"
    assert made.manifest.files == original.manifest.files


def test_a_service_that_was_not_called_has_no_figure() -> None:
    assert "sqs_calls_per_image" not in figures_of(BARE, replace(FLOOD, calls={"s3": 1}))
