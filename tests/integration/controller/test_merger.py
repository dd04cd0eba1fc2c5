"""The file of all results over a real bucket: written by a controller, large, cut short, removed with its job."""

import json
from collections.abc import Iterator
from datetime import timedelta

import pytest

from core.ids import merged_key
from services.errors import NotFoundError
from tests.conftest import keys_in
from tests.integration.controller.conftest import Scene, done
from tests.support.waiting import wait_until
from web_tier.controller.results_file import QUIET_SECONDS

pytestmark = pytest.mark.processes

PART = b"x" * 100_000
PARTS = 120
"""More than two parts of a multipart upload hold."""


def test_a_job_that_finished_while_no_controller_ran_gets_its_file_and_loses_it_when_it_is_deleted(
    scene: Scene,
) -> None:
    refs = scene.add_job(30, request=False)
    job_id, wiring = refs[0].job_id, scene.wiring
    long_ago = wiring.store.job(job_id).created_at - timedelta(seconds=QUIET_SECONDS + 1)
    wiring.store.put_done([done(ref).model_copy(update={"recorded_at": long_ago}) for ref in refs])
    scene.start_controller()
    wait_until(lambda: wiring.store.status(job_id).merged, "there is a file of all results")
    lines = wiring.outputs.get(merged_key(job_id)).decode().splitlines()
    assert [json.loads(line)["image_id"] for line in lines] == sorted(ref.image_id for ref in refs)
    wiring.store.delete(wiring.store.job(job_id))
    wait_until(lambda: keys_in(wiring.outputs, job_id) == [], "the file is removed")


def test_a_finished_job_is_closed_only_after_its_file_is_there(scene: Scene) -> None:
    refs = scene.add_job(3, request=False)
    job_id, store = refs[0].job_id, scene.wiring.store
    scene.start_controller()
    scene.respond([done(ref) for ref in refs])
    wait_until(lambda: job_id not in {job.job_id for job in store.open_jobs()}, "the job is closed")
    merged = store.status(job_id).merged
    assert merged is not None
    assert merged.edition == store.status(job_id).edition


def test_a_large_object_is_put_and_read_in_parts(scene: Scene) -> None:
    scene.wiring.outputs.put_parts("J/large", iter([PART] * PARTS), "application/x-ndjson")
    parts = list(scene.wiring.outputs.stream("J/large"))
    assert b"".join(parts) == PART * PARTS
    look = scene.wiring.outputs.head("J/large")
    assert look is not None
    assert (look.size, look.content_type) == (len(PART) * PARTS, "application/x-ndjson")


def test_what_stops_in_the_middle_leaves_the_object_as_it_was(scene: Scene) -> None:
    class StoppedError(Exception):
        """Raised in the middle."""

    def stopped() -> Iterator[bytes]:
        yield from [PART] * PARTS
        raise StoppedError

    outputs = scene.wiring.outputs
    outputs.put("J/large", b"before", "text/plain")
    with pytest.raises(StoppedError):
        outputs.put_parts("J/large", stopped(), "application/x-ndjson")
    assert outputs.get("J/large") == b"before"


def test_an_object_that_is_not_there_is_said_to_be_missing_at_its_first_part(scene: Scene) -> None:
    with pytest.raises(NotFoundError):
        next(scene.wiring.outputs.stream("J/none"))
