"""The reference of the messages: the formats of `core.messages`, each with a sample."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from hashlib import sha256
from json import dumps, loads

from pydantic import BaseModel

from core.ids import ImageRef, input_key
from core.messages import (
    GONE,
    ClassificationResult,
    Heartbeat,
    LabelScore,
    Model,
    Prediction,
    RequestedModel,
    RequestMessage,
    StoredResult,
    Timings,
    WireModel,
    failed,
    response_within,
)
from scripts.documentation.api import field_table
from scripts.documentation.markup import Schema, block, code, joined, paragraphs, split_docstring

IMAGE = ImageRef("01KAZ5Y4QG0000000000000001", "01KAZ5Y4QG000000000000000A")
SENT_AT = datetime(2026, 11, 25, 12, tzinfo=UTC)
WORKER = "i-0123456789abcdef0"
THUMBNAIL = b"\xff\xd8\xff\xe0"
"""The first bytes of a JPEG, in place of a whole one."""


def samples() -> dict[type[WireModel], list[WireModel]]:
    """Return samples of each message and object, in the order in which an image meets them."""
    key = input_key(IMAGE, "jpg")
    digest = sha256(b"a bundle").hexdigest()
    requested = RequestedModel(digest=digest, place=f"s3://fleetsight-output/models/{digest}")
    labels = (LabelScore(label="stop sign", score=0.91), LabelScore(label="yield", score=0.06))
    prediction = Prediction(
        job_id=IMAGE.job_id,
        image_id=IMAGE.image_id,
        status="done",
        key=key,
        sha256=sha256(b"an image").hexdigest(),
        queued_at=SENT_AT,
        label=labels[0].label,
        score=labels[0].score,
        top=labels,
        model=Model(name="demo", digest=digest),
        worker=WORKER,
        attempts=1,
        timings=Timings(queued=12.5, fetched=3.1, decoded=4.2, inferred=6.0, stored=5.4),
        probabilities=(0.91, 0.06, 0.03),
        thumbnail=THUMBNAIL,
    )
    response = prediction.response()
    return {
        RequestMessage: [RequestMessage.about(IMAGE, key, SENT_AT, model=requested)],
        Prediction: [prediction],
        ClassificationResult: [response, failed(IMAGE, GONE, worker=WORKER, attempts=1).response()],
        StoredResult: [response_within(response, 100)],
        Heartbeat: [
            Heartbeat(
                worker=WORKER,
                at=SENT_AT,
                state="busy",
                images=240,
                in_hand=16,
                images_per_second=41.5,
                models=(digest,),
            )
        ],
    }


def messages_reference() -> str:
    """Return every message and object with its fields and samples, and the models of their fields."""
    parts: list[str] = []
    inner: dict[str, Schema] = {}
    for model, shown in samples().items():
        schema = model.model_json_schema(mode="serialization")
        inner |= schema.get("$defs", {})
        parts += _model_blocks(model.__name__, schema, dict(_meanings(model)))
        parts += [block(dumps(loads(each.to_json()), indent=2), "json") for each in shown]
    for name, fields in sorted(inner.items()):
        parts += _model_blocks(name, fields, split_docstring(fields["description"])[1])
    return joined(parts)


def _model_blocks(name: str, schema: Schema, meanings: Mapping[str, str]) -> Iterator[str]:
    yield f"## {code(name)} {{ #schema-{name} }}"
    yield from paragraphs(split_docstring(schema["description"])[0])
    yield field_table(schema, meanings)


def _meanings(model: type[BaseModel]) -> Iterator[tuple[str, str]]:
    """Yield what the docstrings of a model and of those above it say of their fields, its own last."""
    for each in reversed(model.__mro__):
        yield from split_docstring(each.__doc__ if issubclass(each, WireModel) else "")[1].items()
