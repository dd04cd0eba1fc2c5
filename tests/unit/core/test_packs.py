"""Packs in the job table: what the store and the writer of results make of any steps, as a plain model has it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any, Final, Literal

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from core.ids import ImageRef, image_id_at, new_id, pack_of, positioned_id
from core.jobs.figures import JobFigures
from core.jobs.models import ImageRecord, Job, Resend
from core.jobs.packs import Pack, by_pack, pack_in, pack_item
from core.jobs.store import MAX_CHANGES, JobStore
from core.messages import CANCELLED, ClassificationResult, Failure, RequestedModel, failed
from services.errors import NotFoundError
from services.table import TableBusyError
from tests.support.memory_aws.dynamodb import MemoryTable
from tests.support.memory_aws.s3 import MemoryBucket
from tests.support.result_path import ResultPath, done

NOW: Final = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
BAD: Final = Failure(code="bad", message="no image")
UNREADABLE: Final = Failure(code="truncated", message="the file ends early")
MODEL: Final = RequestedModel(digest="0" * 64, place="s3://models/a", only=f"{64 * '0'} AAAA")
MODELS: Final = (MODEL, None, MODEL.model_copy(update={"place": "s3://models/b 2"}))


def pack_of_images(job_id: str, size: int, position: int = 0) -> list[ImageRecord]:
    pack_id = positioned_id(job_id, position)
    refs = [ImageRef(job_id, image_id_at(pack_id, place)) for place in range(size)]
    sizes = tuple(place * 100 for place in range(size))
    kinds = ("jpg", "png")
    return [ImageRecord(ref, f"{place} é/a b.jpg", kinds[place % 2], sizes, NOW) for place, ref in enumerate(refs)]


@dataclass(frozen=True)
class Answered:
    """A result, by the number of its image."""

    number: int
    outcome: Literal["done", "failed", "final", "cancelled"]
    attempt: int
    receives: int

    def result(self, ref: ImageRef, serial: int) -> ClassificationResult:
        if self.outcome == "done":
            result = done(ref, self.receives)
        else:
            failures = {"cancelled": CANCELLED, "failed": BAD, "final": UNREADABLE}
            result = failed(ref, failures[self.outcome], worker="", attempts=self.receives).response()
        return result.model_copy(update={"attempt": self.attempt, "worker": f"{serial}"})


Step = list[Answered] | tuple[Literal["resend", "retry", "unretry"], list[int]]
_answers = st.builds(
    Answered,
    st.integers(0, 19),
    st.sampled_from(("done", "done", "failed", "final", "cancelled")),
    st.integers(0, 2),
    st.integers(1, 2),
)
_steps: st.SearchStrategy[Step] = st.one_of(
    st.lists(_answers, min_size=1, max_size=8),
    st.tuples(st.sampled_from(("resend", "retry", "unretry")), st.lists(st.integers(0, 19), min_size=1, max_size=4)),
)
_places = st.integers(0, 30)


class PacksOfAJob(RuleBasedStateMachine):
    """A job with packs of one to four images, some in the same slot of ids, and what a model expects of it."""

    @initialize(shapes=st.lists(st.tuples(st.integers(1, 4), st.integers(0, 2)), min_size=1, max_size=6))
    def begin(self, shapes: list[tuple[int, int]]) -> None:
        self.table = MemoryTable()
        self.table.call = self.call
        self.store, self.serial = JobStore(self.table), count(1)
        self.job = Job(new_id(), "job", NOW)
        self.store.create(self.job)
        self.inputs = MemoryBucket()
        self.writer = ResultPath(self.store, buckets=(self.inputs, MemoryBucket())).results
        self.packs = [pack_of_images(self.job.job_id, *shape) for shape in shapes]
        beyond = [ImageRef(self.job.job_id, image_id_at(pack[0].ref.image_id, len(pack))) for pack in self.packs]
        self.refs = [image.ref for pack in self.packs for image in pack] + beyond
        self.images = dict[ImageRef, ImageRecord]()
        self.results = dict[ImageRef, ClassificationResult]()
        self.resends = dict[ImageRef, Resend]()
        self.meanwhile, self.stored = list[Step](), set[str]()

    def call(self, operation: str, effect: Callable[[], Any]) -> Any:
        """Another process writes between what a call has read and its write."""
        if operation in {"TransactWriteItems", "PutItem"} and self.meanwhile:
            self.run(self.meanwhile.pop())
        return effect()

    @rule(numbers=st.lists(st.integers(0, 5), min_size=1, unique=True))
    def accept(self, numbers: list[int]) -> None:
        images = [image for number in numbers if number < len(self.packs) for image in self.packs[number]]
        new = [image for image in images if image.ref not in self.images]
        assert self.store.record_images(images, NOW) == new
        self.images |= {image.ref: image for image in new}
        self.stored |= {image.key for image in new}
        for image in new:
            self.inputs.put(image.key, b"pixels", image.content_type)

    @rule(step=_steps, meanwhile=st.lists(_steps, max_size=2))
    def write(self, step: Step, meanwhile: list[Step]) -> None:
        self.meanwhile = meanwhile
        self.run(step)
        self.meanwhile = []

    def run(self, step: Step) -> None:
        if isinstance(step, list):
            self.answer([each.result(self.refs[each.number % len(self.refs)], next(self.serial)) for each in step])
        elif refs := {self.refs[each % len(self.refs)] for each in step[1]} & self.images.keys():
            if step[0] == "resend":
                self.resend(min(refs, key=self.refs.index))
            else:
                for images in by_pack(self.store.images_of(refs).values()):
                    self.retry(images, 1 if step[0] == "retry" else -1)

    def answer(self, results: Sequence[ClassificationResult]) -> None:
        assert self.writer.record_each(results) == {}
        for each in results:
            known = self.results.get(each.ref)
            is_better = known is None or (
                known.status == "failed" and (each.status == "done" or each.attempt > known.attempt)
            )
            if each.ref in self.images and is_better:
                self.results[each.ref] = each
        for ref in {each.ref for each in results} & self.images.keys():
            found = [self.results.get(each) for each in self.images[ref].pack_refs]
            done = [each is not None and each.status == "done" for each in found]
            if any(done) and all(each and (each.status == "done" or each.error == UNREADABLE) for each in found):
                self.stored.discard(self.images[ref].key)

    def resend(self, ref: ImageRef) -> None:
        at = NOW + timedelta(seconds=next(self.serial))
        self.writer.record_resends(self.job.job_id, {ref.image_id: Resend(0, at, at, 60)})
        known = self.resends.get(ref, Resend(0, at, at, 60, times=0))
        self.resends[ref] = replace(known, last_at=at, times=known.times + 1)

    def retry(self, images: Sequence[ImageRecord], more: int) -> None:
        at, model = NOW + timedelta(seconds=next(self.serial)), MODELS[next(self.serial) % len(MODELS)]
        changes = [
            (before, replace(before, attempt=attempt, retried_at=at if attempt else None, model=model))
            for before in images
            if (attempt := before.attempt + more) >= 0
        ]
        if changes:
            replaced = self.store.replace_images(changes)
            assert {each.ref for each in replaced} == {
                before.ref for before, _ in changes if self.images[before.ref].attempt == before.attempt
            }
            self.images |= {each.ref: each for each in replaced}

    @rule()
    def receive_results_again(self) -> None:
        before = dict(self.table.items)
        self.answer(list(self.results.values()))
        assert self.table.items == before

    @rule(after=_places, limit=st.integers(1, 5), first=_places, last=_places)
    def read(self, after: int, limit: int, first: int, last: int) -> None:
        job_id, ids = self.job.job_id, sorted(ref.image_id for ref in self.refs)
        start, low, high = (ids[number % len(ids)] for number in (after, first, last))
        images = self.expected_images()
        found = list(self.store.images(job_id, start, limit))
        assert self.shown(found) == [each for each in images if each.ref.image_id > start][:limit]
        results = {ref.image_id: each for ref, each in self.results.items() if low <= ref.image_id <= high}
        assert lines(self.store.results(job_id, low, high)) == lines(results)
        assert [(each, found.status) for each, found in self.store.summaries(job_id, low, high)] == sorted(
            (image_id, each.status) for image_id, each in results.items()
        )

    def shown(self, images: Iterable[ImageRecord]) -> list[ImageRecord]:
        return [replace(each, retried_at=None) for each in images]  # it has that of its pack

    def expected_images(self) -> list[ImageRecord]:
        return self.shown(sorted(self.images.values(), key=lambda image: image.ref.image_id))

    @invariant()
    def counts_are_those_of_the_model_and_of_the_items(self) -> None:
        counts = JobFigures(self.table).counts(self.job.job_id)
        results = self.results.values()
        assert (counts.images, counts.done, counts.failed, counts.cancelled) == (
            len(self.images),
            sum(each.status == "done" for each in results),
            sum(each.status == "failed" for each in results),
            sum(each.error == CANCELLED for each in results),
        )
        requests = {
            (pack_of(ref.image_id), attempt)
            for ref, each in self.results.items()
            for attempt in range(each.attempt + 1)
        }
        assert (counts.packs, counts.answered_packs, counts.answered_retries) == (
            len({pack_of(ref.image_id) for ref in self.images}), len(requests), sum(each.attempt for each in results)
        )  # fmt: skip
        retried = {ref for ref, each in self.results.items() if each.attempts > 1} | self.resends.keys()
        assert (counts.system_retried, counts.resends) == (
            len(retried), sum(each.times for each in self.resends.values())
        )  # fmt: skip

    @invariant()
    def an_object_is_there_until_each_image_of_its_pack_is_done_or_failed_for_good(self) -> None:
        assert self.inputs.objects.keys() == self.stored

    @invariant()
    def whole_reads_are_those_of_the_model(self) -> None:
        job_id, store = self.job.job_id, self.store
        assert self.shown(store.images(job_id)) == self.expected_images()
        assert store.newest_image(job_id) == max((ref.image_id for ref in self.images), default="")
        answers = store.answers(job_id)
        by_id = {ref.image_id: each for ref, each in self.results.items()}
        assert lines({each: found.result for each, found in answers.items() if found.result}) == lines(by_id)
        assert {each: found.resend for each, found in answers.items() if found.resend} == {
            ref.image_id: each for ref, each in self.resends.items()
        }
        summaries = dict(store.summaries(job_id))
        assert {each: (found.attempt, found.attempts, found.cancelled) for each, found in summaries.items()} == {
            image_id: (each.attempt, each.attempts, each.error == CANCELLED) for image_id, each in by_id.items()
        }

    @invariant()
    def reads_of_single_images_are_those_of_the_model(self) -> None:
        store = self.store
        assert self.shown(store.images_of(self.refs).values()) == self.shown(
            self.images[ref] for ref in self.refs if ref in self.images
        )
        jobs, accepted, errors = store.find_accepted(self.refs)
        assert (jobs, errors) == ({self.job.job_id: self.job}, {})
        assert accepted == store.images_of(self.refs)
        assert store.results_of(self.refs).keys() == self.results.keys()
        missing = {
            ref
            for ref, image in self.images.items()
            if ref not in self.results
            or (self.results[ref].status == "failed" and self.results[ref].attempt < image.attempt)
        }
        assert {image.ref for image in store.still_missing(self.refs)} == missing
        found, after = store.missing_after(self.job.job_id, "", 3)
        while after is not None:
            page, after = store.missing_after(self.job.job_id, after, 3)
            found += page
        assert [image.ref for image in found] == sorted(missing, key=lambda ref: ref.image_id)
        for ref in self.refs:
            if ref in self.images:
                _, image, answer, _ = store.whole_image(ref, lambda _: True)
                assert (image.ref, store.image(ref).attempt) == (ref, self.images[ref].attempt)
                assert (answer.result is not None, answer.resend) == (ref in self.results, self.resends.get(ref))
            else:
                with pytest.raises(NotFoundError, match="there is no image"):
                    store.whole_image(ref, lambda _: True)


def lines(results: Mapping[str, ClassificationResult]) -> dict[str, tuple[str, int, str]]:
    """Return which result each image has: the worker's name is another one in each."""
    return {image_id: (each.status, each.attempt, each.worker) for image_id, each in results.items()}


test_any_writes_of_packs_are_those_of_a_plain_model = PacksOfAJob.TestCase


def test_a_pack_is_read_as_it_was_written() -> None:
    images = [
        replace(image, owner="anna", model=model, attempt=attempt, retried_at=NOW if attempt else None)
        for image, attempt, model in zip(pack_of_images(new_id(), 4), (0, 12, 1, 1), (*MODELS, None), strict=True)
    ]
    pack = Pack.of(images[::-1])
    assert pack_in(pack_item(pack)) == pack
    assert pack.images() == images


@pytest.mark.parametrize(("size", "packs"), [(1, 102), (50, 9)])
def test_a_page_of_images_reads_about_as_many_packs_as_it_needs(size: int, packs: int) -> None:
    table, job_id, read = MemoryTable(), new_id(), list[int]()
    images = [image for position in range(0, 1_000, size) for image in pack_of_images(job_id, size, position)]
    store = JobStore(table)
    store.record_images(images, NOW)

    def call(operation: str, effect: Callable[[], Any]) -> Any:
        read.append(len(found := effect()))
        return found

    table.call = call
    assert list(store.images(job_id, images[374].ref.image_id, 100)) == images[375:475]
    assert read == [packs]


def test_images_that_are_not_the_whole_begin_of_a_pack_are_refused() -> None:
    with pytest.raises(ValueError, match="do not have the places from 0 on"):
        Pack.of(pack_of_images(new_id(), 3)[1:])


def test_a_retry_that_others_always_overtake_ends_with_an_error_that_says_so() -> None:
    table, job_id = MemoryTable(), new_id()
    store, images, attempts = JobStore(table), pack_of_images(job_id, 2), count(1)
    store.record_images(images, NOW)

    def other_first(operation: str, effect: Callable[[], Any]) -> Any:
        if operation == "PutItem":
            [key] = (key for key in table.items if key[1].startswith("PACK#"))
            table.items[key] = {**table.items[key], "attempts": f"1:{next(attempts)}"}
        return effect()

    table.call = other_first
    with pytest.raises(TableBusyError, match=f"changed {MAX_CHANGES} times"):
        store.replace_images([(images[0], replace(images[0], attempt=1))])
