"""Values of jobs and their images; `core/jobs/store.py` stores them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from hashlib import sha256
from typing import Final, Literal, Self

from core.ids import ImageRef, image_id_at, pack_of, place_of
from core.images import FORMATS, ImageFormat
from core.jobs.keys import pack_key
from core.jobs.pack_objects import TAR, TAR_TYPE
from core.messages import RequestedModel, SourceObjects, Status
from core.model_catalog import JobModel
from core.tracing import current_traceparent

JobState = Literal["empty", "running", "finished", "cancelled"]

ListingState = Literal["listing", "complete", "failed", "cancelled"]

CopyState = Literal["waiting", "written", "failed"]

TruthSource = Literal["review", "csv", "folder"]
"""How a user set a true label: on the page or by the API, by a file, or by the names of folders."""

MAX_RUNS = 200
"""Maximum billing periods of a job, the latest ones: that many hours of uninterrupted work."""

_TYPE_OF: Final = {each.extension: each.content_type for each in FORMATS.values()}


@dataclass(frozen=True, slots=True)
class Share:
    """The right to read one job, which its owner has given to the holder of a link, or to the user of an address.

    Attributes:
        until: when it ends, in epoch seconds.
        digest: SHA-256 of the link's token, which is stored nowhere; empty for an address.
        email: the address, as `normalise_email` returns it; empty for a link.
        signed_in, made_after: of the credential that made it, as `Revocation.covers` takes them.
    """

    share_id: str
    until: int
    signed_in: int
    made_after: str
    digest: str = ""
    email: str = ""

    @property
    def until_at(self) -> datetime:
        """`until` as a date."""
        return datetime.fromtimestamp(self.until, UTC)


@dataclass(frozen=True, slots=True)
class MinScores:
    """A job's border of doubt: below the lowest score that counts, an image's label is `unsure`.

    Attributes:
        every: lowest score that counts, 0 to 1, of labels that `labels` does not name.
        labels: by label, as the model writes it.
    """

    every: float = 0.5
    labels: Mapping[str, float] = field(default_factory=dict, hash=False)

    @property
    def digest(self) -> str:
        """An identifier of these scores; empty for the usual ones."""
        text = repr((self.every, sorted(self.labels.items())))
        return "" if self == MinScores() else sha256(text.encode()).hexdigest()[:16]

    @property
    def is_usual(self) -> bool:
        """Whether images with a score of more than one half are sure, with any label."""
        return max((self.every, *self.labels.values())) <= MinScores().every

    @property
    def words(self) -> str:
        """The border in words, for pages."""
        return f"below {100 * self.every:g}%{'; some labels have their own' if self.labels else ''}"

    def is_unsure(self, label: str | None, score: float | None) -> bool:
        """Return whether a label with this score is a mere guess; False for an image without a label."""
        return label is not None and score is not None and score < self.labels.get(label, self.every)


@dataclass(frozen=True, slots=True)
class Job:
    """A batch of images that belong together.

    Attributes:
        owner: id of its user; empty without sign-in.
        is_reviewed: whether its user has set true labels of images; they may have been removed since.
        keep: whether the images and the records are kept; otherwise a pack is deleted once all its images are
            classified, and the job expires.
        is_single: whether it collects images that were sent one by one, without a job of their own.
        source: location in S3 from which the controller takes its images; empty for uploaded ones.
        source_pattern: of the names below `source` that it takes; empty for all. One of tars takes their members.
        results: location in S3 to which the controller copies its results file; empty for none.
        model: classifies all its images; None for the bundle of the worker's configuration.
        shares: who else may read it; some may be over.
        max_failed_percent: of its results may be failures before the controller stops it; None for no limit.
        min_scores: below which a label is unsure.
        finish_by: when it may be finished at the latest, so that it costs less; None for as soon as possible.
    """

    job_id: str
    name: str
    created_at: datetime
    keep: bool = False
    owner: str = ""
    is_single: bool = False
    is_reviewed: bool = False
    source: str = ""
    source_pattern: str = ""
    results: str = ""
    model: JobModel | None = None
    shares: tuple[Share, ...] = ()
    max_failed_percent: float | None = None
    min_scores: MinScores = field(default_factory=MinScores)
    finish_by: datetime | None = None

    @property
    def group(self) -> str:
        """The message group of its images: that of its user, or its own if the user is unknown.

        A job that may be finished later must not delay others of its user. Five groups for such jobs, by the hours
        that they had, are enough for that: with a group for each job, many of them would get most of the fleet.
        """
        if not self.owner or self.finish_by is None:
            return self.owner or self.job_id
        hours = int((self.finish_by - self.created_at).total_seconds() // 3_600)
        return f"{self.owner}.later{max(0, hours).bit_length() // 2}"

    @property
    def has_shards(self) -> bool:
        """Whether its images are members of the objects of its source, shards of a WebDataset."""
        return is_of_shards(self.source_pattern)

    @property
    def requested_model(self) -> RequestedModel | None:
        """The model as requests of its images name it."""
        return None if self.model is None else self.model.requested


def is_of_shards(source_pattern: str) -> bool:
    """Return whether objects with such names are shards of a WebDataset, tars of images."""
    return source_pattern.lower().endswith(f".{TAR}")


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """The record of an accepted image.

    Attributes:
        filename: its owner's name for it, only for display.
        extension: of its format, without the dot.
        sizes: of all images of its pack, in bytes, by place.
        retried_at: when it was last retried after a failure; for display, not for comparison.
        attempt: number of the last request: 0 for the first one, one more for each retry.
        owner: id of its user; empty without sign-in, and in records of versions before 2026-11-24.
        model: of its job, which every request of the image names; None as in `Job`.
        source: the objects of its user from which its pack is read; None if the pack is in the input bucket.
        traceparent: of the request in which this value was made, if any; the job table does not have it.
    """

    ref: ImageRef
    filename: str
    extension: str
    sizes: tuple[int, ...]
    accepted_at: datetime
    retried_at: datetime | None = None
    attempt: int = 0
    owner: str = ""
    model: RequestedModel | None = None
    source: SourceObjects | None = None
    traceparent: str | None = field(default_factory=current_traceparent, compare=False)

    @classmethod
    def of(
        cls, job: Job, image_id: str, filename: str, format_: ImageFormat, size: int, accepted_at: datetime
    ) -> Self:
        """Return the record of a lone image that a job gets."""
        return cls.of_pack(job, image_id, [(filename, format_.extension, size)], accepted_at)[0]

    @classmethod
    def of_pack(
        cls, job: Job, pack_id: str, files: Sequence[tuple[str, str, int]], accepted_at: datetime
    ) -> list[Self]:
        """Return the records of the images of a pack that a job gets: filename, extension and size of each."""
        sizes, model = tuple(size for _, _, size in files), job.requested_model
        refs = (ImageRef(job.job_id, image_id_at(pack_id, place)) for place in range(len(files)))
        return [
            cls(ref, filename, extension, sizes, accepted_at, owner=job.owner, model=model)
            for ref, (filename, extension, _) in zip(refs, files, strict=True)
        ]

    @property
    def pack_id(self) -> str:
        """The id of its pack."""
        return pack_of(self.ref.image_id)

    @property
    def pack_refs(self) -> list[ImageRef]:
        """All images of its pack, by place."""
        pack_id = self.pack_id
        return [ImageRef(self.ref.job_id, image_id_at(pack_id, place)) for place in range(len(self.sizes))]

    @property
    def size(self) -> int:
        """Its size in bytes."""
        return self.sizes[place_of(self.ref.image_id)]

    @property
    def is_lone(self) -> bool:
        """Whether it is a pack of its own."""
        return len(self.sizes) == 1

    @property
    def object_extension(self) -> str:
        """The extension of the object of its pack."""
        return self.extension if self.is_lone else TAR

    @property
    def key(self) -> str:
        """The key of the object of its pack in the input bucket, if that has one that is still stored."""
        return pack_key(self.ref.job_id, self.pack_id, self.object_extension)

    @property
    def original_at(self) -> str | None:
        """The `s3://` address of the object of its user; None if it is in the input bucket."""
        if self.source is None:
            return None
        key, _ = self.source.object_of(place_of(self.ref.image_id))
        return f"s3://{self.source.bucket}/{key}"

    @property
    def content_type(self) -> str:
        """The media type of its format."""
        return _TYPE_OF[self.extension]

    @property
    def object_type(self) -> str:
        """The media type of the object of its pack."""
        return self.content_type if self.is_lone else TAR_TYPE


@dataclass(frozen=True, slots=True)
class Resend:
    """The requests of one image that the controller sent again, because it presumed that a message was lost.

    Attributes:
        attempt: attempt of the image in the last request.
        first_at, last_at: when the first and the last request were sent.
        waited_seconds: how long the controller had seen the image without a result before the last request.
        times: number of requests, over all attempts of the image.
    """

    attempt: int
    first_at: datetime
    last_at: datetime
    waited_seconds: int
    times: int = 1

    def after(self, earlier: "Resend | None") -> "Resend":
        """Return this resend combined with the earlier ones of the same image."""
        return self if earlier is None else replace(self, first_at=earlier.first_at, times=earlier.times + self.times)


@dataclass(frozen=True, slots=True)
class TrueLabel:
    """The true label of an image, which a user has set; it changes no prediction.

    Attributes:
        label: a class of the model, or any other text: an image may show none of the classes.
    """

    label: str
    set_at: datetime
    source: TruthSource = "review"


@dataclass(frozen=True, slots=True)
class ResultSummary:
    """The part of a result that needs no read of its response; the attributes are those of `ClassificationResult`.

    `cancelled` is whether the image failed because its job was cancelled.
    """

    status: Status
    attempt: int = 0
    attempts: int = 1
    cancelled: bool = False


@dataclass(frozen=True, slots=True)
class Counts:
    """The counts of a job's images.

    Attributes:
        done: images with a label.
        failed: images that cannot be classified.
        images: accepted images.
        first_result_at, last_result_at: by the controller's clock.
        runs: number of results of workers by billing period of the fleet: its number and the results, oldest first.
        system_retried: images that the system retried: received more than once, or requested again by the controller.
        resends: requests that the controller sent again.
        cancelled: images of `failed` that were not classified because the job was cancelled.
        acceptances: number of transactions that have accepted images.
        presigned: packs that came by presigned forms.
        packs: packs that were requested: each once, and again for each attempt of images that were retried.
        retries: requests of images by these retries.
        answered_packs: of `packs`, those with a result of any of their images.
        answered_retries: of `retries`, those with a result.
        revision: number of transactions that have recorded results: it changes with any of them.
    """

    done: int = 0
    failed: int = 0
    images: int = 0
    first_result_at: datetime | None = None
    last_result_at: datetime | None = None
    runs: tuple[tuple[int, int], ...] = ()
    system_retried: int = 0
    resends: int = 0
    cancelled: int = 0
    acceptances: int = 0
    presigned: int = 0
    packs: int = 0
    retries: int = 0
    answered_packs: int = 0
    answered_retries: int = 0
    revision: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class MergedFile:
    """The object in the output bucket that holds all results of a job; `edition` is that of these results."""

    key: str
    edition: str
    written_at: datetime

    @property
    def version(self) -> str:
        """An identifier of the object: a file that is written again has another one, also with the same results."""
        return f"{self.edition} {self.written_at.isoformat()}"


@dataclass(frozen=True, slots=True)
class ResultsCopy:
    """The outcome of copying a results file of this `version` to the location that the user chose.

    `error` is why S3 or the configuration refuses it; empty if it was written.
    """

    version: str
    error: str = ""


@dataclass(frozen=True, slots=True)
class ShardPosition:
    """Where the members of a shard go on: at `offset` of the object that has this size and ETag."""

    offset: int
    size: int
    etag: str


@dataclass(frozen=True, slots=True)
class SourceListing:
    """How far the source of a job is listed, and its images are accepted.

    Attributes:
        listed: objects so far, with those that were skipped.
        accepted: images of these.
        skipped: other objects by the reason, such as `not_an_image`.
        after: key of the last object.
        paused_until: when it continues, if the day's quota of images is used up.
        shard: where the members of the last object go on; None if it is listed to its end.
    """

    state: ListingState = "listing"
    listed: int = 0
    accepted: int = 0
    skipped: Mapping[str, int] = field(default_factory=dict)
    after: str = ""
    error: str = ""
    paused_until: datetime | None = None
    shard: ShardPosition | None = None


@dataclass(frozen=True, slots=True)
class JobStatus:
    """A job and its progress.

    Attributes:
        retried_at: when failed images were last requested again, if ever.
        merged: the file with all results, once it is written.
        cancelled_at: when it was cancelled, unless a retry has resumed it.
        listing: of its source; None if its images are uploaded.
        copy: the last copy of the results file to the location that the user chose, if there is one.
        stopped: why the controller cancelled it; empty if it did not.
    """

    job: Job
    accepted: int
    counts: Counts
    retried_at: datetime | None = None
    merged: MergedFile | None = None
    cancelled_at: datetime | None = None
    listing: SourceListing | None = None
    copy: ResultsCopy | None = None
    stopped: str = ""

    @property
    def is_listing(self) -> bool:
        """Whether the controller may still add images from the job's source."""
        return self.listing is not None and self.listing.state == "listing"

    @property
    def waiting(self) -> int:
        """The number of images without a result."""
        return max(0, self.accepted - self.counts.done - self.counts.failed)

    @property
    def state(self) -> JobState:
        """`empty` before the first image, `finished` when every image has its result, `cancelled` in any case.

        A job from S3 is running until its source is listed, and finished then if it has no images.
        """
        if self.cancelled_at is not None:
            return "cancelled"
        if self.accepted == 0 and self.listing is None:
            return "empty"
        return "running" if self.waiting or self.is_listing else "finished"

    @property
    def is_answered(self) -> bool:
        """Whether the job has all its images, and each has its result; a source may have none."""
        return (self.accepted > 0 or self.listing is not None) and not (self.waiting or self.is_listing)

    @property
    def copy_state(self) -> CopyState:
        """Of the copy of the current results: `waiting` until it is written or refused, and when results change.

        Without images there is none: it has failed once the source is listed.
        """
        merged, copy = self.merged, self.copy
        if self.is_answered and not self.accepted:
            return "failed"
        if merged is None or merged.edition != self.edition or copy is None or copy.version != merged.version:
            return "waiting"
        return "failed" if copy.error else "written"

    @property
    def edition(self) -> str:
        """An identifier of the current results: it changes whenever they, or decisions on them, may have changed."""
        counts, border = self.counts, self.job.min_scores.digest
        results = f"{self.accepted}/{counts.done}/{counts.failed}/{counts.last_result_at}/{self.retried_at}"
        return f"{results}/{border}" if border else results

    @property
    def is_only_decided_anew(self) -> bool:
        """Whether the results file has all current results, with the decisions of an earlier border of doubt."""
        merged = "" if self.merged is None else self.merged.edition  # with a comma if some were tried again
        return "," not in merged and merged.split("/")[:5] == self.edition.split("/")[:5]


@dataclass(frozen=True, slots=True)
class DeletedJob:
    """A deleted job that may have items or objects left.

    Attributes:
        marked_again: identifies the last write that may have happened after its removal; empty if there was none.
        shares: those of the job when it was deleted.
    """

    job_id: str
    owner: str = ""
    marked_again: str = ""
    shares: tuple[Share, ...] = ()


@dataclass(frozen=True, slots=True)
class OpenJob:
    """A job that may have images without a result; `touched_at` is when images were last added."""

    job_id: str
    touched_at: str
