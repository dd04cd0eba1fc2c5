"""Messages between the tiers, the values of the fleet, ids, and the keys made of them."""

import json
import tarfile
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import IO, Any, Final, cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from core.config import MIN_MESSAGE_BYTES, load_config
from core.fleet.models import HistoryBlock, JournalEntry, LaunchJournal, points_since
from core.ids import (
    MAX_POSITION,
    PLACES,
    ImageRef,
    first_id_of,
    image_id_at,
    is_id,
    new_id,
    pack_of,
    place_of,
    positioned_id,
)
from core.images import ImageRejectedError
from core.jobs.pack_objects import member_start, object_bytes
from core.jobs.packs import pack_object
from core.messages import (
    MAX_REPORTED_MODELS,
    PLACE_PATTERN,
    ClassificationResult,
    Failure,
    Heartbeat,
    LabelScore,
    Model,
    Prediction,
    RequestedModel,
    RequestMessage,
    Response,
    StoredResults,
    Timings,
    WireModel,
    failed,
    parse_worker_message,
    response_within,
)
from services.ec2 import LaunchSpec
from services.errors import MessageError
from tests.support.autoscaler import fleet_snapshot
from tests.support.forms import tar_of
from tests.support.jobs import member

REF = ImageRef(new_id(), new_id())
NOW = datetime(2026, 1, 1, tzinfo=UTC)
PREDICTION = Prediction(
    job_id=REF.job_id,
    image_id=REF.image_id,
    status="done",
    label="cat",
    score=0.9,
    top=(LabelScore(label="cat", score=0.9), LabelScore(label="dog", score=0.1)),
    model=Model(name="demo", digest="ab"),
    worker="i-1",
    attempts=2,
    timings=Timings(queued=1.5, stored=3),
    probabilities=(0.9, 0.1),
    thumbnail=b"\xff\xd8\xff\xe0",
)


PACK = RequestMessage(job_id=REF.job_id, pack_id=REF.image_id, extension="tar", sizes=(1, 2, 3), submitted_at=NOW)
LONE = PACK.model_copy(update={"extension": "jpg", "sizes": (1,)})
HEARTBEAT = Heartbeat(worker="i-1", at=NOW, state="busy", images=5, in_hand=2, models=("ab" * 32,))
BY_IMAGE = LaunchSpec("c7a.large", "stop", "ami-1", "#!/bin/sh\n", "subnet-1")
BY_TEMPLATE = LaunchSpec("c7a.large", "terminate", market="spot", launch_template="workers")
JOURNAL = LaunchJournal(
    revision=7,
    writer="me",
    entries=(
        JournalEntry(token="a", count=5, at=NOW, spec=BY_IMAGE),
        JournalEntry(token="b", count=5, at=NOW, spec=BY_TEMPLATE),
        JournalEntry(token="c", count=2, at=NOW, starts=("i-1", "i-2")),
        JournalEntry(token="d", count=2, at=NOW, instance_ids=("i-3",)),
    ),
)


@pytest.mark.parametrize(
    "model",
    [
        LONE,
        PACK.asking_for([0, 2]).model_copy(
            update={"model": RequestedModel(digest="ab" * 32, place="/srv/models/a b.zip")}
        ),
        Response(results=(PREDICTION.response(),) * 2),
        StoredResults(job_id=REF.job_id, pack_id=REF.image_id, places=(1, 3), attempt=2, repeated=(3,)),
        failed(REF, Failure(code="bad", message="is no image"), worker="i-1", attempts=1),
        LONE.model_copy(update={"model": RequestedModel(digest="ab" * 32, place="p", only=f"{'cd' * 32} _-8=")}),
        HEARTBEAT,
        fleet_snapshot(NOW, running=1, visible=3, peak_workers=3, billed_seconds=60.5, reason="because"),
        JOURNAL,
    ],
    ids=lambda model: type(model).__name__,
)
def test_what_is_written_is_read_as_it_was(model: WireModel) -> None:
    assert type(model).from_json(model.to_json()) == model


def test_responses_and_heartbeats_of_the_response_queue_are_not_confused() -> None:
    response = Response(results=(PREDICTION.response(),))
    stored = StoredResults(job_id=REF.job_id, pack_id=REF.image_id, places=(0,), attempt=2)
    for message in (response, HEARTBEAT, stored):
        assert parse_worker_message(message.to_json()) == message
    with pytest.raises(MessageError, match=r"not a Response: results\.0\.status"):
        parse_worker_message(
            json.dumps({"version": 2, "results": [{"job_id": REF.job_id, "image_id": REF.image_id}]})
        )
    with pytest.raises(MessageError, match="not a Response: version"):
        Response.from_json(HEARTBEAT.to_json())
    with pytest.raises(MessageError, match="not a Heartbeat: version"):
        Heartbeat.from_json(response.to_json())


@pytest.mark.parametrize(
    "change", [{"state": "asleep"}, {"images": -1}, {"kind": "answer"}, {"worker": ""}, {"reason": 1}]
)
def test_a_heartbeat_that_makes_no_sense_is_refused_as_what_most_messages_are(change: dict[str, Any]) -> None:
    with pytest.raises(MessageError, match="not a Response"):
        parse_worker_message(json.dumps(json.loads(HEARTBEAT.to_json()) | change))


ANY_LABEL = st.text(min_size=1, max_size=200)
ANY_NAME = st.text(min_size=1, max_size=100)
LARGE_LABEL = "\U0001f3d6" * 200
"""The label with the most bytes that a bundle can have."""


def fitted(response: Response, max_bytes: int = MIN_MESSAGE_BYTES) -> Response | StoredResults:
    found = response_within(response, max_bytes)
    assert len(found.to_json().encode()) <= max_bytes
    return found


def with_top(response: Response, count: int) -> Response:
    results = tuple(each.model_copy(update={"top": each.top[:count]}) for each in response.results)
    return Response(images=response.images, results=results)


@given(
    st.lists(st.lists(ANY_LABEL, min_size=1, max_size=100), min_size=1, max_size=4),
    ANY_NAME,
    ANY_NAME,
    st.integers(0, 9),
    st.sampled_from([MIN_MESSAGE_BYTES, 4 * MIN_MESSAGE_BYTES]),
)
@example([["cat"], ["x" * 100] * 30], "demo", "i-1", 0, 4 * MIN_MESSAGE_BYTES)
def test_a_response_fits_with_as_many_labels_as_possible_or_refers_to_its_predictions(
    pack: list[list[str]], model: str, worker: str, attempt: int, max_bytes: int
) -> None:
    tops = [tuple(LabelScore(label=label, score=0.123456) for label in labels) for labels in pack]
    own = {"worker": worker, "model": Model(name=model, digest="0" * 64), "repeated": True}
    results = [
        PREDICTION.response().model_copy(
            update={
                **own,
                "image_id": image_id_at(REF.image_id, 2 * number),
                "label": top[0].label,
                "top": top,
                "attempt": attempt + number,
            }
        )
        for number, top in enumerate(tops)
    ]
    whole, most = Response(images=9, results=tuple(results)), max(map(len, tops))
    found = fitted(whole, max_bytes)
    assert found.images == 9
    if isinstance(found, StoredResults):
        assert [found.ref_at(place) for place in found.places] == [each.ref for each in results]
        assert (found.attempt, found.repeated) == (attempt, found.places)
        assert len(with_top(whole, 0).to_json().encode()) > max_bytes
    else:
        kept = max(len(each.top) for each in found.results)
        assert found == with_top(whole, kept)
        assert kept == most or len(with_top(whole, kept + 1).to_json().encode()) > max_bytes


def test_a_response_is_sent_unchanged_or_as_stored_results_if_its_text_is_large() -> None:
    result = PREDICTION.response()
    response = Response(results=(result,))
    assert fitted(response) is response
    large = Response(results=(result.model_copy(update={"label": LARGE_LABEL}),))
    assert isinstance(fitted(large), StoredResults)
    reason = failed(REF, Failure(code="bad", message="x" * 2_000), worker="i-1", attempts=1)
    assert isinstance(fitted(Response(results=(reason.response(),))), StoredResults)


def test_a_request_names_the_places_of_its_images_if_the_pack_has_others() -> None:
    assert PACK.refs == [ImageRef(REF.job_id, image_id_at(REF.image_id, place)) for place in range(3)]
    some = PACK.asking_for([0, 2])
    assert (some.positions, some.refs) == ((0, 2), [PACK.refs[0], PACK.refs[2]])
    assert some.asking_for([0, 1, 2]) == PACK
    assert "positions" not in PACK.to_json()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"pack_id": image_id_at(REF.image_id, 1)}, "is the id of no pack"),
        ({"extension": "../x"}, "extension"),
        ({"sizes": []}, "sizes"),
        ({"sizes": [1, 2, -3]}, "sizes"),
        ({"positions": []}, "positions"),
        ({"positions": [3]}, "a pack of 3 images has no place 3"),
        ({"positions": [1, 1]}, "in order, each once"),
        ({"positions": [-1]}, "positions"),
        ({"submitted_at": "2026-01-01T00:00:00"}, "submitted_at"),
        ({"version": 1}, "version"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(MessageError, match=reason):
        RequestMessage.from_json(json.dumps(json.loads(PACK.to_json()) | change))


def largest_request(place: str, number: int = 10**9) -> RequestMessage:
    """Return the request of a lone image with fields that are as long as they can be."""
    at = datetime(2026, 12, 31, 23, 59, 59, 999_999, timezone(timedelta(hours=13, minutes=45)))
    model = RequestedModel(digest="f" * 64, place=place)
    many = {"sizes": (number,), "submitted_at": at, "attempt": number, "refusals": number}
    return LONE.model_copy(update={**many, "extension": "x" * 8, "model": model, "suspect": True})


@given(
    st.from_regex(r"[A-Za-z0-9/._-]{1,100}", fullmatch=True),
    st.integers(0, 2**31),
    st.floats(0, 1e9, allow_nan=False),
    st.from_regex(PLACE_PATTERN.replace("{1,", "{300,")),
)
def test_requests_and_heartbeats_fit_into_the_smallest_messages(
    worker: str, number: int, rate: float, place: str
) -> None:
    request = largest_request(place.removesuffix("\n"), number)
    at = request.submitted_at
    heartbeat = Heartbeat(
        worker=worker, at=at, state="draining", images=number, in_hand=number, images_per_second=rate,
        models=("f" * 64,) * MAX_REPORTED_MODELS, failed_model="f" * 64,
    )  # fmt: skip
    for message in (request, heartbeat):
        assert len(message.to_json().encode()) <= MIN_MESSAGE_BYTES


@pytest.mark.parametrize("max_bytes", [MIN_MESSAGE_BYTES, MIN_MESSAGE_BYTES + 32, 1_500, 2_048])
def test_a_request_of_the_largest_pack_fits_into_each_size_of_messages(max_bytes: int) -> None:
    variables = {"PACKS__MAX_IMAGES": "50", "QUEUES__MAX_MESSAGE_BYTES": f"{max_bytes}"}
    config = load_config(Path("config.yaml"), {f"FLEETSIGHT__{key}": value for key, value in variables.items()})
    images = config.max_pack_images
    assert images == {MIN_MESSAGE_BYTES: 1, MIN_MESSAGE_BYTES + 32: 2}.get(max_bytes, images)
    assert (images == 50) is (max_bytes == 2_048)
    lone = largest_request("x" * 300)
    pack = lone.model_copy(update={"sizes": (config.web.max_image_bytes,) * images, "extension": "tar"})
    for request in (pack, pack.asking_for(range(images - 1) or [0])):
        assert len(request.to_json().encode()) <= max_bytes


@given(st.lists(st.from_regex("[A-Za-z0-9+/=]{20,1024}", fullmatch=True), max_size=9), st.integers(1_024, 6_000))
def test_a_heartbeat_names_as_many_receipts_as_fit(receipts: list[str], max_bytes: int) -> None:
    at = datetime(2026, 12, 31, tzinfo=UTC)
    heartbeat = Heartbeat(worker="i-0123456789abcdef0", at=at, state="busy", images=7, in_hand=9)
    named = heartbeat.with_receipts(receipts, max_bytes)
    count = len(named.receipts)
    assert list(named.receipts) == receipts[:count]
    assert len(named.to_json().encode()) <= max_bytes
    more = heartbeat.model_copy(update={"receipts": tuple(receipts[: count + 1])})
    assert count == len(receipts) or len(more.to_json().encode()) >= max_bytes
    assert Heartbeat.from_json(named.to_json()) == named


@pytest.mark.parametrize("place", ["", 'a"b', "a\\b", "a\nb", "a\n", "é", "a" * 301])
def test_a_place_that_could_grow_in_json_or_is_too_long_is_refused(place: str) -> None:
    with pytest.raises(ValidationError):
        RequestedModel(digest="f" * 64, place=place)


def test_a_newer_writers_fields_are_ignored() -> None:
    body = {**json.loads(PREDICTION.to_json()), "colour": "blue"}
    assert Prediction.from_json(json.dumps(body)) == PREDICTION


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in json.loads(PREDICTION.to_json()).items() if name != key}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("", "not a ClassificationResult: body: Invalid JSON"),
        ("[]", "not a ClassificationResult: body: "),
        (json.dumps(without("job_id")), "not a ClassificationResult: job_id: Field required"),
        (json.dumps(without("label")), "a result that is done needs a label and a score"),
        (json.dumps({**without(""), "status": "failed"}), "a result that failed needs an error"),
        (json.dumps({**without(""), "status": "maybe"}), "not a ClassificationResult: status: "),
        (json.dumps({**without(""), "version": 2}), "not a ClassificationResult: version: "),
        (json.dumps({**without(""), "image_id": "../x"}), "not a ClassificationResult: image_id: "),
        (json.dumps({**without(""), "attempts": -1}), "not a ClassificationResult: attempts: "),
    ],
)
def test_what_is_malformed_is_refused_with_its_place_and_reason(body: str, reason: str) -> None:
    with pytest.raises(MessageError) as caught:
        ClassificationResult.from_json(body)
    assert str(caught.value).startswith(reason) or reason in str(caught.value)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-1e999"])
def test_what_is_no_number_is_refused_since_it_could_not_be_written_and_read_again(number: str) -> None:
    body = PREDICTION.to_json().replace(f'"score":{PREDICTION.score}', f'"score":{number}')
    assert number in body
    with pytest.raises(MessageError, match=r"not a Prediction: .*score"):
        Prediction.from_json(body)


def at(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


BLOCKS = [
    HistoryBlock(number=2, points=((1200, 4, 40), (1300, 0, 0))),
    HistoryBlock(number=1, points=((600, 1, 10), (700, 2, 20))),
]


def test_points_are_in_order_for_any_order_of_the_items() -> None:
    points = points_since(BLOCKS, at(0))
    assert [(point.at, point.workers, point.queue) for point in points] == [
        (at(600), 1, 10),
        (at(700), 2, 20),
        (at(1200), 4, 40),
        (at(1300), 0, 0),
    ]


def test_what_held_at_the_beginning_is_reported_first_however_old_it_is() -> None:
    points = points_since(BLOCKS, at(1000))
    assert [(point.at, point.workers) for point in points] == [(at(1000), 2), (at(1200), 4), (at(1300), 0)]
    assert points_since(BLOCKS, at(1200))[0].workers == 4
    assert [(point.at, point.queue) for point in points_since(BLOCKS, at(90_000))] == [(at(90_000), 0)]


def test_where_nothing_was_written_there_are_no_points() -> None:
    assert points_since([], at(1000)) == []


ID = "01KDX5ZQ8R3M7Y2WVN6T4C9B0A"


def test_ids_stay_in_order_and_unique_when_threads_make_them() -> None:
    with ThreadPoolExecutor(8) as makers:
        runs = list(makers.map(lambda _: [new_id() for _ in range(500)], range(8)))
    pairs = [pair for run in runs for pair in pairwise(run)]
    assert all(image_id_at(first, PLACES - 1) < second for first, second in pairs), "with all places of a pack"
    ids = {made for run in runs for made in run}
    assert len(ids) == 4_000
    assert all(map(is_id, ids))


def test_the_first_id_of_a_moment_parts_earlier_ids_from_later_ones() -> None:
    before = new_id()
    moment = datetime.now(UTC) + timedelta(milliseconds=1)
    first = first_id_of(moment)
    assert is_id(first)
    assert before < first < first_id_of(moment + timedelta(milliseconds=1))
    assert new_id() < first_id_of(datetime.now(UTC) + timedelta(seconds=5))


@given(st.sampled_from(["new", "positioned"]), st.integers(0, MAX_POSITION), st.integers(0, PLACES - 1))
def test_the_id_of_an_image_names_its_pack_and_its_place(kind: str, position: int, place: int) -> None:
    pack_id = new_id() if kind == "new" else positioned_id(ID, position)
    image_id = image_id_at(pack_id, place)
    assert is_id(image_id)
    assert (pack_of(image_id), place_of(image_id)) == (pack_id, place)
    assert pack_id <= image_id
    if kind != "new" and position < MAX_POSITION:
        assert image_id < positioned_id(ID, position + 1)


@given(st.lists(st.tuples(st.sampled_from(["jpg", "png"]), st.binary(max_size=1_100)), min_size=1, max_size=PLACES))
def test_tar_and_a_worker_read_each_image_of_a_pack_from_its_object(
    images: list[tuple[str, bytes]],
) -> None:
    contents, data = [content for _, content in images], bytes(pack_object(images, len(images)))
    sizes = tuple(map(len, contents))
    assert [member(sizes, data, place) for place in range(len(images))] == contents
    if len(images) > 1:
        with tarfile.open(fileobj=BytesIO(data), mode="r:") as tar:
            read = {each.name: cast(IO[bytes], tar.extractfile(each)).read() for each in tar}
        assert read == {f"{place:02}.{extension}": content for place, (extension, content) in enumerate(images)}


MEMBERS: Final = {"00.jpg": b"first" * 200, "01.png": b"second", "02.jpg": b"third"}
SIZES: Final = tuple(map(len, MEMBERS.values()))


def image_at(data: bytes, place: int) -> bytes | str:
    try:
        return member(SIZES, data, place)
    except ImageRejectedError as error:
        return error.code


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = size, kind, "target" if kind == tarfile.SYMTYPE else ""
    return info.tobuf(tarfile.USTAR_FORMAT)


def with_size_field(text: bytes) -> bytes:
    """Return a header with a size that Python reads as 6, and other programs do not."""
    block = header("01.png", SIZES[1])
    block = block[:124] + text + block[135:]
    total = sum(block[:148]) + 8 * ord(" ") + sum(block[156:])
    return block[:148] + b"%06o\0 " % total + block[156:]


@pytest.mark.parametrize("is_padded", [False, True])
def test_the_tar_of_a_client_may_end_as_programs_end_it(is_padded: bool) -> None:
    data = tar_of(MEMBERS) if is_padded else bytes(pack_object([(n[3:], b) for n, b in MEMBERS.items()], 3))
    assert len(data) == object_bytes(SIZES)[-1 if is_padded else 0]
    assert [image_at(data, place) for place in range(3)] == [*MEMBERS.values()]


@pytest.mark.parametrize(
    "other",
    [
        header("02.jpg", SIZES[1]),
        header("01.exe", SIZES[1]),
        header("../01.png", SIZES[1]),
        header("01.png", SIZES[1] + 1),
        header("01.png", SIZES[1], tarfile.SYMTYPE),
        header("01.png", SIZES[1], tarfile.XHDTYPE),
        header("01.png", SIZES[1]).replace(b"ustar", b"USTAR"),
        with_size_field(b"0_000000006"),
        with_size_field(b"+0000000006"),
        b"\xff" * 512,
        bytes(512),
    ],
)
def test_an_image_that_has_another_header_in_the_tar_of_a_client_fails_alone(other: bytes) -> None:
    data, at = tar_of(MEMBERS), member_start(SIZES, 1)
    changed = data[: at - 512] + other + data[at:]
    assert [image_at(changed, place) for place in range(3)] == [
        MEMBERS["00.jpg"], "undecodable", MEMBERS["02.jpg"],
    ]  # fmt: skip


@given(st.lists(st.tuples(st.integers(0, 10_239), st.sampled_from((0, 47, 48, 49, 53, 255))), max_size=4))
def test_a_tar_of_which_each_image_is_valid_has_these_members_and_no_others(changes: list[tuple[int, int]]) -> None:
    data = bytearray(tar_of(MEMBERS))
    for at, value in changes:
        data[at] = value
    images = [image_at(bytes(data), place) for place in range(3)]
    if "undecodable" not in images:
        with tarfile.open(fileobj=BytesIO(data), mode="r:") as tar:
            assert [cast(IO[bytes], tar.extractfile(each)).read() for each in tar] == images
            assert tar.getnames() == [*MEMBERS]


def test_a_tar_with_a_further_member_is_refused_at_its_last_image() -> None:
    data = tar_of({**MEMBERS, "../x": b""})
    assert len(data) in object_bytes(SIZES)
    assert [image_at(data, place) for place in range(3)] == [MEMBERS["00.jpg"], MEMBERS["01.png"], "undecodable"]


@pytest.mark.parametrize(
    "text", ["", "a", "../../etc/passwd", f"{ID}\n", ID.lower(), f"8{'0' * 25}", "I" * 26, f" {ID}"]
)
def test_what_is_no_id_is_reported(text: str) -> None:
    assert not is_id(text)
