"""Bulkheads: a user with slow requests or pictures leaves threads for all others and for the health check."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from random import randbytes
from threading import Event
from typing import Any
from zipfile import ZipFile

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from core.ids import ImageRef
from core.jobs.store import JobStore
from scripts.run.system import free_port
from services.clients import Clients
from tests.conftest import ConfigMaker
from tests.integration.web_tier.conftest import WebTier, cloud_table, serving
from tests.support.jobs import done, failed, picture, put_results
from tests.support.people import OIDC, PlayedProvider, SignInSite, access_of
from tests.support.waiting import DEADLINE_SECONDS, wait_until
from web_tier.app import create_app
from web_tier.http.bulkheads import Bulkhead, Bulkheads
from web_tier.results.services import result_services_of
from web_tier.results.thumbnails import NoThumbnailError

table = cloud_table


def entered(bulkhead: Bulkhead, *owners: str) -> list[bool]:
    return [bulkhead.enter(owner) for owner in owners]


def test_a_user_has_a_quarter_and_all_have_the_whole() -> None:
    bulkhead = Bulkhead(8)
    assert entered(bulkhead, "ann", "ann", "ann", "bob") == [True, True, False, True]
    assert entered(bulkhead, "c", "c", "d", "d", "e", "f") == [True, True, True, True, True, False]
    bulkhead.leave("ann")
    assert entered(bulkhead, "ann", "bob") == [True, False]


def test_without_sign_in_only_the_whole_counts() -> None:
    assert entered(Bulkhead(3), "", "", "", "") == [True, True, True, False]


def test_a_place_within_another_bulkhead_counts_in_both() -> None:
    outer = Bulkhead(8)
    inner = Bulkhead(4, within=outer)
    assert entered(inner, "ann", "ann") == [True, False], "a quarter of the inner one"
    assert entered(outer, "ann", "ann") == [True, False], "a quarter of the outer one, one of them inside"
    assert entered(inner, "ann") == [False]
    inner.leave("ann")
    assert entered(outer, "ann") == [True]
    assert entered(inner, "ann", "bob") == [False, True], "ann has no place left in the outer one"
    outer.leave("ann")
    assert entered(inner, "ann") == [True], "a refusal by the outer one took no place of the inner one"


def test_a_place_is_given_back_however_its_block_ends() -> None:
    bulkhead = Bulkhead(1)
    with pytest.raises(RuntimeError), bulkhead.place("ann"):
        raise RuntimeError
    with bulkhead.place("ann") as first, bulkhead.place("bob") as second:
        assert (first, second) == (True, False)
    assert bulkhead.enter("bob")


@given(st.integers(8, 4_096))
def test_s3_one_thread_in_eight_at_least_is_left_for_everything_else(threads: int) -> None:
    all_of_them = Bulkheads.for_threads(threads)
    outermost = (all_of_them.waiting, all_of_them.streams, all_of_them.pictures)
    assert sum(each.size for each in outermost) <= threads * 7 / 8


THREADS = 16
PLACES = Bulkheads.for_threads(THREADS).waiting.size
MORE_THREADS = 64
"""So many that one user could draw two pictures at a time, if only the number of waiting threads counted."""

OF_A_USER = Bulkheads.for_threads(MORE_THREADS).waiting.user_size
CLASSIFY = "/api/v1/classify?wait=60"


@pytest.fixture
def web(provisioned: Clients, make_config: ConfigMaker, tmp_path: Path) -> Iterator[WebTier]:
    """A web tier of one process, by gunicorn; no worker answers."""
    config = make_config(web={"port": free_port(), "processes": 1, "threads": THREADS})
    with serving(config, tmp_path) as web:
        yield web


def answer_all(store: JobStore) -> None:
    """Let every image that waits have its result."""
    for job in store.jobs(100) + store.jobs(100, owner="ann"):
        put_results(store, *[done(image) for image in store.images(job.job_id)])


@contextmanager
def as_many_wait_as_may(send: Any, count: int, store: JobStore, places: int) -> Iterator[list["Future[Any]"]]:
    """Send `count` requests that wait for results; yield those that still do, once the others were answered."""
    with ThreadPoolExecutor(count) as threads:
        sent = [threads.submit(send, number) for number in range(count)]
        try:
            wait_until(lambda: sum(each.done() for each in sent) == count - places, "the others are answered")
            assert {each.result().status_code for each in sent if each.done()} == {202}
            yield [each for each in sent if not each.done()]
        finally:
            answer_all(store)
        assert [each.result().status_code for each in sent].count(200) == places


def test_s3_while_requests_wait_health_and_pages_are_answered(web: WebTier, store: JobStore) -> None:
    def send(number: int) -> requests.Response:
        body, headers = picture(shade=number), {"Content-Type": "image/jpeg"}
        return requests.post(web.url + CLASSIFY, data=body, headers=headers, timeout=DEADLINE_SECONDS)

    with as_many_wait_as_may(send, 2 * THREADS, store, PLACES) as waiting:
        for path in ("/healthz", "/jobs", "/api/v1/jobs"):
            assert requests.get(web.url + path, timeout=DEADLINE_SECONDS).status_code == 200
        classic = requests.post(f"{web.url}/classify-image", files={"myfile": picture()}, timeout=DEADLINE_SECONDS)
        assert (classic.status_code, classic.headers["Retry-After"]) == (503, "5")
        assert "too many requests wait" in classic.text
        assert not any(each.done() for each in waiting)


@pytest.fixture
def site(provisioned: Clients, make_config: ConfigMaker, store: JobStore) -> SignInSite:
    """The web tier with sign-in; no worker answers."""
    provider = PlayedProvider()
    access = access_of(store.table, provider)
    config = make_config(auth=OIDC, web={"threads": MORE_THREADS})
    return SignInSite(create_app(config, auth=access), access, provider)


def test_s3_a_user_who_waits_as_much_as_possible_leaves_places_for_others(site: SignInSite, store: JobStore) -> None:
    ann, bob = site.with_token("ann", "classify", "read"), site.with_token("bob", "classify", "read")

    def send(number: int, who: dict[str, str] = ann) -> Any:
        client = site.anonymous()
        return client.post(CLASSIFY, data=picture(shade=number), content_type="image/jpeg", headers=who)

    with as_many_wait_as_may(send, OF_A_USER + 4, store, OF_A_USER) as waiting, ThreadPoolExecutor(1) as other:
        bobs = other.submit(send, OF_A_USER + 5, bob)
        wait_until(lambda: store.jobs(1, owner="bob"), "bob's image is accepted")
        [job] = store.jobs(1, owner="bob")
        wait_until(lambda: list(store.images(job.job_id)), "bob's image is recorded")
        put_results(store, *[done(image) for image in store.images(job.job_id)])
        assert bobs.result(DEADLINE_SECONDS).status_code == 200
        assert not any(each.done() for each in waiting)


def drawn_by(site: SignInSite, monkeypatch: pytest.MonkeyPatch, draw: Any) -> None:
    """Let pictures be drawn by `draw`, from nothing."""
    services = result_services_of(site.app)
    monkeypatch.setattr(services.thumbnails, "render", draw)
    monkeypatch.setattr(services, "original", lambda record: record.ref.image_id.encode())


def pictured(site: SignInSite, store: JobStore, who: dict[str, str], count: int) -> list[str]:
    """Make a job of images that failed; return the addresses of their previews."""
    client = site.anonymous()
    job_id = client.post("/api/v1/jobs", json={"keep": True}, headers=who).get_json()["job_id"]
    body = {"images": [(BytesIO(picture(shade=number)), f"{number}.jpg") for number in range(count)]}
    accepted = client.post(f"/api/v1/jobs/{job_id}/images", data=body, headers=who).get_json()["accepted"]
    return [f"/jobs/{job_id}/images/{image['image_id']}/preview" for image in accepted]


def test_s12_pictures_of_one_user_that_take_long_leave_a_turn_for_others(
    site: SignInSite, store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann, bob = site.with_token("ann", "classify", "read"), site.with_token("bob", "classify", "read")
    slow, quick = pictured(site, store, ann, 3), pictured(site, store, bob, 1)
    bobs, ends = quick[0].split("/")[-2].encode(), Event()

    def draw(data: bytes, _owner: str, _side: int) -> bytes:
        if data != bobs:
            assert ends.wait(DEADLINE_SECONDS)
        return b"RIFFxxxxWEBP"

    drawn_by(site, monkeypatch, draw)
    with ThreadPoolExecutor(3) as threads:
        anns = [threads.submit(lambda path: site.anonymous().get(path, headers=ann), path) for path in slow]
        assert site.anonymous().get(quick[0], headers=bob).status_code == 200
        assert not all(each.done() for each in anns)
        ends.set()


def test_s12_an_image_without_a_picture_is_not_drawn_again(
    site: SignInSite, store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann, drawn = site.with_token("ann", "classify", "read"), list[bytes]()

    def draw(data: bytes, _owner: str, _side: int) -> bytes:
        drawn.append(data)
        raise NoThumbnailError("it takes too long")

    drawn_by(site, monkeypatch, draw)
    first, costly = pictured(site, store, ann, 2)
    *_, job_id, _, image_id, _ = costly.split("/")
    put_results(store, failed(store.image(ImageRef(job_id, image_id)), code="too_costly"))
    for path in (first, first, first.replace("preview", "thumbnail"), costly, costly):
        answer = site.anonymous().get(path, headers=ann)
        assert answer.status_code == 302
        assert answer.headers["Location"].endswith("/no-picture.svg")
    assert drawn == [first.split("/")[-2].encode()]


ARCHIVES = Bulkheads.for_threads(MORE_THREADS).archives


def zip_of(previews: list[str]) -> str:
    """Return the address of the zip of a job, by the addresses of its previews."""
    return f"/api/v1{previews[0].partition('/images/')[0]}/images.zip"


def test_zips_of_a_user_are_bounded_and_leave_places_for_others(site: SignInSite, store: JobStore) -> None:
    ann, bob = site.with_token("ann", "classify", "read"), site.with_token("bob", "classify", "read")
    zips = {name: zip_of(pictured(site, store, who, 1)) for name, who in (("ann", ann), ("bob", bob))}
    running = [site.anonymous().get(zips["ann"], headers=ann) for _ in range(ARCHIVES.user_size)]
    assert {answer.status_code for answer in running} == {200}
    refused = site.anonymous().get(zips["ann"], headers=ann)
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "30")
    assert site.anonymous().get(zips["bob"], headers=bob).status_code == 200
    running[0].close()
    assert site.anonymous().get(zips["ann"], headers=ann).status_code == 200


def test_kept_images_come_in_folders_and_a_client_that_leaves_frees_its_place(web: WebTier, store: JobStore) -> None:
    job_id = web.create_job(keep=True)
    address = f"{web.url}/api/v1/jobs/{job_id}"
    sent = [noisy_picture() for _ in range(6)]
    files = [("images", (f"day{number}/IMG.bmp", data)) for number, data in enumerate(sent)]
    requests.post(f"{address}/images", files=files, timeout=DEADLINE_SECONDS).raise_for_status()
    images = list(store.images(job_id))
    put_results(store, *[done(image, "cat" if index % 2 else "dog") for index, image in enumerate(images)])

    def download(**query: str) -> requests.Response:
        return requests.get(f"{address}/images.zip", params=query, stream=True, timeout=DEADLINE_SECONDS)

    with download() as left:
        parts = left.iter_content(2)  # without a reference to the iterator, its connection would be closed
        assert next(parts) == b"PK"
        with download() as refused:
            assert refused.status_code == 503, "this process has one place"
    answers = list[requests.Response]()

    def is_served(**query: str) -> bool:
        with download(**query) as answer:
            answers.append(answer)
            return bool(answer.content) and answer.status_code == 200

    wait_until(lambda: is_served(state="failed"), "the place of the client that left is free")
    wait_until(lambda: is_served(label="dog"), "the place of a download that has ended is free")
    answer = answers[-1]
    archive = ZipFile(BytesIO(answer.content))
    assert archive.namelist() == ["dog/IMG.bmp", "dog/IMG (2).bmp", "dog/IMG (3).bmp"]
    assert {archive.read(name) for name in archive.namelist()} < set(sent)
    assert (answer.headers["Content-Type"], answer.headers["X-Accel-Buffering"]) == ("application/zip", "no")


def noisy_picture() -> bytes:
    """Return an image of 3 MB that does not get smaller in a zip; six are more than sockets buffer."""
    body = BytesIO()
    Image.frombytes("RGB", (1_000, 1_000), randbytes(3_000_000)).save(body, "BMP")
    return body.getvalue()
