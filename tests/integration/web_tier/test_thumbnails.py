"""Thumbnails are drawn in sandboxed processes, and a crash of one affects nothing else (`docs/faults.md` 9, 33)."""

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from io import BytesIO

import pytest
from flask import Flask
from flask.testing import FlaskClient
from PIL import Image

from core.config import Config
from core.ids import new_id
from core.images import ImageLimits
from core.jobs.keys import output_key
from core.jobs.models import Job
from core.jobs.store import JobStore
from core.messages import ClassificationResult, Prediction
from core.sandbox.pool import Allowance, SandboxPool
from core.sandbox.zygote import Zygote
from services.clients import Clients
from services.s3 import Bucket
from tests.support.hostile_images import HONEST, POLYGLOTS, SCRIPT
from tests.support.jobs import NOW, add_images, done, picture, put_results
from tests.support.processes import children_of
from web_tier.http.backend import current_backend
from web_tier.results.drawing import draw
from web_tier.results.thumbnails import (
    MAX_CONCURRENT,
    TILE,
    NoThumbnailError,
    Thumbnails,
    sandboxed_draw,
)

LIMITS = ImageLimits()
SMALL = Allowance(seconds=5, memory_bytes=2**26, answer_bytes=1_000)


@pytest.fixture(scope="module")
def thumbnails() -> Iterator[Thumbnails]:
    thumbnails = Thumbnails(LIMITS, sandboxed_draw("required"))
    yield thumbnails
    thumbnails.close()


@pytest.mark.processes
def test_a_sandboxed_process_draws_every_kind_of_image(thumbnails: Thumbnails) -> None:
    files = {kind: make() for kind, make in HONEST.items()}
    drawn = {kind: draw(data, LIMITS, TILE) for kind, data in files.items()}
    assert {kind: thumbnails.render(data, "u") for kind, data in files.items()} == drawn


@pytest.mark.processes
@pytest.mark.parametrize("data", [b"", b"text", picture()[:200], picture("PNG")[:40]])
def test_a_broken_file_has_no_thumbnail(data: bytes, thumbnails: Thumbnails) -> None:
    with pytest.raises(NoThumbnailError):
        thumbnails.render(data, "u")


@pytest.fixture(scope="module")
def garbled() -> Iterator[Thumbnails]:
    """Thumbnails by processes that crash or garble their answers as their item says."""
    zygote = Zygote("tests.support.sandboxed_functions:draw")
    yield Thumbnails(LIMITS, SandboxPool(zygote, SMALL, MAX_CONCURRENT))
    zygote.close()


@pytest.mark.processes
@pytest.mark.parametrize("item", [b"signal SIGSEGV", b"allocate 100000000", b"fail", b"long 500", b"long 1001"])
def test_an_image_that_crashes_its_process_or_garbles_its_answer_has_no_thumbnail(
    item: bytes, garbled: Thumbnails
) -> None:
    with pytest.raises(NoThumbnailError):
        garbled.render(item, "u")
    assert garbled.render(b"picture", "u").startswith(b"\xff\xd8\xff")


@pytest.mark.processes
def test_processes_start_with_the_first_thumbnail_and_end_with_close() -> None:
    before = children()
    thumbnails = Thumbnails(LIMITS, sandboxed_draw("required"))
    assert children() == before
    thumbnails.render(picture(), "u")
    (zygote,) = children() - before
    os.kill(zygote, signal.SIGTERM)  # as a process group receives it when its service stops
    assert thumbnails.render(picture(), "u")
    thumbnails.close()
    assert children() == before


def children() -> set[int]:
    return set(children_of(os.getpid()))


def stored(bucket: Bucket, store: JobStore, job: Job, body: bytes) -> str:
    [image] = add_images(store, job, "a.jpg")
    bucket.put(image.key, body, "image/jpeg")
    return f"/jobs/{job.job_id}/images/{image.ref.image_id}"


@pytest.fixture
def output_bucket(config: Config, provisioned: Clients) -> Bucket:
    return Bucket.named(provisioned, config.names.output_bucket)


def put_prediction(outputs: Bucket, response: ClassificationResult, thumbnail: bytes | None) -> None:
    prediction = Prediction(**response.model_dump(), thumbnail=thumbnail)
    outputs.put(output_key(response.ref), prediction.to_json().encode(), "application/json")


def test_a_deleted_image_has_the_thumbnail_that_its_worker_drew(
    client: FlaskClient, store: JobStore, job: Job, output_bucket: Bucket
) -> None:
    [image] = add_images(store, job, "a.jpg")
    put_results(store, done(image))
    put_prediction(output_bucket, done(image), picture(shade=7))
    for path in ("thumbnail", "preview"):
        answer = client.get(f"/jobs/{job.job_id}/images/{image.ref.image_id}/{path}")
        assert (answer.status_code, answer.mimetype, answer.data) == (200, "image/jpeg", picture(shade=7))
        assert (answer.headers["X-Content-Type-Options"], answer.headers["Content-Disposition"]) == (
            "nosniff",
            "inline",
        )
        assert answer.headers["Cache-Control"].startswith("private, max-age=3600")


def test_a_thumbnail_needs_no_drawing_and_a_preview_of_a_kept_image_is_drawn_from_it(
    app: Flask, client: FlaskClient, store: JobStore, output_bucket: Bucket, input_bucket: Bucket
) -> None:
    kept = Job(new_id(), "kept", NOW, keep=True)
    store.create(kept)
    page = stored(input_bucket, store, kept, picture(size=(800, 600)))
    [image] = store.images(kept.job_id)
    put_results(store, done(image))
    put_prediction(output_bucket, done(image), picture(shade=7))
    with app.app_context():
        drawing = current_backend().bulkheads.pictures
    with ExitStack() as places:
        for _ in range(drawing.size):
            places.enter_context(drawing.place())
        assert client.get(f"{page}/thumbnail").data == picture(shade=7)
        assert client.get(f"{page}/preview").status_code == 503
    assert min(Image.open(BytesIO(client.get(f"{page}/preview").data)).size) == 600


@pytest.mark.parametrize("thumbnail", [None, SCRIPT, b"GIF89a" + SCRIPT])
def test_a_prediction_without_a_thumbnail_or_with_other_bytes_gives_a_placeholder(
    thumbnail: bytes | None, client: FlaskClient, store: JobStore, job: Job, output_bucket: Bucket
) -> None:
    [image] = add_images(store, job, "a.jpg")
    put_results(store, done(image))
    put_prediction(output_bucket, done(image), thumbnail)
    answer = client.get(f"/jobs/{job.job_id}/images/{image.ref.image_id}/thumbnail")
    assert (answer.status_code, SCRIPT in answer.data) == (302, False)


@pytest.mark.parametrize(
    "kind", ["gif with a page behind it", "jpeg with a zip behind it", "png with a script in a chunk"]
)
def test_row_35_a_polyglot_is_served_as_a_drawn_thumbnail_only(
    kind: str, client: FlaskClient, store: JobStore, job: Job, input_bucket: Bucket
) -> None:
    page = stored(input_bucket, store, job, POLYGLOTS[kind][1]())
    for path, mimetype in (
        (f"{page}/thumbnail", "image/jpeg"),
        (f"{page}/preview", "image/jpeg"),
        (page, "text/html"),
    ):
        answer = client.get(path)
        assert (answer.status_code, answer.mimetype) == (200, mimetype)
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert SCRIPT not in answer.data


def test_a_deleted_broken_or_too_large_image_has_a_placeholder(
    client: FlaskClient, store: JobStore, job: Job, input_bucket: Bucket, config: Config
) -> None:
    large = stored(input_bucket, store, job, picture() + bytes(config.web.max_image_bytes))
    broken = stored(input_bucket, store, job, b"\xff\xd8\xff no jpeg")
    [image] = add_images(store, job, "gone.jpg")
    gone = f"/jobs/{job.job_id}/images/{image.ref.image_id}"
    for page in (broken, gone, large):
        answer = client.get(f"{page}/thumbnail")
        assert answer.status_code == 302
        assert client.get(answer.headers["Location"], buffered=True).mimetype == "image/svg+xml"
