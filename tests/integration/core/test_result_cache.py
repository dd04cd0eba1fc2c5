"""The result cache over a real table: the same bytes and the same model, for a while."""

from datetime import UTC, datetime, timedelta

import pytest

from core.ids import ImageRef, new_id, output_key
from core.jobs.store import JobStore
from core.messages import Failure, LabelScore, Model, Response, failed
from core.result_cache import MARGIN, ResultCache, repeated

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
LIFETIME = timedelta(days=3)
MODEL = Model(name="demo", digest="d1")


@pytest.fixture
def cache(store: JobStore) -> ResultCache:
    return ResultCache(store.table, LIFETIME)


def remember(cache: ResultCache, answers: list[Response], owner: str = "") -> None:
    """Remember results as the collector does, all of jobs of one user."""
    cache.put(answers, NOW, {answer.job_id: owner for answer in answers})


def digest(number: int) -> str:
    return f"{number:064x}"


def answered(number: int, label: str = "cat", model: Model | None = MODEL) -> Response:
    return Response(
        job_id=new_id(),
        image_id=new_id(),
        status="done",
        label=label,
        score=0.9,
        top=(LabelScore(label=label, score=0.9), LabelScore(label="dog", score=0.1)),
        model=model,
        worker="i-1",
        attempts=2,
        key="whatever.jpg",
        sha256=digest(number),
    )


def test_what_a_worker_answered_is_found_by_its_bytes_and_its_model(cache: ResultCache) -> None:
    answers = [answered(number, f"label {number}") for number in range(130)]
    remember(cache, answers)
    wanted = [digest(number) for number in range(140)]
    found = cache.find("", wanted, "d1", NOW)
    assert found == {answer.sha256: answer for answer in answers}
    assert cache.find("", wanted, "another model", NOW) == {}


def test_the_same_bytes_twice_in_a_batch_are_one_entry(cache: ResultCache) -> None:
    remember(cache, [answered(1), answered(1, "dog")])
    assert cache.find("", [digest(1), digest(1)], "d1", NOW)[digest(1)].label == "dog"


def test_only_what_a_worker_found_is_remembered(cache: ResultCache) -> None:
    ref, problem = ImageRef(new_id(), new_id()), Failure(code="truncated", message="it ends early")
    no_label = failed(ref, problem, worker="i-1", attempts=1).response().model_copy(update={"sha256": digest(1)})
    again = repeated(answered(2), ref, NOW)
    remember(cache, [no_label, again, answered(3, model=None)])
    assert cache.find("", [digest(number) for number in (1, 2, 3)], "d1", NOW) == {}


def test_an_entry_answers_until_shortly_before_it_expires(cache: ResultCache) -> None:
    remember(cache, [answered(1)])
    last = NOW + LIFETIME - MARGIN
    assert cache.find("", [digest(1)], "d1", last - timedelta(seconds=1))
    assert cache.find("", [digest(1)], "d1", last) == {}


def test_a_cache_without_a_lifetime_remembers_and_finds_nothing(store: JobStore, cache: ResultCache) -> None:
    off = ResultCache(store.table, timedelta(0))
    remember(off, [answered(1)])
    assert cache.find("", [digest(1)], "d1", NOW) == {}
    remember(cache, [answered(1)])
    assert off.find("", [digest(1)], "d1", NOW) == {}


def test_a_repeated_result_is_that_of_its_own_image_and_says_where_it_comes_from() -> None:
    first, ref = answered(1), ImageRef(new_id(), new_id())
    again = repeated(first, ref, NOW)
    assert (again.ref, again.cached, again.label, again.top, again.model) == (ref, True, "cat", first.top, MODEL)
    assert (again.source, again.recorded_at, again.attempts) == (output_key(first.ref), NOW, 0)
    # The object that was classified is not this image's: nobody is to delete it on its behalf.
    assert again.key is None


def test_an_answer_is_repeated_for_the_user_only_whose_job_had_it(cache: ResultCache) -> None:
    for owner, label in (("anna", "cat"), ("bert", "dog"), ("", "bird")):
        remember(cache, [answered(1, label)], owner)
    assert [cache.find(owner, [digest(1)], "d1", NOW)[digest(1)].label for owner in ("anna", "bert", "")] == [
        "cat", "dog", "bird",
    ]  # fmt: skip
    assert cache.find("carl", [digest(1)], "d1", NOW) == {}


def test_the_same_bytes_of_two_users_in_a_batch_are_an_entry_of_each(cache: ResultCache) -> None:
    annas, berts, nobody_knows_whose = answered(1), answered(1, "dog"), answered(2)
    cache.put([annas, berts, nobody_knows_whose], NOW, {annas.job_id: "anna", berts.job_id: "bert"})
    found = [cache.find(owner, [digest(1), digest(2)], "d1", NOW) for owner in ("anna", "bert", "")]
    assert found == [{digest(1): annas}, {digest(1): berts}, {}]


def test_without_a_sign_in_an_entry_stands_where_it_always_did(cache: ResultCache) -> None:
    remember(cache, [answered(1)])
    assert cache.table.get(f"CACHE#{digest(1)}", "d1") is not None
