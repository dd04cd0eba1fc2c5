"""Jobs of a model that was rolled back move to the default: what has no result, once, and nothing else."""

from datetime import timedelta

import pytest

from core.ids import ImageRef, first_id_of, input_key, new_id
from core.images import ImageLimits
from core.jobs.figures import JobFigures
from core.jobs.models import ImageRecord, Job
from core.messages import RequestMessage
from core.model_catalog import (
    CatalogStore,
    JobModel,
    ModelCatalog,
    ModelVersion,
    rolled_back,
    rolled_out,
    with_model,
    with_moved_jobs,
)
from services.clock import utc_now
from services.sqs import OutgoingMessage
from tests.support.memory_aws.calls import refusal
from tests.support.memory_aws.ec2 import EPOCH
from tests.support.results_site import LOST_AFTER, ResultsSite, done, refused
from tests.support.unsandboxed import inspect
from web_tier.controller.job_mover import CHECK_SECONDS, JobMover
from web_tier.uploads.ingest import ImageIngest
from web_tier.uploads.retry import retry_failed

GOOD, BAD = (JobModel(name, letter * 64, f"s3://models/{name}") for name, letter in (("good", "a"), ("bad", "b")))


class MoverSite(ResultsSite):
    """A site that has rolled the model `bad` back."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.catalogs = CatalogStore(self.store.table)
        good, bad = (
            ModelVersion(name=each.name, digest=each.digest, place=each.place, added_at=EPOCH) for each in (GOOD, BAD)
        )
        rolled = rolled_back(rolled_out(with_model(ModelCatalog.only(good), bad), "bad", 1, EPOCH), EPOCH)
        self.catalogs.change(lambda _: rolled, lambda: ModelCatalog.only(good))

    def start(self) -> None:
        """Start a controller that remembers nothing."""
        super().start()
        self.mover = JobMover(CatalogStore(self.store.table), self.images, self.requests)

    def order(self) -> None:
        """Have the unfinished jobs moved that exist by now."""
        at = utc_now() + timedelta(milliseconds=1)
        self.catalogs.change(lambda before: with_moved_jobs(before, at), lambda: pytest.fail("it is stored"))

    def add(
        self, model: JobModel | None, images: int, job_id: str = "", after: timedelta = timedelta()
    ) -> list[ImageRef]:
        """Add images, with requests that workers have received, to a new job with `model` or to this one."""
        if not job_id:
            job_id = first_id_of(utc_now() + after) if after else new_id()
            self.store.create(Job(job_id, "job", EPOCH, keep=True, owner="ann", model=model))
        refs = [ImageRef(job_id, new_id()) for _ in range(images)]
        requested = None if model is None else model.requested
        records = [
            ImageRecord(ref, "a.jpg", input_key(ref, "jpg"), 1, EPOCH, owner="ann", model=requested) for ref in refs
        ]
        self.store.record_images(records, utc_now())
        for record in records:
            self.inputs.put(record.key, b"pixels", "image/jpeg")
        return refs

    def requested(self) -> list[tuple[str, str, int]]:
        """Return image, model and attempt of each request that was sent."""
        names = {each.digest: each.name for each in (GOOD, BAD)}
        found = [RequestMessage.from_json(each) for each in self.requests.bodies]
        return [(each.image_id, names[each.model.digest] if each.model else "", each.attempt) for each in found]


def test_images_without_a_result_get_the_default_once_and_nothing_else_changes() -> None:
    site = MoverSite()
    labelled, given_up, waiting, retried = site.add(BAD, 4)
    others = [*site.add(GOOD, 1), *site.add(None, 1)]
    site.respond(done(labelled), refused(given_up), refused(retried))
    site.retry(retried, request=False)
    assert site.mover.tick() == CHECK_SECONDS
    assert site.requested() == [], "nothing moves without an order"
    site.order()
    later = site.add(BAD, 1, after=timedelta(minutes=1))
    for _ in range(2):
        site.mover.tick()
    assert sorted(site.requested()) == sorted([(waiting.image_id, "good", 1), (retried.image_id, "good", 2)])
    models = {each.job_id: each.model for each in site.store.jobs(9, owner="ann")}
    expected = {waiting.job_id: GOOD, later[0].job_id: BAD, others[0].job_id: GOOD, others[1].job_id: None}
    assert models == expected == {job_id: site.store.job(job_id).model for job_id in expected}
    assert [site.result(each).status for each in (labelled, given_up)] == ["done", "failed"]
    assert {site.store.image(each).attempt for each in (labelled, given_up, *others, *later)} == {0}


def test_a_job_of_some_labels_keeps_the_model_that_has_them() -> None:
    site, some = MoverSite(), BAD.restricted(["fox", "hare"], ["hare"])
    [ref] = site.add(some, 1)
    site.order()
    for _ in range(2):
        site.mover.tick()
    assert (site.requested(), site.store.job(ref.job_id).model) == ([], some)
    assert site.store.image(ref).model == some.requested


def test_a_retry_of_a_failed_image_asks_for_the_model_that_its_job_has_now() -> None:
    site = MoverSite()
    [ref] = site.add(BAD, 1)
    site.respond(refused(ref))
    site.order()
    site.mover.tick()
    ingest = ImageIngest(ImageLimits(1, 1), site.inputs, site.store, site.requests, inspect)
    assert retry_failed(ingest, site.store.job(ref.job_id)).sent == 1
    assert site.requested() == [(ref.image_id, "good", 1)]


def test_images_that_may_be_finished_later_keep_their_message_group_in_a_move_and_a_retry() -> None:
    site = MoverSite()
    job = Job(new_id(), "job", EPOCH, owner="ann", model=BAD, finish_by=EPOCH)
    site.store.create(job)
    failed, _ = site.add(BAD, 2, job.job_id)
    site.respond(refused(failed))
    site.order()
    site.mover.tick()
    ingest = ImageIngest(ImageLimits(1, 1), site.inputs, site.store, site.requests, inspect)
    assert retry_failed(ingest, site.store.job(job.job_id)).sent == 1
    assert site.requests.groups == {job.group: 2} != {"ann": 2}, "they delay no other job of the user"


@pytest.mark.parametrize("is_label", [True, False])
def test_an_answer_to_the_message_of_before_leaves_each_image_one_result(is_label: bool) -> None:
    site = MoverSite()
    [ref] = site.add(BAD, 1)
    site.order()
    site.mover.tick()
    site.respond(done(ref) if is_label else refused(ref))
    site.requests.messages.clear()
    site.pass_time(3 * LOST_AFTER)
    # A failure of an earlier attempt is not the last word: the image is watched, and its lost request is repeated.
    assert site.requested() == [(ref.image_id, "good", 1)] * (1 if is_label else 2)
    if not is_label:
        site.respond(done(ref).model_copy(update={"attempt": 1}))
    site.respond(refused(ref, attempt=1))
    assert site.result(ref).status == "done"
    counts = JobFigures(site.store.table).counts(ref.job_id)
    assert (counts.done, counts.failed, counts.images) == (1, 0, 1)


@pytest.mark.parametrize("dies", [True, False])
def test_a_move_that_is_interrupted_goes_on_and_sends_what_it_could_not(dies: bool) -> None:
    site = MoverSite()
    refs = site.add(BAD, 3)

    def fails(_: object) -> list[OutgoingMessage]:
        raise refusal("ServiceUnavailable", "SendMessageBatch")

    site.requests.fails = fails
    site.order()
    site.mover.tick()
    assert site.store.job(refs[0].job_id).model == BAD
    site.requests.fails = lambda _: []
    if dies:
        site.start()
    site.mover.tick()
    assert site.store.job(refs[0].job_id).model == GOOD
    site.pass_time(3 * LOST_AFTER)
    assert set(site.requested()) == {(each.image_id, "good", 1) for each in refs}


def test_images_that_an_upload_adds_while_their_job_moves_are_moved_too() -> None:
    site = MoverSite()
    [first] = site.add(BAD, 1)
    site.order()
    site.mover.tick()
    [late] = site.add(BAD, 1, first.job_id)
    site.mover.tick()
    assert site.requested() == [(first.image_id, "good", 1), (late.image_id, "good", 1)]


def test_a_controller_that_lost_its_lease_moves_nothing() -> None:
    site = MoverSite()
    [ref] = site.add(BAD, 1)
    site.order()
    site.active = False
    site.mover.tick()
    assert (site.requested(), site.store.job(ref.job_id).model) == ([], BAD)
