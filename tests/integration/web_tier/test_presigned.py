"""Presigned uploads: forms are offered for declared files, and the images that arrive are accepted once; row 41."""

import tarfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from io import BytesIO
from threading import Barrier

import pytest
import requests

from core.config import Config
from core.images import FORMATS
from core.jobs.buckets import UNKEPT, InputBucket
from core.jobs.keys import form_key, input_key
from core.jobs.lifecycle import OpenJobs
from core.jobs.models import ImageRecord, Job
from core.jobs.packs import PackSizes, pack_object
from core.jobs.store import JobStore
from core.jobs.uploads import MAX_FILES
from core.messages import RequestMessage
from core.model_catalog import JobModel
from services.clients import Clients
from services.s3 import Bucket, StoredObject
from services.table import Table, TableBusyError
from tests.conftest import keys_in
from tests.support.jobs import client_error, count_images, picture
from tests.support.memory_aws.s3 import MemoryBucket, MemorySource
from tests.support.memory_aws.sqs import MemoryQueue
from tests.support.waiting import DEADLINE_SECONDS
from web_tier.http.backend import Backend
from web_tier.uploads.idempotency import ReusedKeyError
from web_tier.uploads.ingest import RejectedUpload, UploadResult
from web_tier.uploads.presigned import FileSpec, PresignedOffer, PresignedUploads

PICTURE = picture()


def wanted(*names: str, size: int = len(PICTURE), content_type: str = "image/jpeg") -> list[FileSpec]:
    return [FileSpec(name, size, content_type) for name in names]


@pytest.fixture
def direct(config: Config, provisioned: Clients, store: JobStore, queue: MemoryQueue) -> PresignedUploads:
    return with_packs_of(3, Backend(config, store, request_queue=queue).direct)


@pytest.fixture
def other_process(config: Config, provisioned: Clients, store: JobStore, queue: MemoryQueue) -> PresignedUploads:
    return with_packs_of(2, Backend(config, store, request_queue=queue).direct)


def with_packs_of(images: int, direct: PresignedUploads) -> PresignedUploads:
    return replace(direct, ingest=replace(direct.ingest, sizes=PackSizes(images, lambda: 0.01)))


def offered(
    direct: PresignedUploads, job: Job, files: Sequence[FileSpec], key: str | None = None, so_far: int = 0
) -> PresignedOffer:
    offer, refused = direct.offer(job, files, key, so_far=so_far)
    assert offer is not None
    assert refused == {}
    return offer


def images_of(offer: PresignedOffer) -> dict[int, ImageRecord]:
    return {index: image for _, images in offer.packs for index, image in images.items()}


def send(offer: PresignedOffer, *numbers: int, content: bytes = PICTURE, is_padded: bool = False) -> None:
    """Send forms, with the same content for each image."""
    for form, images in (offer.packs[number] for number in numbers):
        members = [(image.extension, content) for image in images.values()]
        body = bytes(pack_object(members, len(members)))
        if is_padded:
            body = body.ljust(len(body) + -len(body) % 10_240, b"\0")
        answer = requests.post(form.url, data=form.fields, files={"file": ("a.jpg", body)}, timeout=120)
        assert answer.status_code == 204, answer.text


def codes(outcomes: dict[int, UploadResult]) -> dict[int, str]:
    return {index: each.code if isinstance(each, RejectedUpload) else "accepted" for index, each in outcomes.items()}


def test_files_with_positions_become_images_in_that_order_under_their_paths(
    direct: PresignedUploads, job: Job, store: JobStore
) -> None:
    names = ("day2/a.jpg", "day1/a.jpg", "/home/me/b.jpg")
    files = [replace(file, position=2 - number) for number, file in enumerate(wanted(*names))]
    offer = offered(direct, job, files)
    send(offer, 0, 1, 2)
    direct.commit(job, offer.upload_id)
    assert [image.filename for image in store.images(job.job_id)] == ["b.jpg", "day1/a.jpg", "day2/a.jpg"]


def test_the_requests_of_presigned_uploads_have_the_model_and_the_message_group_of_their_job(
    direct: PresignedUploads, other_process: PresignedUploads, job: Job, queue: MemoryQueue
) -> None:
    model = JobModel("signs", "a" * 64, "s3://outputs/models/signs")
    job = replace(job, model=model, owner="ann", finish_by=job.created_at)
    offer = offered(direct, job, wanted("a.jpg", "b.jpg"))
    send(offer, 0, 1)
    other_process.commit(job, offer.upload_id)
    assert [RequestMessage.from_json(body).model for body in queue.bodies] == [model.requested] * 2
    assert queue.groups == {job.group: 2} != {"ann": 2}


@pytest.mark.parametrize(
    ("content_type", "extension"),
    [*((accepted.content_type, accepted.extension) for accepted in FORMATS.values()), (" Image/BMP", "bmp")],
)
def test_the_extension_of_the_key_follows_the_content_type(
    direct: PresignedUploads, job: Job, content_type: str, extension: str
) -> None:
    offer = offered(direct, job, wanted("a.exe", content_type=content_type))
    [(form, images)] = offer.packs
    ref = images[0].ref
    assert images[0].key == input_key(ref, extension)
    assert form.fields["key"] == form_key(ref.job_id, ref.image_id, extension)
    assert form.fields["Content-Type"] == content_type.strip().lower()


@pytest.mark.parametrize("is_padded", [False, True])
def test_a_form_takes_a_tar_of_a_pack_which_has_one_object_and_one_request(
    direct: PresignedUploads,
    job: Job,
    input_bucket: Bucket,
    store: JobStore,
    queue: MemoryQueue,
    *,
    is_padded: bool,
) -> None:
    files = wanted("a.jpg", "b.jpg", "c.jpg", "d.jpg")
    files[1] = replace(files[1], content_type="image/png")
    offer = offered(direct, job, files, so_far=100)
    assert [[*images] for _, images in offer.packs] == [[0, 1, 2], [3]]
    assert codes(direct.commit(job, offer.upload_id)) == dict.fromkeys(range(4), "missing")
    send(offer, 0, is_padded=is_padded)
    for _ in range(2):
        outcomes = direct.commit(job, offer.upload_id)
        assert codes(outcomes) == {0: "accepted", 1: "accepted", 2: "accepted", 3: "missing"}
    pack_id = images_of(offer)[0].pack_id
    key = f"{job.job_id}/{pack_id}.tar"
    assert keys_in(input_bucket, job.job_id) == [key]
    with tarfile.open(fileobj=BytesIO(input_bucket.get(key))) as tar:
        assert tar.getnames() == ["00.jpg", "01.png", "02.jpg"]
    assert InputBucket(input_bucket).originals([*store.images(job.job_id)], 10**6) == [PICTURE] * 3
    [request] = [RequestMessage.from_json(body) for body in queue.bodies]
    assert (request.pack_id, request.extension, request.sizes) == (pack_id, "tar", (len(PICTURE),) * 3)
    send(offer, 1)
    assert set(codes(direct.commit(job, offer.upload_id)).values()) == {"accepted"}
    assert (len(keys_in(input_bucket, job.job_id)), store.status(job.job_id).accepted) == (2, 4)


def test_packs_are_small_at_both_ends_of_a_job_and_follow_positions(direct: PresignedUploads, job: Job) -> None:
    def packs(files: Sequence[FileSpec], so_far: int) -> list[list[int]]:
        return [[*images] for _, images in offered(direct, job, files, so_far=so_far).packs]

    files = wanted(*"abcdef")
    assert packs(files, 0) == [[0], [1], [2], [3], [4], [5]]
    assert packs(files, 8) == [[0, 1], [2, 3], [4, 5]]
    assert packs([replace(each, left=33 - index) for index, each in enumerate(files)], 100) == [
        [0, 1],
        *[[2], [3], [4], [5]],
    ]
    positions = (100, 101, 102, 103, 200, 201)
    assert packs([replace(file, position=at) for file, at in zip(files, positions, strict=True)], 0) == [
        [0, 1, 2], [3], [4, 5],
    ]  # fmt: skip
    assert packs([replace(each, size=25 * 2**20) for each in files[:2]], 100) == [[0], [1]]


@pytest.mark.parametrize("keep", [False, True])
def test_row_65_a_form_that_is_sent_again_after_the_commit_changes_nothing(
    direct: PresignedUploads, input_bucket: Bucket, config: Config, provisioned: Clients, job: Job, keep: bool
) -> None:
    job = replace(job, keep=keep)
    offer = offered(direct, job, wanted("a.jpg"))
    sent_at, key = offer.packs[0][0].fields["key"], images_of(offer)[0].key

    def tags(at: str) -> dict[str, str]:
        found = provisioned.s3.get_object_tagging(Bucket=config.names.input_bucket, Key=at)["TagSet"]
        return {tag["Key"]: tag["Value"] for tag in found}

    send(offer, 0)
    assert tags(sent_at) == UNKEPT, "a lifecycle rule deletes what no controller finds"
    first = direct.commit(job, offer.upload_id)
    assert codes(first) == {0: "accepted"}
    for content in (PICTURE, picture(shade=9)[: len(PICTURE)]):
        send(offer, 0, content=content)
        assert direct.commit(job, offer.upload_id) == first
        assert (keys_in(input_bucket, job.job_id), input_bucket.get(key)) == ([key], PICTURE)
        assert tags(key) == ({} if keep else UNKEPT)


def test_as_many_long_names_as_a_request_may_have_can_be_remembered(
    config: Config, cloud_table: Table, job: Job
) -> None:
    direct = Backend(config, JobStore(cloud_table)).direct  # its items are bounded
    offer = offered(direct, job, wanted(*["\U0001f6d1" * 300] * MAX_FILES))
    assert codes(direct.commit(job, offer.upload_id)) == dict.fromkeys(range(MAX_FILES), "missing")


def test_what_has_arrived_becomes_images_of_the_job_and_the_rest_may_come_later(
    direct: PresignedUploads, job: Job, store: JobStore, queue: MemoryQueue
) -> None:
    offer = offered(direct, job, wanted("a.jpg", "b.jpg", "c.jpg"))
    assert store.status(job.job_id).state == "empty"
    send(offer, 0, 2)
    assert codes(direct.commit(job, offer.upload_id)) == {0: "accepted", 1: "missing", 2: "accepted"}
    assert store.status(job.job_id).accepted == 2
    send(offer, 1)
    assert set(codes(direct.commit(job, offer.upload_id)).values()) == {"accepted"}
    images = list(store.images(job.job_id))
    assert [(image.filename, image.size) for image in images] == [(f"{n}.jpg", len(PICTURE)) for n in "abc"]
    assert store.status(job.job_id).accepted == 3
    assert queue.image_ids == {image.ref.image_id for image in images}
    assert [one.job_id for one in OpenJobs(store.table).find_all()] == [job.job_id]


def test_commits_at_the_same_time_count_each_image_once(
    config: Config, provisioned: Clients, direct: PresignedUploads, job: Job, store: JobStore
) -> None:
    offer = offered(direct, job, wanted(*(f"{number}.jpg" for number in range(10))))
    send(offer, *range(len(offer.packs)))
    processes = [Backend(config, store, request_queue=MemoryQueue()).direct for _ in range(4)]
    together = Barrier(len(processes))

    def commit(process: PresignedUploads) -> set[str]:
        together.wait(DEADLINE_SECONDS)
        return set(codes(process.commit(job, offer.upload_id)).values())

    with ThreadPoolExecutor(len(processes)) as threads:
        assert list(threads.map(commit, processes)) == [{"accepted"}] * len(processes)
    assert store.status(job.job_id).accepted == count_images(store, job.job_id) == 10


def test_an_accepted_image_stays_accepted_when_its_object_has_gone(
    direct: PresignedUploads, job: Job, input_bucket: Bucket, queue: MemoryQueue
) -> None:
    offer = offered(direct, job, wanted("a.jpg"))
    send(offer, 0)
    direct.commit(job, offer.upload_id)
    input_bucket.delete(images_of(offer)[0].key)
    assert codes(direct.commit(job, offer.upload_id)) == {0: "accepted"}
    assert len(queue.bodies) == 1


@pytest.mark.parametrize(
    ("content", "content_type", "code"),
    [
        (b"x" * 11, "image/jpeg", "other_size"),
        (b"x" * 10, "text/html", "other_type"),
        (b"", "image/jpeg", "other_size"),
    ],
)
def test_what_arrived_in_another_form_than_was_declared_is_not_accepted(
    direct: PresignedUploads,
    job: Job,
    store: JobStore,
    input_bucket: Bucket,
    content: bytes,
    content_type: str,
    code: str,
) -> None:
    offer = offered(direct, job, wanted("a.jpg", size=10))
    input_bucket.put(offer.packs[0][0].fields["key"], content, content_type)
    assert codes(direct.commit(job, offer.upload_id)) == {0: code}
    assert (count_images(store, job.job_id), store.status(job.job_id).accepted) == (0, 0)


def test_an_image_is_unavailable_if_the_bucket_fails_for_it(direct: PresignedUploads, job: Job) -> None:
    offer = offered(direct, job, wanted("a.jpg", "b.jpg", size=1))

    class Ailing(MemoryBucket):
        def head(self, key: str) -> StoredObject | None:
            if images_of(offer)[0].ref.image_id in key:
                raise client_error(503, "SlowDown")
            return super().head(key)

    bucket = Ailing()
    bucket.put(offer.packs[1][0].fields["key"], b"1", "image/jpeg")
    ingest = replace(direct.ingest, bucket=InputBucket(bucket))
    ailing = replace(direct, ingest=ingest, copies=MemorySource())
    assert codes(ailing.commit(job, offer.upload_id)) == {0: "unavailable", 1: "accepted"}


def test_a_repeated_commit_completes_a_failed_one_and_counts_no_image_twice(
    direct: PresignedUploads, job: Job, store: JobStore, queue: MemoryQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(*_: object, **__: object) -> None:
        raise TableBusyError("the table is busy")

    offer = offered(direct, job, wanted("a.jpg", "b.jpg"))
    send(offer, 0, 1)
    with monkeypatch.context() as patch:
        patch.setattr(JobStore, "record_images", dies)
        with pytest.raises(TableBusyError):
            direct.commit(job, offer.upload_id)
    assert count_images(store, job.job_id) == 0
    assert set(codes(direct.commit(job, offer.upload_id)).values()) == {"accepted"}
    assert count_images(store, job.job_id) == len(queue.image_ids) == 2
    assert store.status(job.job_id).accepted <= 2


def test_a_repeated_request_is_offered_the_same_images(
    direct: PresignedUploads, other_process: PresignedUploads, job: Job
) -> None:
    files = [*wanted("a.jpg", "b.jpg", "c.jpg"), *wanted("d.png", content_type="image/png")]
    first = offered(direct, job, files, "key", so_far=100)
    again = offered(other_process, job, files, "key", so_far=100)
    assert (first.upload_id, images_of(first)) == (again.upload_id, images_of(again))
    send(first, 0)
    send(again, 0)
    assert [*codes(direct.commit(job, first.upload_id)).values()] == [*["accepted"] * 3, "missing"]
    assert offered(direct, job, files, "another").upload_id != first.upload_id


@pytest.mark.parametrize(
    "files",
    [
        wanted("other.jpg"),
        wanted("a.jpg", size=3),
        wanted("a.jpg", content_type="image/png"),
        wanted("a.jpg", "b.jpg"),
    ],
)
def test_a_key_that_comes_with_other_files_is_refused(
    direct: PresignedUploads, job: Job, files: list[FileSpec]
) -> None:
    offered(direct, job, wanted("a.jpg"), "key")
    with pytest.raises(ReusedKeyError):
        direct.offer(job, files, "key")
