"""The predictions of a pack in one object: what stands when several workers store theirs at once."""

import json
from base64 import b64encode
from collections.abc import Callable
from itertools import count
from math import exp
from random import Random
from typing import Any
from zlib import compress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.ids import ImageRef, image_id_at, new_id
from core.jobs.buckets import InputBucket, OutputBucket
from core.jobs.keys import output_key, outputs_key
from core.jobs.models import ImageRecord, Job
from core.jobs.packs import pack_object
from core.messages import (
    PROBABILITY_DIGITS,
    Failure,
    LabelScore,
    Model,
    Prediction,
    RequestMessage,
    Timings,
    failed,
)
from core.tracing import new_traceparent
from services.errors import MessageError, NotFoundError
from tests.support.jobs import NOW, picture
from tests.support.memory_aws.s3 import MemoryBucket
from tests.support.worker import new_request

Outcome = tuple[int, str, int]
"""A place, a status and an attempt."""

PACK = new_request().model_copy(update={"extension": "tar", "sizes": (1, 1, 1)})


class SharedBucket(MemoryBucket):
    """A bucket in which another worker stores something before a call, and replies to puts are lost."""

    def __init__(self, other: Callable[[], object], before: int, lost: set[int]) -> None:
        self.other, self.before, self.lost, self.numbers = other, before, lost, count()
        super().__init__(self._make)

    def _make(self, operation: str, effect: Callable[[], Any]) -> Any:
        if (number := next(self.numbers)) == self.before:
            self.other()
        result = effect()
        # The client library repeats a put without a reply, and finds its own object.
        return False if operation == "put" and number in self.lost else result


def prediction(request: RequestMessage, outcome: Outcome, worker: str) -> Prediction:
    place, status, attempt = outcome
    ref, failure = request.ref_at(place), Failure(code="too_costly", message="it costs too much")
    made = failed(ref, failure, worker=worker, attempts=1, attempt=attempt)
    if status == "failed":
        return made
    return made.model_copy(update={"status": "done", "label": worker, "score": 0.5, "error": None})


OUTCOMES = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from(["done", "failed"]), st.integers(0, 2)),
    min_size=1,
    unique_by=lambda outcome: outcome[0],
)


@given(OUTCOMES, OUTCOMES, OUTCOMES, st.integers(0, 6), st.sets(st.integers(0, 6), max_size=2))
def test_row_4_each_image_has_its_first_label_or_last_failure_whoever_stores_when(
    there: list[Outcome], mine: list[Outcome], theirs: list[Outcome], before: int, lost: set[int]
) -> None:
    answers = list[Prediction]()

    def store(outcomes: list[Outcome], worker: str) -> None:
        answers.extend(outputs.store([prediction(PACK, each, worker) for each in outcomes], is_lone=False))

    bucket = SharedBucket(lambda: store(theirs, "theirs"), before, lost)
    outputs = OutputBucket(bucket)
    for outcomes, worker in ((there, "there"), (mine, "mine")):
        store(outcomes, worker)
    if next(bucket.numbers) <= before:
        store(theirs, "theirs")
    found = outputs.predictions(PACK.job_id, PACK.pack_id, is_lone=False)
    outcomes = [*there, *mine, *theirs]
    assert found.keys() == {PACK.ref_at(place).image_id for place, _, _ in outcomes}
    for place, _, _ in outcomes:
        stored, own = found[PACK.ref_at(place).image_id], [each for each in outcomes if each[0] == place]
        is_done = "done" in [status for _, status, _ in own]
        assert stored.status == ("done" if is_done else "failed")
        assert is_done or stored.attempt == max(attempt for _, _, attempt in own)
        answered = [each for each in answers if each.image_id == stored.image_id]
        assert stored in answered
        assert {each.label for each in answered if each.status == "done"} <= {stored.label}


@pytest.mark.parametrize("sizes", [(1,), (1, 1)])
def test_the_object_of_a_pack_has_a_line_an_image_and_that_of_a_lone_image_is_its_prediction(
    sizes: tuple[int, ...],
) -> None:
    request, bucket = new_request().model_copy(update={"sizes": sizes}), MemoryBucket()
    outputs = OutputBucket(bucket)
    stored = [prediction(request, (place, "done", 0), "i-1") for place in range(len(sizes))]
    outputs.store(stored[::-1], is_lone=request.is_lone)
    key = output_key(request.refs[0]) if request.is_lone else outputs_key(request.job_id, request.pack_id)
    assert [Prediction.from_json(line) for line in bucket.objects.pop(key).splitlines()] == stored
    assert not bucket.objects


@pytest.mark.parametrize("spread", [0.0, 1.0, 3.0, 30.0])
def test_lines_of_fifty_images_and_a_thousand_classes_take_160_kb_and_lose_no_digit(spread: float) -> None:
    request, bucket = new_request().model_copy(update={"extension": "tar", "sizes": (1,) * 50}), MemoryBucket()
    outputs, random = OutputBucket(bucket), Random(spread)
    stored = [_of_a_thousand_classes(request, place, random, spread) for place in range(50)]
    outputs.store(stored[1:], is_lone=False)
    assert outputs.store(stored[:1], is_lone=False) == stored[:1], "merged with the others"
    body = bucket.objects[outputs_key(request.job_id, request.pack_id)]
    assert len(body) <= 160_000
    assert list(outputs.predictions(request.job_id, request.pack_id, is_lone=False).values()) == stored
    assert outputs.store(stored, is_lone=False) == stored, "what is redelivered is answered alike"


def _of_a_thousand_classes(request: RequestMessage, place: int, random: Random, spread: float) -> Prediction:
    """Return a prediction as long as they become, with a softmax of random logits."""
    shares = [exp(random.gauss(0, spread)) for _ in range(1_000)]
    probabilities = tuple(round(each / sum(shares), PROBABILITY_DIGITS) for each in shares)
    top = tuple(LabelScore(label="American Staffordshire terrier", score=max(probabilities)) for _ in range(5))
    return prediction(request, (place, "done", 0), "i-0123456789abcdef0").model_copy(
        update={
            "top": top,
            "probabilities": probabilities,
            "key": f"{request.job_id}/{request.pack_id}.tar",
            "model": Model(name="efficientnet_lite0", digest="0" * 64),
            "queued_at": NOW,
            "timings": Timings(queued=12345.678, fetched=123.456, decoded=12.345, inferred=123.456),
            "traceparent": new_traceparent(),
        }
    )


@pytest.mark.parametrize("deflated", [b"", b"\0", compress(b"1234"), compress(bytes((3 << 20) + 3))])
def test_what_is_no_short_form_of_probabilities_is_refused(deflated: bytes) -> None:
    line = json.loads(prediction(PACK, (0, "done", 0), "i-1").to_json())
    text = b64encode(deflated).decode() or "?"
    with pytest.raises(MessageError, match="probabilities"):
        Prediction.from_json(json.dumps(line | {"probabilities": text}))


@given(
    st.lists(st.sampled_from([0.0, 1e-06, 0.1, 1.0]) | st.floats(0, 1), max_size=9), st.sampled_from([1, 1, 2, -1])
)
def test_a_line_has_each_digit_of_each_probability(probabilities: list[float], times: int) -> None:
    rounded = tuple(round(each, PROBABILITY_DIGITS) * times for each in probabilities)  # some networks have others
    whole = prediction(PACK, (0, "done", 0), "i-1").model_copy(update={"probabilities": rounded})
    assert Prediction.from_json(whole.to_line()) == whole


def test_a_line_that_cannot_be_read_is_replaced_and_others_stand() -> None:
    bucket, pack = MemoryBucket(), PACK.model_copy(update={"pack_id": new_id()})
    outputs, key = OutputBucket(bucket), outputs_key(pack.job_id, pack.pack_id)
    first, second = (prediction(pack, (place, "done", 0), "i-1") for place in range(2))
    stranger = first.model_copy(update={"image_id": image_id_at(new_id(), 1)})
    bucket.objects[key] = b"\n".join([first.to_json().encode(), b"{}", stranger.to_json().encode()])
    assert outputs.store([second], is_lone=False) == [second]
    assert outputs.predictions(pack.job_id, pack.pack_id, is_lone=False) == {
        each.image_id: each for each in (first, second)
    }


def test_one_read_of_a_pack_serves_the_thumbnails_of_all_its_images_that_are_done() -> None:
    bucket, job = MemoryBucket(), Job(new_id(), "job", NOW)
    pack_id, calls = new_id(), count()
    bucket.call = lambda _, effect: (next(calls), effect())[1]
    refs = [ImageRef(job.job_id, image_id_at(pack_id, place)) for place in range(50)]
    images = [ImageRecord(ref, "a.jpg", "jpg", (1,) * 50, NOW) for ref in refs]
    outputs, pack = OutputBucket(bucket), PACK.model_copy(update={"job_id": job.job_id, "pack_id": pack_id})
    outputs.store([_drawn(pack, place) for place in range(49)], is_lone=False)
    before = next(calls)
    assert [outputs.thumbnail(image) for image in images[:49]] == [_thumbnail(place) for place in range(49)]
    assert next(calls) - before == 2, "one read"
    with pytest.raises(NotFoundError):
        outputs.thumbnail(images[49])
    outputs.store([_drawn(pack, 49)], is_lone=False)
    assert outputs.thumbnail(images[49]) == _thumbnail(49)


def _thumbnail(place: int) -> bytes:
    return picture(shade=place)


def _drawn(pack: RequestMessage, place: int) -> Prediction:
    return prediction(pack, (place, "done", 0), "i-1").model_copy(update={"thumbnail": _thumbnail(place)})


@given(st.lists(st.binary(min_size=1, max_size=1_100), min_size=1, max_size=5), st.data())
def test_images_of_a_pack_are_read_as_they_were_sent_by_one_call(contents: list[bytes], data: st.DataObject) -> None:
    bucket, job_id, pack_id, calls = MemoryBucket(), new_id(), new_id(), count()
    bucket.call = lambda _, effect: (next(calls), effect())[1]
    sizes = tuple(map(len, contents))
    refs = [ImageRef(job_id, image_id_at(pack_id, place)) for place in range(len(sizes))]
    images = [ImageRecord(ref, "a.jpg", "jpg", sizes, NOW) for ref in refs]
    bucket.store_object(
        images[0].key, bytes(pack_object([("jpg", each) for each in contents], len(contents))), "image/jpeg"
    )
    wanted = data.draw(st.lists(st.sampled_from(range(len(sizes))), min_size=1, unique=True))
    inputs = InputBucket(bucket)
    assert inputs.originals([images[place] for place in wanted], 2_000) == [contents[place] for place in wanted]
    assert next(calls) == 1
    inputs.delete(images)
    with pytest.raises(NotFoundError):
        inputs.original(images[0], 2_000)
