"""Images straight to the bucket, before the whole system: from the form to the label."""

import threading
from pathlib import Path

import pytest

from scripts.client import DirectFile
from scripts.load.drive import Load
from scripts.load.pictures import drawn_signs
from scripts.load.target import parse_target
from tests.chaos.conftest import RunningSystem

pytestmark = pytest.mark.processes

IMAGES = 60


def test_a_batch_that_goes_straight_to_the_bucket_is_classified_right(running: RunningSystem, tmp_path: Path) -> None:
    pictures = drawn_signs(tmp_path / "signs", IMAGES, 52, 96, lambda number: None)
    load = Load(parse_target(running.system.url, anywhere=False), "direct", 6, "/", "", 110)
    summary = load.run(pictures, threading.Event(), lambda images: None)
    assert (summary.failed, summary.lost) == (0, 0), summary
    assert summary.right >= IMAGES - 1

    # What says that it is an image and is none fails alone, with its reason.
    job_id = running.api.create_job("text")
    offer = running.api.offer_uploads(job_id, [DirectFile("a.jpg", 4, "image/jpeg")])
    running.api.send_form(offer.files[0].url, offer.files[0].fields, "a.jpg", b"text")
    outcome = running.api.commit_upload(job_id, offer.upload_id)
    running.wait_for_results(job_id, len(outcome.accepted))
    [result] = running.api.results(job_id)
    assert (result["status"], result["error"]["code"]) == ("failed", "not_an_image")
