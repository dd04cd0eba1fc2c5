"""Message parsing: what is no message of ours is a `MessageError`, and what is one can be written and read again."""

from collections.abc import Iterator
from datetime import UTC, datetime

from core.fleet.models import BillingPeriod, FleetPause, FleetSnapshot, LimitsOverride
from core.ids import ImageRef, pack_of
from core.messages import Failure as ErrorOfImage
from core.messages import (
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
from services.errors import MessageError

KINDS: tuple[type[WireModel], ...] = (
    RequestMessage,
    Response,
    StoredResults,
    Prediction,
    Heartbeat,
    FleetPause,
    LimitsOverride,
    FleetSnapshot,
)

WORDS = (
    *(b'"version":1', b'"job_id":"', b'"image_id":"', b'"status":"done"', b'"status":"failed"', b'"score":', b"NaN"),
    *(b"Infinity", b"1e999", b"null", b"true", b'"2026-03-01T12:00:00Z"', b'"top":[', b'"timings":{', b'"error":{'),
    *(
        b'"pack_id":"',
        b'"results":[',
        b'"attempts":',
        b'"\\ud800"',
        b'"probabilities":[',
        b'"kind":"heartbeat"',
        b'"state":"busy"',
        b"-0.0",
        b"1E400",
    ),
)

_REF = ImageRef("01KAH8Z9M5J6C0Q2V4T7W1X3YD", "01KAH8Z9M5J6C0Q2V4T7W1X3YE")
_AT = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def seeds() -> Iterator[bytes]:
    done = Prediction(
        job_id=_REF.job_id,
        image_id=_REF.image_id,
        status="done",
        key=f"{_REF.job_id}/{_REF.image_id}.jpg",
        queued_at=_AT,
        label="stop sign",
        score=0.93,
        top=(LabelScore(label="stop sign", score=0.93),),
        model=Model(name="demo", digest="sha256:4b1e"),
        worker="i-0f3a",
        attempts=1,
        timings=Timings(queued=1.5, stored=2.0),
        probabilities=(0.93, 0.07),
    )
    snapshot = FleetSnapshot(
        at=_AT,
        running=1,
        pending=0,
        visible=3,
        in_flight=1,
        min_workers=0,
        max_workers=5,
        peak_workers=2,
        billed_seconds=60.0,
        run=BillingPeriod(number=1),
        reason="3 images wait",
        paused=FleetPause(since=_AT),
        limits_order=LimitsOverride(min_workers=0, max_workers=5, since=_AT),
    )
    failure = failed(_REF, ErrorOfImage(code="truncated", message="it ends early"), worker="i-0f3a", attempts=2)
    digest = "4b1e" * 16
    heartbeat = Heartbeat(worker="i-0f3a", at=_AT, state="busy", images=7, in_hand=2, models=(digest,))
    model = RequestedModel(digest=digest, place="s3://models/demo")
    pack = RequestMessage(
        job_id=_REF.job_id,
        pack_id=pack_of(_REF.image_id),
        extension="tar",
        sizes=(1, 2),
        submitted_at=_AT,
        model=model,
    )
    response = Response(results=(done.response(), failure.response()))
    stored = response_within(response, 1)
    messages = (pack, pack.asking_for([1]), response, stored, done, heartbeat, FleetPause(since=_AT))
    for message in (*messages, LimitsOverride(min_workers=0, max_workers=5, since=_AT), snapshot, failure):
        kind = KINDS.index(type(message))
        yield bytes([kind]) + message.to_json().encode()


def target(data: bytes) -> None:
    kind, body = KINDS[(data[:1] or b"\0")[0] % len(KINDS)], data[1:]
    try:
        message = kind.from_json(body)
    except MessageError as error:
        assert str(error)
    else:
        assert kind.from_json(message.to_json()) == message
    try:
        parse_worker_message(body)
    except MessageError as error:
        assert str(error)
