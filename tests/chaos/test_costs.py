"""What a batch costs, in the whole system: its share of the fleet's bill, and the calls that were really made."""

from collections import Counter
from contextlib import closing

import pytest

from core.cost import IMAGE, Requests
from localcloud.clients import ControlClient
from tests.chaos.conftest import RunningSystem, signs
from tests.support.waiting import wait_until

pytestmark = pytest.mark.processes

IMAGES = 100


def asked(running: RunningSystem) -> Counter[str]:
    """Return what the cloud has been asked so far: calls, and items of the table by what they are about."""
    with closing(ControlClient(running.system.endpoint_url)) as cloud:
        told = cloud.get("calls")
    return Counter({**told["calls"], **told["items"]})


def way_of_images(made: Counter[str]) -> Requests:
    """Return the calls on the way of images; not those that a controller and workers make by the clock.

    Polls find nothing as a rule, so that receives count as often as something was deleted.
    """
    kinds = ("JOB", "CACHE", "COUNTS", "OPEN")
    written = sum(made[f"dynamodb {call} {kind}"] for call in ("BatchWriteItem", "UpdateItem") for kind in kinds)
    return Requests(
        s3_put=made["s3 PUT"],
        s3_get=made["s3 GET"],
        sqs=made["sqs SendMessageBatch"] + 2 * made["sqs DeleteMessageBatch"],
        table_write=written,
        table_read=made["dynamodb BatchGetItem CACHE"],
    )


def test_a_job_alone_costs_the_fleets_bill_and_asks_for_what_the_model_says(running: RunningSystem) -> None:
    files, _ = signs(IMAGES, seed=71)
    before = asked(running)
    job_id = running.api.create_job("alone")
    running.wait_for_results(job_id, len(running.upload(job_id, files).accepted))
    # A message is deleted after its result has been seen. Full batches are 0.6 calls an image.
    wait_until(lambda: way_of_images(asked(running) - before).sqs >= 0.55 * IMAGES, "answered messages are deleted")
    made = way_of_images(asked(running) - before)
    # Nothing is put or read twice, but for a call that was repeated; the file of all results comes later.
    assert (made.s3_put, made.s3_get) == pytest.approx((IMAGES * IMAGE.s3_put, IMAGES * IMAGE.s3_get), rel=0.02)
    # The job's own items are written by the upload and by the batch of answers, which is small where work is slow.
    assert made.table_write == pytest.approx(IMAGES * IMAGE.table_write, rel=0.2)
    # The model's other reads come later, by sweeps and for the file of all results.
    assert IMAGES <= made.table_read <= IMAGES * IMAGE.table_read
    # A fleet that has more time than work sends its batches half full.
    assert made.sqs <= 1.5 * IMAGES
    # What is paid is S3's puts, nearly all of it, so that the rest may vary.
    prices = running.system.config.prices
    assert made.dollars(prices) == pytest.approx((IMAGE * IMAGES).dollars(prices), rel=0.1)

    wait_until(lambda: not running.workers() and (running.api.fleet() or {})["running"] == 0, "the fleet has ended")
    fleet, cost = running.api.fleet(), running.api.status(job_id)["cost"]
    assert fleet is not None
    assert cost["billed_seconds"] == pytest.approx(fleet["billed_seconds"], abs=0.2)
    assert cost["instances_dollars"] == pytest.approx(fleet["cost"], abs=1e-6)
    assert fleet["billed_seconds"] >= 60
    assert fleet["cost"] == pytest.approx(fleet["billed_seconds"] / 3600 * prices.hourly("c7a.large"), rel=1e-3)
    assert (fleet["images"], fleet["run"]["images"], fleet["run"]["is_open"]) == (IMAGES, IMAGES, False)
