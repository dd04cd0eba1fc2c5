"""What a person sees of the whole system, with real processes: right answers, a fleet that comes and goes."""

from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import pytest
from PIL import Image

from scripts.client import Outcome
from tests.chaos.conftest import RunningSystem, signs, until

pytestmark = pytest.mark.processes

Signs = tuple[list[tuple[str, bytes]], dict[str, str]]


def _labels(running: RunningSystem, job_id: str) -> dict[str, tuple[str, float]]:
    return {result["filename"]: (result["label"], result["score"]) for result in running.api.results(job_id)}


def test_one_post_and_a_hundred_posts_at_once_give_the_same_answers(running: RunningSystem, hundred: Signs) -> None:
    files, truth = hundred
    one, many = running.api.create_job("one POST"), running.api.create_job("a hundred POSTs")
    together = running.api.add_images(one, files)
    with ThreadPoolExecutor(100) as clients:
        apart = list(clients.map(lambda file: running.api.add_images(many, [file]), files))
    running.wait_for_results(one, 100)
    running.wait_for_results(many, 100)
    assert running.right(one, together, truth) >= 99
    assert _labels(running, one) == _labels(running, many)
    assert sum(len(outcome.accepted) for outcome in apart) == 100
    assert running.most_seen <= running.system.config.fleet.max_workers


def test_two_jobs_at_once_with_equal_filenames_never_mix(running: RunningSystem) -> None:
    jobs = []
    for seed in (21, 22):
        files, truth = signs(40, seed)
        named = [(f"image-{number}.jpg", content) for number, (_, content) in enumerate(files)]
        renamed = {f"image-{number}.jpg": truth[name] for number, (name, _) in enumerate(files)}
        jobs.append((running.api.create_job("same names"), named, renamed))
    with ThreadPoolExecutor(2) as clients:
        outcomes = list(clients.map(lambda job: running.upload(job[0], job[1], slice_size=5), jobs))
    for (job_id, _, truth), outcome in zip(jobs, outcomes, strict=True):
        running.wait_for_results(job_id, 40)
        assert running.right(job_id, outcome, truth) >= 39


def test_the_fleet_rises_from_zero_to_at_most_its_limit_and_ends_itself(running: RunningSystem) -> None:
    assert running.workers() == []
    files, truth = signs(150, seed=31)
    first, second = running.api.create_job("first"), running.api.create_job("second")
    with ThreadPoolExecutor(2) as clients:
        outcomes = list(clients.map(lambda job_id: running.upload(job_id, files), (first, second)))
    for job_id, outcome in zip((first, second), outcomes, strict=True):
        running.wait_for_results(job_id, 150)
        assert running.right(job_id, outcome, truth) >= 148
    until(lambda: not running.workers(), "the fleet has ended itself")
    assert 1 <= running.most_seen <= running.system.config.fleet.max_workers


def test_each_bad_file_is_answered_with_a_reason_and_the_good_ones_are_right(running: RunningSystem) -> None:
    files, truth = signs(20, seed=41)
    whole = next(content for name, content in files if name.endswith(".jpg"))
    bomb = BytesIO()
    Image.new("1", (20_000, 20_000)).save(bomb, "PNG")
    bad = {
        "truncated.jpg": whole[: len(whole) // 2],
        "text.jpg": b"this is no image, whatever its name says",
        "empty.png": b"",
        "bomb.png": bomb.getvalue(),
    }
    job_id = running.api.create_job("good and bad")
    outcome = running.api.add_images(job_id, [*files[:10], *bad.items(), *files[10:]])
    running.wait_for_results(job_id, len(outcome.accepted))
    failed = {
        result["filename"]: result["error"]["message"]
        for result in running.api.results(job_id)
        if result["status"] == "failed"
    }
    reasons = failed | dict(outcome.rejected)
    assert reasons.keys() == bad.keys()
    assert all(reasons.values())
    good = [(image_id, name) for image_id, name in outcome.accepted if name in truth]
    assert running.right(job_id, Outcome(good, []), truth) >= 19
