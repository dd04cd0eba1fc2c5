import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from app_tier.bundle.load import DEMO_BUNDLE
from benchmarks.flood import Bench, Cores, PinnedWorker, checked
from benchmarks.measure import pinned, two_cores
from core.ids import ImageRef, new_id
from core.messages import Failure, Response
from localcloud.launch import LocalCloud
from scripts.demo_model.signs import samples

IMAGES = 60


def response(ref: ImageRef, error: Failure | None = None) -> Response:
    return Response(
        job_id=ref.job_id,
        image_id=ref.image_id,
        status="failed" if error else "done",
        label=None if error else "stop",
        score=None if error else 1.0,
        worker="w",
        attempts=1,
        error=error,
    )


@pytest.fixture
def refs() -> list[ImageRef]:
    return [ImageRef(new_id(), new_id()) for _ in range(3)]


def test_a_response_for_each_image_is_what_must_come(refs: list[ImageRef]) -> None:
    responses = [response(ref) for ref in reversed(refs)]
    assert checked(responses, refs) == responses


@pytest.mark.parametrize("kept", [[0, 1], [0, 1, 1, 2], [0, 1, 1]])
def test_a_response_too_few_or_too_many_fails_the_benchmark(kept: list[int], refs: list[ImageRef]) -> None:
    with pytest.raises(RuntimeError, match="3 images were sent"):
        checked([response(refs[index]) for index in kept], refs)


def test_an_image_that_was_not_classified_fails_the_benchmark(refs: list[ImageRef]) -> None:
    with pytest.raises(RuntimeError, match="no such object"):
        checked([response(refs[0], Failure(code="missing", message="no such object"))], refs[:1])


@pytest.fixture
def bench(cloud: LocalCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("this machine has one core: a worker on a core of its own needs a second one")
    monkeypatch.setattr(os, "environ", os.environ.copy())
    cores = Cores(*two_cores())
    with pinned(cores.others):
        yield Bench(cloud, PinnedWorker(cores, tmp_path / "worker.log"))


@pytest.mark.processes
def test_a_real_worker_answers_every_image_and_each_of_its_calls_is_delayed(bench: Bench) -> None:
    bench.store([sample.data for sample in samples(5, seed=1, sizes=(((64, 64), 1.0),))], IMAGES)
    flood = bench.flood(DEMO_BUNDLE, IMAGES)
    assert flood.calls["s3"] == 2 * IMAGES
    assert flood.calls["sqs"] >= 3 * IMAGES / 10
    assert flood.fetched_ms >= 20
    assert flood.stored_ms >= 20
    assert 0 < flood.window.images < IMAGES
    assert flood.samples[-1].cpu_seconds["worker"] > flood.samples[0].cpu_seconds["worker"]


@pytest.mark.processes
def test_a_worker_that_cannot_start_fails_the_benchmark_with_its_reason(bench: Bench, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)ended with status 1.*no model bundle"):
        bench.flood(tmp_path, 0)
