"""Formats of the messages between the tiers: the request, the prediction object, the response and the heartbeat.

A request of a lone image without `only`, a heartbeat without receipts and `StoredResults` fit into 1,024 bytes, the
least to which SQS can limit messages.

No other module defines these formats. Unknown versions and malformed bodies raise `MessageError`; unknown fields are
ignored, so that an older reader understands a newer writer.
"""

import struct
import zlib
from base64 import b64decode, b64encode
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Annotated, Final, Literal, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializationInfo,
    ValidationError,
    field_serializer,
    model_validator,
)

from core.copying_model import CopyingModel
from core.ids import PLACES, ULID_PATTERN, ImageRef, image_id_at, pack_of, place_of
from core.images import MAX_THUMBNAIL_BYTES
from core.label_sets import MAX_SET_CHARACTERS, SET_PATTERN
from core.tracing import parse_traceparent
from services.errors import MessageError


def _check_pack_id(pack_id: str) -> str:
    if place_of(pack_id):
        raise ValueError(f"{pack_id} is the id of no pack")
    return pack_id


def _check_order(places: tuple[int, ...]) -> tuple[int, ...]:
    if list(places) != sorted(set(places)):
        raise ValueError("places are in order, each once")
    return places


Id = Annotated[str, Field(pattern=ULID_PATTERN)]
Extension = Annotated[str, Field(pattern=r"^[a-z0-9]{1,8}$")]
Size = Annotated[int, Field(ge=0)]
PackId = Annotated[Id, AfterValidator(_check_pack_id)]
Place = Annotated[int, Field(ge=0, lt=PLACES)]
"""The place of an image in its pack."""
Places = Annotated[tuple[Place, ...], Field(min_length=1), AfterValidator(_check_order)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
MAX_KEY_CHARACTERS: Final = 1_024
"""Longest key in S3, in bytes of UTF-8 (https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html)."""

KeyPart = Annotated[str, Field(max_length=MAX_KEY_CHARACTERS)]
Etag = Annotated[str, Field(min_length=1, max_length=200)]
Traceparent = Annotated[str | None, BeforeValidator(parse_traceparent)]
"""A trace context (`core/tracing.py`); an invalid one is left out, since no image may fail because of it."""
Status = Literal["done", "failed"]
WorkerState = Literal["ready", "busy", "draining", "ended"]
WorkerEnd = Literal["idle", "stopped", "failed"]
"""How a worker has ended: it was idle; it was asked to, also by a Spot notice; or it met a fault."""

MAX_END_REASON_CHARACTERS: Final = 300
"""Longest reason in a heartbeat, so that one without models fits into 1,024 bytes."""

PLACE_PATTERN: Final = r"^[ !#-\[\]-~]{1,300}$"
"""The place of a requested bundle: printable ASCII without quotes and backslashes, so that a request always fits."""

MAX_HEARTBEAT_BYTES: Final = 65_536
"""Maximum bytes of a heartbeat: SQS bills each 64 KB as a request (https://aws.amazon.com/sqs/pricing/). They have
room for 150 receipts of 400 characters."""

MAX_REPORTED_MODELS: Final = 2
"""Models that a worker has in memory at most, and a heartbeat names."""


def one_line(text: str) -> str:
    """Return `text` as one line of printable ASCII, cut to `MAX_END_REASON_CHARACTERS`."""
    line = " ".join("".join(each if " " <= each <= "~" else " " for each in text).split())
    return line if len(line) <= MAX_END_REASON_CHARACTERS else f"{line[: MAX_END_REASON_CHARACTERS - 3]}..."


Reason = Annotated[str, AfterValidator(one_line)]
"""A reason in a worker's own words, which are shown to operators."""


class WireModel(CopyingModel):
    """A frozen model that reads and writes JSON."""

    # JSON has neither infinity nor NaN: written as null, they could not be read again.
    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    def to_json(self) -> str:
        """Return the model as compact JSON, with escapes for the characters of JSON that SQS refuses in messages."""
        return self.model_dump_json(exclude_none=True).replace("\ufffe", "\\ufffe").replace("\uffff", "\\uffff")

    @classmethod
    def from_json(cls, body: str | bytes) -> Self:
        """Return the model of a JSON `body`.

        Raises:
            MessageError: it is not JSON of this format and version.
        """
        try:
            return cls.model_validate_json(body)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "body"
            raise MessageError(f"not a {cls.__name__}: {where}: {first['msg']}") from error


class _PackMessage(WireModel):
    """A message about images of one pack."""

    version: Literal[2] = 2
    job_id: Id
    pack_id: PackId

    def ref_at(self, place: int) -> ImageRef:
        """Return the image at a place of the pack."""
        return ImageRef(self.job_id, image_id_at(self.pack_id, place))


class RequestedModel(WireModel):
    """The bundle that a request asks for, and where every worker finds it.

    Attributes:
        digest: of the bundle, as results state it; with `only`, the SHA-256 of that text, which is the digest of no
            bundle. So a worker that does not know `only` refuses the image, and never answers with other labels.
        place: a folder or zip, or ``s3://BUCKET/PREFIX`` or ``s3://BUCKET/KEY.zip``; no character of it grows in
            JSON.
        only: the labels that can occur, as of `label_set`; None for all of the model.
    """

    digest: Sha256
    place: str = Field(pattern=PLACE_PATTERN)
    only: str | None = Field(default=None, pattern=SET_PATTERN, max_length=MAX_SET_CHARACTERS)

    @property
    def bundle(self) -> str:
        """The digest of the bundle."""
        return self.digest if self.only is None else self.only.partition(" ")[0]


class SourceObjects(WireModel):
    """The objects of a user from which the images of a pack are read where they are.

    Attributes:
        prefix: of all keys.
        objects: key after the prefix, and ETag without quotes: of each image by place, or of a shard that has all.
        starts: where each image begins in that shard, by place; empty without a shard.
    """

    bucket: str = Field(pattern=r"^[a-z0-9.-]{3,63}$")
    prefix: str = Field(default="", max_length=MAX_KEY_CHARACTERS)
    objects: tuple[tuple[KeyPart, Etag], ...] = Field(min_length=1, max_length=PLACES)
    starts: tuple[Size, ...] = Field(default=(), max_length=PLACES)

    @property
    def is_shard(self) -> bool:
        """Whether one object has all images of the pack."""
        return bool(self.starts)

    def object_of(self, place: int) -> tuple[str, str]:
        """Return the key and the ETag of the object that has an image."""
        name, etag = self.objects[0 if self.is_shard else place]
        return f"{self.prefix}{name}", etag

    def has(self, images: int) -> bool:
        """Return whether these are the objects of a pack of so many images."""
        return len(self.objects) == (1 if self.is_shard else images) and len(self.starts) in {0, images}


class RequestMessage(_PackMessage):
    """The request to classify images of a pack; its object is in the input bucket, unless `source` has others.

    Attributes:
        extension: of the object of the pack, which is the image itself in a pack of one.
        sizes: of all images of the pack, in bytes, by place.
        positions: places of the images to classify; None for all.
        attempt: 0 for the first request of an image; each retry by its user has the next number.
        suspect: whether one of the images may have ended a worker, as far as those knew that gave it back.
        refusals: how often earlier messages of this request were given back because its model was not loaded.
        model: to classify with; None for the worker's own bundle (`worker.bundle`).
        source: the objects of its user that have the images; None for an object of the input bucket.
        traceparent: of the web tier's request that it follows from, or of the controller's repair.
    """

    extension: Extension
    sizes: tuple[Size, ...] = Field(min_length=1, max_length=PLACES)
    positions: Places | None = None
    submitted_at: AwareDatetime
    attempt: int = Field(default=0, ge=0)
    suspect: bool = False
    refusals: int = Field(default=0, ge=0)
    model: RequestedModel | None = None
    source: SourceObjects | None = None
    traceparent: Traceparent = None

    @model_validator(mode="after")
    def _the_pack_has_each_place(self) -> Self:
        if self.places[-1] >= len(self.sizes):
            raise ValueError(f"a pack of {len(self.sizes)} images has no place {self.places[-1]}")
        if self.source is not None and not self.source.has(len(self.sizes)):
            raise ValueError(f"a pack of {len(self.sizes)} images has other objects")
        return self

    def asking_for(self, places: Sequence[int]) -> Self:
        """Return the request for the images at these places."""
        is_whole = len(places) == len(self.sizes)
        return self.model_copy(update={"positions": None if is_whole else tuple(places)})

    @property
    def places(self) -> Sequence[int]:
        """The places of the images to classify."""
        return range(len(self.sizes)) if self.positions is None else self.positions

    @property
    def is_lone(self) -> bool:
        """Whether its pack has one image."""
        return len(self.sizes) == 1

    @property
    def refs(self) -> list[ImageRef]:
        """The images to classify."""
        return [self.ref_at(place) for place in self.places]


class LabelScore(WireModel):
    """A label with its score, 0 to 1: softmax or sigmoid."""

    label: str
    score: float


class Model(WireModel):
    """The bundle that classified an image."""

    name: str
    digest: str


class Timings(WireModel):
    """Duration of each stage of an image in milliseconds; absent if the stage was not reached."""

    queued: float | None = None
    fetched: float | None = None
    decoded: float | None = None
    inferred: float | None = None
    stored: float | None = None


class Failure(WireModel):
    """Why an image has no label: a stable `code` for programs, and a message for its owner.

    If the content of the image is the reason, the code is one of `core.images.CODES`.
    """

    code: str
    message: str


class ClassificationResult(WireModel):
    """The result of one image.

    Attributes:
        key: of the classified object in the input bucket; absent if it was not read.
        possible_labels: number of labels that could occur; None for all of the model.
        queued_at: when SQS accepted the request, by its clock.
        recorded_at: when the result became visible to its owner.
        attempt: attempt of the request.
        attempts: how often its message was received until it was answered.
        repeated: whether its worker answered with the prediction of an earlier delivery; never in a prediction.
        traceparent: of the request; the job table does not have it.
    """

    version: Literal[1] = 1
    job_id: Id
    image_id: Id
    status: Status
    key: str | None = Field(default=None, max_length=100)
    queued_at: AwareDatetime | None = None
    recorded_at: AwareDatetime | None = None
    label: str | None = None
    score: float | None = None
    top: tuple[LabelScore, ...] = ()
    possible_labels: int | None = None
    model: Model | None = None
    worker: str
    attempts: int = Field(ge=0)
    attempt: int = Field(default=0, ge=0)
    repeated: bool = False
    timings: Timings = Timings()
    error: Failure | None = None
    traceparent: Traceparent = None

    @property
    def ref(self) -> ImageRef:
        """The image."""
        return ImageRef(self.job_id, self.image_id)

    @model_validator(mode="after")
    def _done_has_a_label_and_failed_has_an_error(self) -> Self:
        if self.status == "done" and (self.label is None or self.score is None):
            raise ValueError("a result that is done needs a label and a score")
        if self.status == "failed" and self.error is None:
            raise ValueError("a result that failed needs an error")
        return self


class Response(WireModel):
    """The results of images of one pack, in the response queue and in the job table.

    Attributes:
        images: number of images of the pack, also of those that have no result here.
    """

    version: Literal[2] = 2
    images: int = Field(default=1, ge=1, le=PLACES)
    results: Annotated[tuple[ClassificationResult, ...], Field(min_length=1)]


class StoredResults(_PackMessage):
    """The response with results that are too large for the response queue: the prediction objects have them.

    Attributes:
        images: number of images of the pack, as in `Response`.
        places: of the images.
        attempt: attempt of the request that it answers.
        repeated: those of `places` with a result that is repeated.
    """

    kind: Literal["stored"] = "stored"
    images: int = Field(default=1, ge=1, le=PLACES)
    places: Places
    attempt: int = Field(default=0, ge=0)
    repeated: tuple[Place, ...] = ()

    def result(self, place: int, prediction: "Prediction") -> ClassificationResult:
        """Return the result of the image at a place, which has this prediction."""
        own = {"attempt": max(prediction.attempt, self.attempt), "repeated": place in self.repeated}
        return prediction.response().model_copy(update=own)


def response_within(response: Response, max_bytes: int) -> Response | StoredResults:
    """Return the response in at most `max_bytes` of JSON: with as many best labels in each `top` as fit.

    If it is too large even without them, the controller must read the prediction objects.
    """
    if len(response.to_json().encode()) <= max_bytes:
        return response

    def with_top(count: int) -> Response:
        results = tuple(each.model_copy(update={"top": each.top[:count]}) for each in response.results)
        return Response(images=response.images, results=results)

    def is_too_large(count: int) -> bool:
        return len(with_top(count).to_json().encode()) > max_bytes

    longest = max(len(each.top) for each in response.results)
    fitting = bisect_left(range(longest), x=True, key=is_too_large) - 1
    if fitting >= 0:
        return with_top(fitting)
    first, places = response.results[0], {place_of(each.image_id): each for each in response.results}
    return StoredResults(
        job_id=first.job_id,
        pack_id=pack_of(first.image_id),
        images=response.images,
        places=tuple(sorted(places)),
        attempt=min(each.attempt for each in response.results),
        repeated=tuple(sorted(place for place, each in places.items() if each.repeated)),
    )


class ImageContent(WireModel):
    """What a sandboxed process reads from an image besides the pixels, each a field of the prediction.

    Attributes:
        thumbnail: file of a small JPEG or WebP that the worker drew, URL-safe Base64 in JSON; it stays when the image
            is deleted. Absent if the image could not be decoded.
    """

    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")

    thumbnail: Annotated[bytes, Field(max_length=MAX_THUMBNAIL_BYTES)] | None = None


PROBABILITY_DIGITS: Final = 6
"""Digits of a probability after the point: finer than float32 softmax is worth, and half the bytes."""

_UNITS: Final = 10**PROBABILITY_DIGITS
"""Parts of 1 that the short form of probabilities counts, so that it loses none of their digits."""

_MAX_PROBABILITY_BYTES: Final = 3 << 20
"""Maximum bytes of probabilities that are inflated: of a million classes."""

_LINE: Final = "line"
"""The context of a prediction that is written as a line."""


def _shortened(probabilities: Sequence[float]) -> str:
    """Return probabilities in short form: as integers of three bytes, deflated, in Base64.

    The first bytes of all integers come before the second ones, each in a block with a code of its own: so those of
    1,000 classes take 2 KB, not 9.
    """
    plain = struct.pack(f"<{len(probabilities)}I", *(round(each * _UNITS) for each in probabilities))
    deflate = zlib.compressobj(strategy=zlib.Z_RLE)
    blocks = [deflate.compress(plain[byte::4]) + deflate.flush(zlib.Z_BLOCK) for byte in range(3)]
    return b64encode(b"".join([*blocks, deflate.flush()])).decode()


def _lengthened(text: object) -> object:
    """Return the probabilities of their short form; anything else as it is."""
    if not isinstance(text, str):
        return text
    inflate = zlib.decompressobj()
    try:
        inflated = inflate.decompress(b64decode(text, validate=True), _MAX_PROBABILITY_BYTES)
    except zlib.error as error:
        raise ValueError(f"no probabilities: {error}") from error
    classes, rest = divmod(len(inflated), 3)
    if rest or not inflate.eof:
        raise ValueError("no probabilities, or of more than a million classes")
    plain = bytearray(4 * classes)
    for byte in range(3):
        plain[byte::4] = inflated[byte * classes :][:classes]
    return tuple(each / _UNITS for each in struct.unpack(f"<{classes}I", plain))


class Prediction(ImageContent, ClassificationResult):
    """The object in the output bucket, the authoritative result: the response, and what is too large for a queue.

    Attributes:
        probabilities: one per class.
    """

    probabilities: Annotated[tuple[float, ...], BeforeValidator(_lengthened)] = ()

    def to_line(self) -> str:
        """Return it as a line of the predictions of a pack: as `to_json`, with its probabilities in short form."""
        return self.model_dump_json(exclude_none=True, context=_LINE)

    @field_serializer("probabilities")
    def _as_written(self, probabilities: tuple[float, ...], info: SerializationInfo) -> tuple[float, ...] | str:
        is_short = info.context == _LINE and 0 <= min(probabilities, default=-1) <= max(probabilities) <= 1
        return _shortened(probabilities) if is_short else probabilities

    def response(self) -> ClassificationResult:
        """Return the response, without the probabilities and the thumbnail."""
        return ClassificationResult.model_construct(
            **{name: getattr(self, name) for name in ClassificationResult.model_fields}
        )


class Heartbeat(WireModel):
    """The heartbeat of a worker, in the response queue among the responses.

    Attributes:
        worker: name of the worker.
        at: time by the worker's clock.
        state: `ready` without an image in flight, `busy` with some, `draining` when it receives no more, then
            `ended`.
        images: number of images answered so far, without repeated predictions.
        in_hand: number of images received and not answered yet.
        images_per_second: answered since the last heartbeat.
        models: digests of the bundles that are loaded.
        failed_model: digest of the bundle that could not be loaded lately; None if none was.
        end: how the worker has ended, once its state is `ended`; None until then.
        reason: why it has ended.
        receipts: SQS's receipt handles of the requests that it holds, as many as fit.
    """

    version: Literal[1] = 1
    kind: Literal["heartbeat"] = "heartbeat"
    worker: str = Field(min_length=1, max_length=100)
    at: AwareDatetime
    state: WorkerState
    images: int = Field(ge=0)
    in_hand: int = Field(ge=0)
    images_per_second: float = Field(default=0, ge=0)
    models: tuple[Sha256, ...] = Field(default=(), max_length=MAX_REPORTED_MODELS)
    failed_model: Sha256 | None = None
    end: WorkerEnd | None = None
    reason: Reason = ""
    receipts: tuple[str, ...] = ()

    def with_receipts(self, receipts: Iterable[str], max_bytes: int) -> Self:
        """Return the heartbeat with those of `receipts`, first ones first, that fit into `max_bytes` of JSON."""
        room, fitting = max_bytes - len(self.to_json().encode()), list[str]()
        for receipt in receipts:
            room -= len(receipt) + 3  # Base64, its quotes and a comma
            if room < 0:
                break
            fitting.append(receipt)
        return self.model_copy(update={"receipts": tuple(fitting)})


def parse_worker_message(body: str | bytes) -> Response | StoredResults | Heartbeat:
    """Return the response or heartbeat of a message of the response queue.

    Raises:
        MessageError: it is neither; the message describes the fault of it as a response.
    """
    try:
        return Response.from_json(body)
    except MessageError as error:
        # Most messages are such responses, so they are tried first.
        for kind in (Heartbeat, StoredResults):
            with suppress(MessageError):
                return kind.from_json(body)
        raise error from None


GONE: Final = Failure(code="gone", message="the image is no longer stored: upload it again")
"""The failure of an image without an object in the input bucket."""


SOURCE_UNREADABLE: Final = "source_unreadable"
"""The code of the failure of an image of which S3 does not return the object."""


def source_unreadable(code: str) -> Failure:
    """Return the failure of an image of which S3 does not return the object, with S3's error code."""
    message = f"S3 does not return its object as it was listed ({code}): restore it or allow reading it, then retry"
    return Failure(code=SOURCE_UNREADABLE, message=message)


MODEL_GONE: Final = Failure(
    code="model_gone", message="the model of its job is no longer stored, or was changed: choose another in a new job"
)
"""The failure of an image with a request for a bundle that is not in its place, or has another digest."""


MODEL_REFUSED: Final = Failure(
    code="model_refused",
    message="the model of its job may not be read, for an hour: ask an operator to allow it, then retry the image",
)
"""The failure of an image with a request for a bundle in a place that S3 refuses for good."""


MODEL_FAILED: Final = Failure(
    code="model_failed",
    message="the scores of its model for this image are no numbers: choose another model in a new job",
)
"""The failure of an image that its network answers with NaN or infinity."""


MODEL_BROKEN: Final = Failure(
    code="model_failed", message="workers could not load the model of its job: choose another model in a new job"
)
"""The failure of an image with a request for a bundle that ends the process that loads it, or that no engine runs."""


CRASHED_WORKER: Final = "crashed_worker"
"""The code of the failure of an image that ends what classifies it."""

CRASHED_ALONE: Final = Failure(
    code=CRASHED_WORKER,
    message="it ended three processes in a row, which classified it alone: save it again as JPEG or PNG",
)
"""The failure of an image at which the processes ended that its worker started for it."""


def crashed_worker(tries: int) -> Failure:
    """Return the failure of an image at which so many workers ended, which classified it alone."""
    message = f"{tries} workers ended while they classified it, perhaps for another reason: retry it"
    return Failure(code=CRASHED_WORKER, message=message)


def is_given_up(response: ClassificationResult) -> bool:
    """Return whether a result reports that its image ended what classified it."""
    return response.status == "failed" and response.error is not None and response.error.code == CRASHED_WORKER


CANCELLED: Final = Failure(
    code="cancelled", message="the job was cancelled before this image was classified: retry it to go on"
)
"""The failure of an image without a result when its job was cancelled."""


def is_cancelled(response: ClassificationResult) -> bool:
    """Return whether a result reports that the job was cancelled before the image was classified."""
    return response.error is not None and response.error.code == CANCELLED.code


def failed(ref: ImageRef, failure: Failure, *, worker: str, attempts: int, attempt: int = 0) -> Prediction:
    """Return the prediction of an image that cannot be classified."""
    return Prediction(
        job_id=ref.job_id,
        image_id=ref.image_id,
        status="failed",
        worker=worker,
        attempt=attempt,
        attempts=attempts,
        error=failure,
    )
