"""Whose a job is stands in two items, which stay in step whoever dies between two writes."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import pytest

from core.idempotency import Claim, Claims
from core.ids import ImageRef, input_key, new_id
from core.jobs.models import AcceptedCount, DeletedJob, ImageRecord, Job, OpenJob, Resend
from core.jobs.store import JobStore
from core.messages import Response
from services.errors import NotFoundError
from services.table import LAST, Item, Table

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class CrashError(Exception):
    """The process dies here."""


@dataclass(frozen=True)
class MortalTable(Table):
    """A table whose caller dies before its write number `dies_at`, from 1."""

    dies_at: int = 0
    writes: list[int] = field(default_factory=list)

    def put_all(self, items: Sequence[Item]) -> None:
        self._write(len(items))
        super().put_all(items)

    def delete_all(self, keys: Sequence[tuple[str, str]]) -> None:
        self._write(len(keys))
        super().delete_all(keys)

    def _write(self, items: int) -> None:
        self.writes.append(items)
        if len(self.writes) == self.dies_at:
            raise CrashError


def a_job(owner: str, *, keep: bool = False) -> Job:
    return Job(new_id(), "summer", NOW, keep, owner)


def dying(store: JobStore, at: int) -> JobStore:
    """Return the store as a process uses it that dies before its write number `at`."""
    return JobStore(MortalTable(store.table.client, store.table.name, dies_at=at))


def items_of(store: JobStore, job: Job) -> list[str]:
    """Return in which partitions a job is, as such."""
    places = ("JOBS", f"OWNED#{job.owner}", "OPEN", "DELETED")
    return [place for place in places if store.table.get(place, job.job_id)]


def test_a_job_comes_back_with_its_owner_and_is_listed_for_that_one_only(store: JobStore) -> None:
    anna, bert, nobody = a_job("anna", keep=True), a_job("bert"), a_job("")
    store.create_all([anna, bert, nobody])
    for job in (anna, bert, nobody):
        assert store.job(job.job_id) == job
        assert store.jobs(9, owner=job.owner) == [job]
    assert [job.owner for job in store.jobs_until(datetime.now(UTC))] == ["anna", "bert", ""]


def test_what_belongs_to_nobody_is_written_as_before_there_were_owners(store: JobStore) -> None:
    job = a_job("")
    store.create(job)
    item = {"pk": "JOBS", "sk": job.job_id, "name": "summer", "created_at": NOW.isoformat(), "keep": 0}
    assert store.table.get("JOBS", job.job_id) == item
    assert items_of(store, job) == ["JOBS"]
    store.delete(job)
    assert store.table.get("DELETED", job.job_id) == {"pk": "DELETED", "sk": job.job_id}


def test_a_list_of_nobodys_jobs_goes_on_beyond_those_of_users(store: JobStore) -> None:
    ours = [a_job(owner) for owner in ("", "anna", "bert", "anna", "", "anna", "bert", "")]
    store.create_all(ours)
    nobodys = [job for job in reversed(ours) if not job.owner]
    assert store.jobs(2) == nobodys[:2]
    assert store.jobs(2, before=nobodys[1].job_id) == nobodys[2:]
    assert store.jobs(9) == nobodys


def test_who_dies_over_a_new_job_leaves_nothing_in_a_list_that_does_not_exist(store: JobStore) -> None:
    job = a_job("anna")
    for at, left in ((1, []), (2, ["JOBS"]), (3, ["JOBS", "OWNED#anna"])):
        try:
            dying(store, at).create(job)
        except CrashError:
            assert at < 3
        assert items_of(store, job) == left
    store.create(job)
    assert store.jobs(9, owner="anna") == [job]


def test_who_dies_over_a_deletion_leaves_what_the_controller_takes_away(store: JobStore) -> None:
    job = a_job("anna")
    store.create(job)
    store.reopen(job.job_id, NOW)
    with pytest.raises(CrashError):
        dying(store, 2).delete(job)
    assert items_of(store, job) == ["JOBS", "OWNED#anna", "OPEN", "DELETED"]
    assert store.deleted_jobs() == [DeletedJob(job.job_id, "anna")]
    for _ in range(2):
        store.remove_items(DeletedJob(job.job_id, "anna"), 100)
        assert items_of(store, job) == ["DELETED"]


def test_a_deletion_takes_a_job_out_of_every_list_and_can_be_repeated(store: JobStore) -> None:
    job, other = a_job("anna"), a_job("anna")
    store.create_all([job, other])
    for _ in range(2):
        store.delete(job)
        assert items_of(store, job) == ["DELETED"]
    assert store.jobs(9, owner="anna") == [other]


def test_a_creation_that_ends_after_the_deletion_is_taken_away_by_the_last_look(store: JobStore) -> None:
    job = a_job("anna")
    store.create(job)
    store.delete(job)
    store.create(job)  # a repeat of the first request, which was under way
    store.remove_items(store.deleted_jobs()[0], 100)
    assert (store.jobs(9, owner="anna"), items_of(store, job)) == ([], ["DELETED"])


def test_which_jobs_exist_is_asked_of_all_or_of_a_user(store: JobStore) -> None:
    anna, bert = a_job("anna"), a_job("bert")
    store.create_all([anna, bert])
    ids = [anna.job_id, bert.job_id, new_id()]
    assert store.existing(ids) == {anna.job_id, bert.job_id}
    assert store.existing(ids, "anna") == {anna.job_id}
    assert store.existing([]) == set()


def test_an_image_is_read_with_its_job_and_its_result_by_its_owner_only(store: JobStore) -> None:
    job = a_job("anna")
    ref = ImageRef(job.job_id, new_id())
    image = ImageRecord(ref, "cat.jpg", input_key(ref, "jpg"), 10, NOW)
    store.create(job)
    with pytest.raises(NotFoundError, match="no image"):
        store.whole_image(ref, "anna")
    store.record_images([image], NOW)
    assert store.whole_image(ref, "anna") == (job, image, None, None)
    result = Response(
        job_id=ref.job_id, image_id=ref.image_id, status="done", label="cat", score=0.5, worker="i-1", attempts=1
    )
    store.put_done([result])
    assert store.whole_image(ref, "anna") == (job, image, result, None)
    resend = Resend(0, NOW, NOW, waited_seconds=60)
    store.put_resends(job.job_id, {ref.image_id: resend})
    assert store.whole_image(ref, "anna") == (job, image, result, resend)
    said = []
    for unknown, owner in ((ref, "bert"), (ref, ""), (replace(ref, image_id=new_id()), "bert")):
        with pytest.raises(NotFoundError) as refused:
            store.whole_image(unknown, owner)
        said.append(str(refused.value))
    assert said == [f"there is no job {job.job_id!r}"] * 3


def test_images_of_several_jobs_are_recorded_together_and_open_each_of_them(store: JobStore) -> None:
    refs = [ImageRef(job_id, new_id()) for job_id in (new_id(), new_id()) for _ in range(2)]
    store.record_images([ImageRecord(ref, "a.jpg", input_key(ref, "jpg"), 1, NOW) for ref in refs], NOW)
    assert {job.job_id for job in store.open_jobs()} == {ref.job_id for ref in refs}
    assert store.open_jobs()[0] == OpenJob(min(ref.job_id for ref in refs), NOW.isoformat())
    assert [store.count_images(ref.job_id) for ref in refs] == [2] * 4


def test_what_is_said_of_several_jobs_is_what_is_said_of_each(store: JobStore) -> None:
    jobs = [a_job("anna"), a_job("bert")]
    store.create_all(jobs)
    said = {job.job_id: ("writer", AcceptedCount(number + 1, 1, NOW, NOW)) for number, job in enumerate(jobs)}
    store.put_accepted_counts(said)
    together = [list(store.table.query(f"COUNTS#{job.job_id}", "0", LAST)) for job in jobs]
    for job_id, (writer, words) in said.items():
        store.put_accepted_count(
            job_id, writer, replace(words, accepted=words.accepted - 1)
        )  # older: changes nothing
    assert [list(store.table.query(f"COUNTS#{job.job_id}", "0", LAST)) for job in jobs] == together
    assert [store.status(job.job_id).accepted for job in jobs] == [1, 2]


def test_a_key_claims_a_job_for_its_own_user_only(store: JobStore) -> None:
    nobody, anna, bert = (Claims(store.table, owner) for owner in ("", "anna", "bert"))
    claims = {each.owner: each.acquire("k", Claim(new_id(), "r", NOW)) for each in (nobody, anna, bert)}
    assert len({claim.job_id for claim in claims.values()}) == 3
    assert {each.owner: each.find("k", NOW) for each in (nobody, anna, bert)} == claims
