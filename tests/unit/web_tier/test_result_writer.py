"""Results and counts: the same in the end, also if calls are repeated, reordered, or cut short by a crash."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Any, cast

import pytest
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st

from core.cost import requests_of
from core.ids import ImageRef, new_id
from core.jobs.figures import JobFigures
from core.jobs.keys import input_key, output_key
from core.jobs.lifecycle import OpenJobs
from core.jobs.models import Counts, ImageRecord, Job, Resend
from core.jobs.store import JobStore
from core.messages import ClassificationResult, crashed_worker, failed
from services.lease import Tenure
from tests.support.autoscaler import PRICES
from tests.support.jobs import client_error, statuses_of
from tests.support.memory_aws.calls import refusal, run_effect
from tests.support.memory_aws.dynamodb import MemoryTable, cancellation
from tests.support.memory_aws.ec2 import EPOCH
from tests.support.memory_aws.s3 import MemoryBucket
from tests.support.result_path import (
    IMAGES,
    JOBS,
    REFS,
    ResultPath,
    Statistics,
    done,
    figures,
    figures_of_items,
    not_done,
    stored_jobs,
)
from web_tier.autoscaler.billing import CostAttribution
from web_tier.autoscaler.metrics import ControllerMetrics
from web_tier.controller.result_writer import ResultStatistics, StaleTokenError

GIVEN_UP = "GIVEN UP"
"""Partition in which a test records images that are given up."""


class CrashError(Exception):
    """The process dies here."""


def redelivered(store: JobStore, job_id: str) -> int:
    """How many results needed more than one receive, as the items themselves say."""
    return sum(result.attempts > 1 for result in dict(store.summaries(job_id)).values())


def test_each_answer_is_counted_once_in_the_run_in_which_it_was_given() -> None:
    store, statistics = stored_jobs(), Statistics()
    path = ResultPath(store, statistics=statistics)
    path.results.record([done(REFS[0]), done(REFS[1]), not_done(REFS[2])])
    path.results.record([done(REFS[0]), not_done(REFS[2])])
    path.results.record([done(REFS[0]), not_done(REFS[2], 1), done(REFS[3])])  # only the first one is a repeat
    assert statistics.answers == [(1, 3), (1, 2)]
    later = Statistics(period=4)
    successor = ResultPath(store, statistics=later)
    successor.results.record([not_done(REFS[2], 1), done(REFS[0])])
    successor.results.record([done(REFS[2]), not_done(REFS[3]), done(ImageRef(JOBS[0], new_id()))])
    assert later.answers == [(4, 1)]
    assert JobFigures(store.table).counts(JOBS[0]).runs == ((1, 5), (4, 1))


def test_the_fleet_adds_up_what_the_requests_of_each_transaction_cost() -> None:
    attribution = CostAttribution(None, EPOCH.date())
    path = ResultPath(stored_jobs(), statistics=ResultStatistics(ControllerMetrics(), attribution, PRICES))
    path.results.record([done(REFS[0]), done(REFS[1])])
    path.results.record([done(REFS[0]), done(REFS[2])])
    expected = [Counts(done=each, acceptances=1, revision=1, answered_packs=each) for each in (2, 1)]
    assert attribution.requests_dollars == pytest.approx(sum(requests_of(each).dollars(PRICES) for each in expected))


def test_what_belongs_to_nothing_is_dropped_and_its_neighbours_are_kept(caplog: pytest.LogCaptureFixture) -> None:
    store, gone, unknown = stored_jobs(), ImageRef(new_id(), new_id()), ImageRef(JOBS[0], new_id())
    path = ResultPath(store, buckets=(MemoryBucket(), outputs := MemoryBucket()))
    for ref in (gone, unknown, REFS[0]):
        outputs.put(output_key(ref), b"{}", "application/json")
    path.results.record([done(gone), done(unknown), done(REFS[0])])
    assert outputs.objects.keys() == {output_key(unknown), output_key(REFS[0])}
    logged = [vars(each) for each in caplog.records]
    assert [(each.get("jobs") or each["job"], each["n"]) for each in logged] == [([gone.job_id], 1), (JOBS[0], 1)]
    assert figures(store, JOBS[0]) == (1, 0, 40)
    assert statuses_of(store, JOBS[0]) == {REFS[0].image_id: "done"}


@dataclass
class FailingAt:
    """Crashes at given writes, counted over all attempts."""

    crashes: set[int]
    writes: int = field(default=0)

    def __call__(self, _when: str) -> None:
        self.writes += 1
        if self.writes in self.crashes:
            raise CrashError


_responses = st.lists(
    st.builds(
        lambda ref, good, attempts: done(ref, attempts) if good else not_done(ref, attempts=attempts),
        st.sampled_from(REFS),
        st.booleans(),
        st.integers(1, 2),
    ),
    min_size=1,
    max_size=60,
)


@given(_responses, st.sets(st.integers(1, 60), max_size=12), st.lists(st.booleans(), max_size=12), st.randoms())
def test_any_order_repetition_and_crash_ends_at_the_figures_of_the_items(
    responses: list[ClassificationResult],
    crashes: set[int],
    restarts: list[bool],
    random: "st.random.Random",  # type: ignore[name-defined]
) -> None:
    """At-least-once delivery: what was not recorded comes again, in another order, perhaps to a new process."""
    store = stored_jobs(FailingAt(crashes))
    path = ResultPath(store)
    queue = list(responses)
    restart = iter(restarts)
    while queue:
        batch = [queue.pop(random.randrange(len(queue))) for _ in range(min(len(queue), random.randint(1, 100)))]
        try:
            path.results.record(batch)
        except CrashError:
            queue += batch
            if next(restart, False):
                path = ResultPath(store)
    good = {response.ref for response in responses if response.status == "done"}
    every = {response.ref for response in responses}
    for job_id in {response.job_id for response in responses}:
        expected = (
            sum(ref.job_id == job_id for ref in good),
            sum(ref.job_id == job_id for ref in every - good),
            40,
        )
        assert figures(store, job_id) == figures_of_items(store, job_id) == expected
        assert JobFigures(store.table).counts(job_id).system_retried == redelivered(store, job_id)


def refuse(monkeypatch: pytest.MonkeyPatch, store: JobStore, text: str, error: Exception) -> None:
    """Let the table refuse transactions in which a text is."""
    memory = cast(MemoryTable, store.table).memory
    transact = memory.transact_write_items

    def refuse_some(**call: Any) -> Any:
        if text in json.dumps(call["TransactItems"]):
            raise error
        return transact(**call)

    monkeypatch.setattr(memory, "transact_write_items", refuse_some)


@pytest.mark.parametrize(
    "error",
    [
        refusal("ThrottlingException"),
        cancellation("None", "ThrottlingError"),
        cancellation("TransactionConflict", "None"),
        refusal("AccessDeniedException"),
    ],
    ids=str,
)
def test_a_job_that_the_table_refuses_delays_no_other(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Row 49."""
    store = stored_jobs(sleep=lambda _seconds: None)
    refuse(monkeypatch, store, JOBS[0], error)
    errors = ResultPath(store).results.record_each([done(ref) for refs in IMAGES.values() for ref in refs[:12]])
    assert errors.keys() == set(IMAGES[JOBS[0]][:12])
    assert (figures(store, JOBS[0]), figures(store, JOBS[1])) == ((0, 0, 40), (12, 0, 40))


def test_a_result_that_the_table_refuses_delays_no_other_of_its_job(monkeypatch: pytest.MonkeyPatch) -> None:
    store, bad = stored_jobs(), REFS[5]
    refuse(monkeypatch, store, bad.image_id, refusal("ValidationException"))
    errors = ResultPath(store).results.record_each([done(ref) for ref in IMAGES[JOBS[0]]])
    assert ([*errors], figures(store, JOBS[0])) == ([bad], (39, 0, 40))


def test_results_of_very_many_jobs_are_recorded_in_few_calls() -> None:
    store, calls = JobStore(MemoryTable()), Counter[str]()
    refs = [ImageRef(new_id(), new_id()) for _ in range(200)]
    for ref in refs:
        store.create(Job(ref.job_id, "job", EPOCH))
        store.record_images([ImageRecord(ref, "a.jpg", "jpg", (1,), EPOCH)], EPOCH)

    def call(operation: str, effect: Callable[[], Any]) -> Any:
        calls[operation] += 1
        return effect()

    cast(MemoryTable, store.table).call = call
    assert ResultPath(store).results.record_each([done(ref) for ref in refs]) == {}
    assert calls == {"BatchGetItem": 4, "TransactWriteItems": 8}
    assert {figures(store, ref.job_id) for ref in refs} == {(1, 0, 1)}


def test_a_controller_that_another_has_followed_records_nothing_of_the_jobs_of_that() -> None:
    store = stored_jobs()
    ResultPath(store, Tenure(token=2)).results.record([done(REFS[0])])
    frozen, other = ResultPath(store, Tenure(token=1)).results, IMAGES[JOBS[1]][0]
    errors = frozen.record_each([done(REFS[1]), done(other)])
    assert {ref: type(error) for ref, error in errors.items()} == {REFS[1]: StaleTokenError}
    assert statuses_of(store, JOBS[0]) == {REFS[0].image_id: "done"}
    assert statuses_of(store, JOBS[1]) == {other.image_id: "done"}
    with pytest.raises(StaleTokenError):
        frozen.record_resends(JOBS[0], {REFS[1].image_id: Resend(0, EPOCH, EPOCH, 60)})


def test_a_job_of_which_a_result_changes_is_open_again() -> None:
    """So its file with all results is written again."""
    store = stored_jobs()
    path = ResultPath(store)
    path.results.record([not_done(REFS[0])])
    for opened in OpenJobs(store.table).find_all():
        OpenJobs(store.table).close(opened)
    path.results.record([done(REFS[1])])
    assert OpenJobs(store.table).find_all() == []
    path.results.record([done(REFS[0])])
    assert [job.job_id for job in OpenJobs(store.table).find_all()] == [JOBS[0]]


def test_an_unkept_image_is_deleted_once_its_label_is_stored_however_often_it_comes() -> None:
    store = stored_jobs()
    path = ResultPath(store, buckets=(inputs := MemoryBucket(), MemoryBucket()))
    own, foreign, failed_one = (input_key(REFS[number], "jpg") for number in (0, 1, 4))
    for key in (foreign, failed_one):
        inputs.put(key, b"pixels", "image/jpeg")
    for _ in range(2):  # the controller that recorded it first may have died before the deletion
        inputs.put(own, b"pixels", "image/jpeg")
        path.results.record([done(REFS[0]).model_copy(update={"key": own})])
        assert inputs.objects.keys() == {foreign, failed_one}
    inputs.put(own, b"pixels", "image/jpeg")
    path.results.record(
        [
            done(REFS[2]).model_copy(update={"key": foreign}),
            done(REFS[3]),
            not_done(REFS[4]).model_copy(update={"key": failed_one}),
            done(ImageRef(JOBS[0], new_id())).model_copy(update={"key": own}),
        ]
    )
    assert inputs.objects.keys() == {own, foreign, failed_one}, (
        "another image's, one of unknown key, a failed one, one that was never accepted"
    )


def test_whichever_call_is_refused_nothing_is_deleted_or_given_up_before_it_is_recorded() -> None:
    labelled, given_up = REFS[:2], REFS[2]
    crashed = failed(given_up, crashed_worker(5), worker="i-1", attempts=5).response()
    responses = [*(done(ref).model_copy(update={"key": input_key(ref, "jpg")}) for ref in labelled), crashed]
    for refused in count():
        store, inputs, calls = stored_jobs(), MemoryBucket(), count()
        table = cast(MemoryTable, store.table)

        def record(given_up: Sequence[ClassificationResult], table: MemoryTable = table) -> dict[ImageRef, Exception]:
            left = table.put_each([{"pk": GIVEN_UP, "sk": each.image_id} for each in given_up])
            return {each.ref: left[0][1] for each in given_up if left}

        path = ResultPath(store, buckets=(inputs, MemoryBucket()), on_given_up=[record])
        inputs.objects = {input_key(ref, "jpg"): b"pixels" for ref in labelled}

        def call(_operation: str, effect: Callable[[], Any], refused: int = refused, calls: Any = calls) -> Any:
            if next(calls) == refused:
                raise client_error(503)
            return effect()

        table.call = inputs.call = call
        with suppress(ClientError):
            path.results.record_each(responses)
        table.call = inputs.call = run_effect
        recorded = statuses_of(store, JOBS[0])
        for ref in labelled:
            assert inputs.exists(input_key(ref, "jpg")) or recorded.get(ref.image_id) == "done"
        noted = [sk for pk, sk in table.items if pk == GIVEN_UP]
        assert given_up.image_id not in recorded or noted
        if next(calls) <= refused:
            break
    assert (len(recorded), inputs.objects, noted) == (3, {}, [given_up.image_id])
    assert refused > 3


def test_an_image_that_is_kept_stays() -> None:
    store, key = JobStore(MemoryTable()), input_key(REFS[0], "jpg")
    store.create(Job(JOBS[0], "job", EPOCH, keep=True))
    store.record_images([ImageRecord(REFS[0], "a.jpg", "jpg", (1,), EPOCH)], EPOCH)
    path = ResultPath(store, buckets=(inputs := MemoryBucket(), MemoryBucket()))
    inputs.put(key, b"pixels", "image/jpeg")
    path.results.record([done(REFS[0]).model_copy(update={"key": key})])
    assert (inputs.exists(key), figures(store, JOBS[0])) == (True, (1, 0, 1))
