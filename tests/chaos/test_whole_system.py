"""What users see of the whole system, with real processes: right answers, a fleet that comes and goes, examples."""

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from scripts.client import FleetClient
from scripts.load.runner import LoadTest
from scripts.run.images import ImageSet, draw_signs
from tests.chaos.conftest import RunningSystem, run_system, signs
from tests.support.waiting import wait_until

pytestmark = pytest.mark.processes


def test_equal_filenames_in_a_job_and_in_two_jobs_at_once_never_mix(running: RunningSystem) -> None:
    jobs = []
    for seed in (21, 22):
        files, truth = signs(40, seed)
        by_label = sorted((truth[name], content) for name, content in files)
        pairs = list(zip(by_label[:20], by_label[20:], strict=True))
        assert all(one[0] != other[0] for one, other in pairs)
        named = [(f"image-{number}.jpg", content) for number, pair in enumerate(pairs) for _, content in pair]
        labels = [label for pair in pairs for label, _ in pair]
        jobs.append((running.api.create_job("same names"), named, labels))
    with ThreadPoolExecutor(2) as clients:
        outcomes = list(clients.map(lambda job: running.upload(job[0], job[1], slice_size=6), jobs))
    for (job_id, files, labels), outcome in zip(jobs, outcomes, strict=True):
        running.wait_for_results(job_id, 40)
        results = {result["image_id"]: result for result in running.api.results(job_id)}
        assert len(results) == 40
        found = [results[image_id] for image_id, _ in outcome.accepted]
        assert [result["filename"] for result in found] == [name for name, _ in files]
        assert sum(result["label"] == label for result, label in zip(found, labels, strict=True)) >= 39


def test_row_22_a_lower_maximum_a_pause_and_a_drain_in_a_batch_cost_no_image_a_try(tmp_path: Path) -> None:
    with run_system(tmp_path, patient=True) as running:
        files, truth = signs(150, seed=61)
        job_id, ops = running.api.create_job("interrupted"), FleetClient(running.system.url)
        # Four of five reads of an image fail, so that no worker is done with the batch before all reads fail.
        reads = {"kind": "unavailable", "tier": "worker", "service": "s3", "operation": "GET"}
        running.set_switches(faults=[{**reads, "share": 0.8}])
        outcome = running.upload(job_id, files)
        wait_until(lambda: len(running.workers()) > 1, "two workers run")
        wait_until(lambda: running.api.status(job_id)["done"], "an image is classified")
        running.set_switches(faults=[reads])
        first = next(result["worker"] for result in running.api.results(job_id) if result["status"] == "done")

        ops.set_limits(0, 1, "")
        wait_until(lambda: "above the limit of 1" in _reason(running), "the lower maximum is in force")
        ops.pause("")
        wait_until(lambda: _reason(running).startswith("paused"), "the fleet is paused")
        ops.drain(first)
        wait_until(lambda: any(each.draining for each in running.workers()), "a worker is asked to drain")
        running.set_switches(faults=[])
        wait_until(lambda: first not in {each.instance_id for each in running.workers()}, "it has ended")
        ops.resume()
        ops.reset_limits()

        running.wait_for_results(job_id, 150)
        assert running.right(job_id, outcome, truth) >= 148
        assert {result["attempts"] for result in running.api.results(job_id)} == {1}
        assert "asked to drain" in running.fleet.console_output(first)


def _reason(running: RunningSystem) -> str:
    fleet = running.api.fleet()
    assert fleet is not None
    return str(fleet["reason"])


CLIENTS = 100


def drawn(folder: Path, seed: int) -> ImageSet:
    truth = draw_signs(folder, CLIENTS, seed, 128)
    return ImageSet("signs", [folder / name for name in truth], truth)


def classic(running: RunningSystem) -> LoadTest:
    return LoadTest(running.system.url, "classic", CLIENTS, 110)


@pytest.mark.thorough
def test_a_worker_that_dies_costs_its_clients_time_and_no_answer(running: RunningSystem, tmp_path: Path) -> None:
    pictures = drawn(tmp_path, seed=53)
    killed, first = list[int](), threading.Lock()

    def kill_a_worker(_answered: int) -> None:
        """Kill a worker at the first answer, when most images are still in flight."""
        if first.acquire(blocking=False):
            pids = [pid for instance in running.workers() if (pid := running.worker_pid(instance))]
            os.kill(pids[0], signal.SIGKILL)
            killed.append(pids[0])

    summary = classic(running).run(pictures, threading.Event(), kill_a_worker)
    assert killed
    assert (summary.counts["failed"], summary.counts["lost"]) == (0, 0), summary
    assert summary.counts["right"] >= CLIENTS - 1
    wait_until(lambda: not running.workers(), "the fleet has ended itself")
