"""A value of each kind that processes of two releases exchange or store, and how the readers of a release see them.

`write` makes them by the code that is imported, and `read` reads them by it. Both run with the present code, and in a
process of its own with that of the previous release, which has its own copy of this file: see `previous`.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

from pydantic import BaseModel

from core.bundle_manifest import parse_manifest
from core.config import LimitSettings
from core.credentials import PersonalTokens, Profile, Profiles, Revocations
from core.fleet.models import (
    BillingPeriod,
    CircuitState,
    ControllerStatus,
    Decision,
    Decisions,
    EndedInstance,
    EndedInstances,
    FleetCircuit,
    FleetDay,
    FleetInstance,
    FleetInstances,
    FleetSnapshot,
    FleetSpending,
    HistoryBlock,
    JournalEntry,
    LaterImages,
    LaunchJournal,
    LimitsOverride,
    WorkerLimits,
)
from core.fleet.store import FleetStore
from core.ids import ImageRef, pack_of
from core.jobs.figures import JobFigures
from core.jobs.lifecycle import Cancellations, DeletedJobs, OpenJobs
from core.jobs.listings import ListingStore
from core.jobs.models import (
    Counts,
    ImageRecord,
    Job,
    MergedFile,
    MinScores,
    Resend,
    ResultsCopy,
    Share,
    SourceListing,
    TrueLabel,
)
from core.jobs.results import JobResults
from core.jobs.shares import ShareStore
from core.jobs.store import JobStore, SingleJobs
from core.jobs.sweeps import SweepMarks
from core.jobs.uploads import Claim, Claims, FirstUpload
from core.messages import (
    CANCELLED,
    GONE,
    ClassificationResult,
    Heartbeat,
    LabelScore,
    Model,
    Prediction,
    RequestMessage,
    Response,
    SourceObjects,
    Timings,
    crashed_worker,
    failed,
    parse_worker_message,
    response_within,
)
from core.model_catalog import (
    CatalogStore,
    JobModel,
    ModelCatalog,
    ModelVersion,
)
from services.ec2 import LaunchSpec
from services.lease import Lease
from tests.support.clocks import ManualClock
from tests.support.jobs import put_counts, put_results
from tests.support.memory_aws.dynamodb import MemoryTable
from web_tier.auth.sessions import RotatedSession, SessionRecord, SessionStore
from web_tier.features.dead_letters.store import DeadLetterStore
from web_tier.features.notifications.outbox import FleetMessage, FleetMessages, Outbox
from web_tier.http.quotas import Amount, Quotas

Written = dict[str, Any]
"""Messages and objects by kind, each as its text, and the items of a job table."""

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
JOB, OTHER, SOURCED, SINGLE_JOB, DELETED_JOB = (f"01KAZZZZZZZZZZZZZZZZZZZZ0{number}" for number in "12345")
DONE, FAILED, GIVEN_UP, WAITING = (ImageRef(JOB, f"01KAZZZZZZZZZZZ00ZZZZZZZA{number}") for number in "1234")
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
OWNER, EMAIL = "d4e5f6a7-0000-4000-8000-000000000001", "ada@example.org"
KEY, SESSION = "idempotency-key", f"{OWNER}.session"
MODEL = Model(name="demo", digest=sha256(b"a bundle").hexdigest())
JOB_MODEL = JobModel("demo", MODEL.digest, f"s3://outputs/models/{MODEL.digest}")
SOME_LABELS = JOB_MODEL.restricted(["stop sign", "yield"], ["yield"])
TOKEN_TEXT = "t" * 43
LIMITS = LimitSettings(
    store="table", requests_per_minute=0, images_per_day=100, bytes_per_day=10_000,
).model_copy(update={"jobs_per_day": 10})  # fmt: skip


def _prediction(ref: ImageRef) -> Prediction:
    return Prediction(
        job_id=ref.job_id,
        image_id=ref.image_id,
        status="done",
        key=f"{ref.job_id}/{ref.image_id}.jpg",
        queued_at=NOW,
        label="stop sign",
        score=0.75,
        top=(LabelScore(label="stop sign", score=0.75), LabelScore(label="yield", score=0.25)),
        possible_labels=2,
        model=MODEL,
        worker="i-0123456789abcdef0",
        attempts=2,
        attempt=1,
        timings=Timings(queued=1.5, fetched=2.0, decoded=3.0, inferred=4.0, stored=5.0),
        probabilities=(0.75, 0.25),
        thumbnail=b"\xff\xd8 a thumbnail",
        traceparent=TRACEPARENT,
    )


def _messages() -> dict[str, str]:
    done = _prediction(DONE)
    heartbeat = Heartbeat(
        worker="i-0123456789abcdef0", at=NOW, state="busy", images=7, in_hand=2, images_per_second=1.5,
        models=(MODEL.digest,),
    )  # fmt: skip
    return {
        "request": RequestMessage(
            job_id=JOB,
            pack_id=pack_of(WAITING.image_id),
            extension="jpg",
            sizes=(1234,),
            submitted_at=NOW,
            attempt=1,
            suspect=True,
            model=SOME_LABELS.requested,
            source=SourceObjects(bucket="photos", prefix="in/", objects=(("shard.tar", "e"),), starts=(512,)),
            traceparent=TRACEPARENT,
        ).to_json(),
        "prediction": done.to_json(),
        "failed prediction": failed(FAILED, GONE, worker="i-0123456789abcdef0", attempts=1, attempt=1).to_json(),
        "response": (response := Response(results=(done.response(),))).to_json(),
        "stored response": response_within(response, 100).to_json(),
        "heartbeat": heartbeat.to_json(),
    }


def _result(ref: ImageRef) -> ClassificationResult:
    return _prediction(ref).response().model_copy(update={"recorded_at": NOW})


def _fill_jobs(store: JobStore) -> None:
    scores = MinScores(0.8, {"yield": 0.9})
    job = Job(JOB, "holiday", NOW, keep=True, owner=OWNER, model=JOB_MODEL, min_scores=scores, finish_by=NOW)
    sourced = Job(
        SOURCED, "from S3", NOW, owner=OWNER, source="s3://photos/in", results="s3://photos/out", model=SOME_LABELS
    )
    deleted = Job(DELETED_JOB, "gone", NOW, owner=OWNER)
    store.create(job, Job(OTHER, "without a user", NOW), deleted)
    records = [
        ImageRecord(
            ref,
            f"{number} é.jpg",
            "jpg",
            (1234,),
            NOW,
            attempt=1,
            owner=OWNER,
            model=(SOME_LABELS if ref == WAITING else JOB_MODEL).requested,
        )
        for number, ref in enumerate((DONE, FAILED, GIVEN_UP, WAITING))
    ]
    store.record_images(records, NOW)
    put_results(store, _result(DONE))
    cancelled = failed(FAILED, CANCELLED, worker="controller", attempts=0, attempt=1).response()
    given_up = failed(GIVEN_UP, crashed_worker(5), worker="controller", attempts=5, attempt=1).response()
    for response in (cancelled, given_up):
        put_results(store, response)
    DeadLetterStore(store).put_each([given_up])
    resends = JobResults.of(JOB, resends={WAITING.image_id: Resend(1, NOW, NOW, 60, 2)})
    store.table.transact(*resends.writes(token=3, run=0, at=NOW))
    store.set_truths(job, {DONE.image_id: TrueLabel("yield", NOW, "csv")})
    counts = Counts(
        done=1, failed=2, images=4, first_result_at=NOW, last_result_at=NOW, runs=((1, 2), (2, 1)),
        system_retried=1, resends=2, cancelled=1,
    )  # fmt: skip
    put_counts(store, JOB, counts, token=3)
    JobFigures(store.table).put_merged(JOB, MergedFile(f"results/{JOB}.jsonl", "4/1/2/x/y", NOW), token=3)
    JobFigures(store.table).put_copy(JOB, ResultsCopy("4/1/2/x/y z", "refused"), token=3)
    store.put_retried(JOB, NOW, [])
    Cancellations(store.table).cancel(JOB, NOW)
    Cancellations(store.table).resume(JOB)
    now = int(NOW.timestamp())
    for share in (Share("link", now + 9, now, "revoked", "digest"), Share("to", now + 9, now, "", "", EMAIL)):
        ShareStore(store.table).add(JOB, share, now)
    single = Job(SINGLE_JOB, "single images", NOW, owner=OWNER, is_single=True, model=JOB_MODEL)
    SingleJobs(store.table).make_current(single, NOW, NOW + timedelta(hours=1), "")
    DeletedJobs(store.table).delete(deleted)
    SweepMarks(store.table).put(JOB, NOW)

    listings = ListingStore(store)
    listings.create_job(sourced, "operator", NOW)
    listed = SourceListing("listing", 3, 2, {"not_an_image": 1}, "in/c.jpg", "", NOW)
    listings.put_listing(SOURCED, SourceListing(), listed, token=3)
    outbox = Outbox(store.table)
    outbox.add_job(JOB, NOW)
    message = FleetMessage(about="day", id="cap-day", type="fleet.spending_cap_reached", at=NOW, data="{}")
    outbox.put_last_messages(FleetMessages(day=message), 3)


def _fill_fleet(fleet: FleetStore) -> None:
    limits = LimitsOverride(min_workers=0, max_workers=5, since=NOW, reason="a test")
    fleet.pause(NOW, "an earlier one")
    fleet.resume("ada@example.org")
    pause = fleet.pause(NOW, "new model", NOW + timedelta(days=36_500))
    fleet.set_limits(limits)
    fleet.request_drain("i-0123456789abcdef0", NOW)
    run = BillingPeriod(number=2, images=3, billed_seconds=60.0, cost=0.01, is_open=False)
    day = FleetDay(day=NOW.date(), images=3, billed_seconds=60.0, cost=0.01)
    spending = FleetSpending(
        day=NOW.date(), today=0.01, month=0.02, committed=0.001, launch=0.001, dollars_per_day=1.0,
        dollars_per_month=9.0,
    )  # fmt: skip
    fleet.put_snapshot(
        FleetSnapshot(
            at=NOW, running=1, pending=1, stopped=1, visible=3, in_flight=2, delayed=1, dead_letters=1, min_workers=0,
            max_workers=5, peak_workers=2, billed_seconds=60.0, cost=0.01, images=3, run=run, reason="2 are enough",
            problem="VcpuLimitExceeded", paused=pause, image_seconds=0.1, boot_seconds=30.0, policy="backlog",
            limits_order=limits, configured=WorkerLimits(min_workers=0, max_workers=9),
            images_per_second=1.5, today=day, spending=spending, later_images=(LaterImages(by=NOW, images=3),),
            circuit=FleetCircuit(
                state=CircuitState.OPEN, failed_runs=3, own_failures=3, reason="no room left", since=NOW
            ),
        )
    )  # fmt: skip
    fleet.allow_dollars(2.0, "night batch", NOW)
    instance = FleetInstance(
        instance_id="i-0123456789abcdef0", state="running", instance_type="c7a.large", zone="us-east-1a",
        launched_at=NOW, worker="busy", images=3, in_hand=2, images_per_second=1.5, heard_at=NOW, draining=True,
        spot=True, marked="silent", billed_since=NOW,
    )  # fmt: skip
    fleet.put_instances(FleetInstances(total=1, instances=(instance,)))
    ended = EndedInstance(
        instance_id="i-0fedcba9876543210", instance_type="c7a.large", zone="us-east-1a", launched_at=NOW,
        ended_at=NOW, images=3,
    )  # fmt: skip
    fleet.put_ended(EndedInstances(instances=(ended,)))
    fleet.put_decisions(Decisions(decisions=(Decision(at=NOW, words="starting 1 worker"),)))
    spec = LaunchSpec("c7a.large", "terminate", "ami-12c6146b", "#!/bin/sh\n", market="spot", subnet_id="subnet-1")
    launch = JournalEntry(token="t1", count=1, at=NOW, spec=spec)
    start = JournalEntry(
        token="t2", count=1, at=NOW, starts=("i-0123456789abcdef0",), launched=(NOW,), instance_ids=()
    )
    fleet.put_journal(LaunchJournal(revision=1, writer="controller", entries=(launch, start)))
    fleet.put_block("minutes", 2, HistoryBlock(number=9, points=((1764072003, 2, 5),)))
    fleet.put_block("hour", 1, HistoryBlock(number=7, points=((1764072000, 2, 5), (1764072001, 1, 0))))
    fleet.put_run(run)
    fleet.put_day(day)
    fleet.put_controller_status(ControllerStatus(ends=(NOW,), last_words="status 1: é"))


def _fill_models(catalogs: CatalogStore) -> None:
    versions = [
        ModelVersion(name=name, digest=digest, place=f"s3://outputs/models/{digest}", added_at=NOW, added_by=EMAIL)
        for name, digest in (("demo", MODEL.digest), ("other", sha256(b"another bundle").hexdigest()))
    ]

    before, after = versions[0].digest, versions[1].digest
    catalog = ModelCatalog(versions=tuple(versions), default=after, previous=before, configured=before)
    catalogs.change(lambda _: catalog, lambda: ModelCatalog.only(versions[0]))


def _fill_users(table: MemoryTable) -> None:
    second = int(NOW.timestamp())
    Revocations(table, ManualClock(-1.0, datetime.fromtimestamp(second, UTC))).revoke_all_of(OWNER)
    tokens = PersonalTokens(table, Revocations(table), clock=ManualClock(0.0, NOW), random_text=lambda: TOKEN_TEXT)
    tokens.make(OWNER, EMAIL, "a script", {"classify", "read"}, 30, second, "family")
    Profiles(table).put(Profile(OWNER, EMAIL, is_verified=True, is_operator=True))
    record = SessionRecord(
        "family",
        OWNER,
        EMAIL,
        True,
        "encrypted",
        begun=second,
        signed_in=second,
        seen=second,
        rotated=second,
        ends=second + 3600,
        claimed=1,
    )
    SessionStore(table).add(SESSION, record)
    SessionStore(table).add(f"{SESSION}-old", record)
    SessionStore(table).mark_rotated(f"{SESSION}-old", RotatedSession(second + 60))
    claims = Claims(table, OWNER)
    claims.acquire(KEY, Claim(JOB, "digest of the request", NOW, model=SOME_LABELS))
    claims.mark_stored(KEY)
    image = ImageRecord(
        DONE,
        "1 é.jpg",
        "jpg",
        (1234,),
        NOW,
        owner=OWNER,
        model=SOME_LABELS.requested,
    )
    FirstUpload("digest of the files", {0: image}).claim(table, JOB, KEY)
    Quotas(table, LIMITS, ManualClock(0.0, NOW)).charge(OWNER, Amount(3, 300, 1))
    Lease(table, "controller", 5.0, "holder", clock=ManualClock(0.0, NOW)).take_or_renew()


def write() -> Written:
    """Return a value of each kind, as this release writes it."""
    table = MemoryTable()
    _fill_jobs(JobStore(table))
    _fill_fleet(FleetStore(table))
    _fill_models(CatalogStore(table))
    _fill_users(table)
    items = sorted((dict(item) for item in table.items.values()), key=lambda item: (item["pk"], item["sk"]))
    return {"messages": _messages(), "items": items}


def read(written: Written) -> dict[str, Any]:
    """Return what the readers of this release see in what a release has written, by the name of the reader."""
    table = MemoryTable()
    table.items = {(item["pk"], item["sk"]): item for item in written["items"]}
    messages = {kind: _read_message(kind, body) for kind, body in written["messages"].items()}
    seen = {**_read_jobs(JobStore(table)), **_read_fleet(FleetStore(table)), **_read_users(table)}
    seen["models"] = CatalogStore(table).find()
    manifest = {"manifest": parse_manifest("bundle.json", written["manifest"])} if "manifest" in written else {}
    plain = _plain({**{f"message: {kind}": seen for kind, seen in messages.items()}, **seen, **manifest})
    assert isinstance(plain, dict)
    return plain


def _read_message(kind: str, body: str) -> object:
    if kind == "request":
        return RequestMessage.from_json(body)
    if kind.endswith("prediction"):
        return Prediction.from_json(body)
    return parse_worker_message(body)


def _read_jobs(store: JobStore) -> dict[str, object]:
    listings = ListingStore(store)
    return {
        "jobs of a user": store.jobs(10, owner=OWNER),
        "jobs without a user": store.jobs(10),
        "status": {job_id: store.status(job_id) for job_id in (JOB, OTHER, SOURCED)},
        "images": list(store.images(JOB)),
        "summaries": dict(store.summaries(JOB)),
        "answers": store.answers(JOB),
        "truths": store.truths(JOB),
        "image": store.whole_image(DONE, lambda job: job.owner == OWNER) if store.images_of([DONE]) else None,
        "counts": JobFigures(store.table).counts(JOB),
        "single job": SingleJobs(store.table).find_current([OWNER], NOW),
        "open jobs": OpenJobs(store.table).find_all(),
        "deleted jobs": DeletedJobs(store.table).find_all(),
        "jobs to be swept": SweepMarks(store.table).find_all(),
        "shared jobs": ShareStore(store.table).shared_with(EMAIL, 9),
        "pending listings": listings.pending(),
        "listing": listings.find(SOURCED),
        "dead letters": DeadLetterStore(store).page(limit=10),
        "pending notifications": [{"job_id": each.key, "at": each.at} for each in Outbox(store.table).pending()],
        "messages of the fleet": Outbox(store.table).last_messages(),
    }


def _read_fleet(fleet: FleetStore) -> dict[str, object]:
    return {
        "fleet": fleet.state(),
        "commands": fleet.commands(),
        "journal": fleet.journal(),
        "history": fleet.blocks(),
        "billing periods": fleet.runs([2]),
        "days": fleet.days(),
        "instances that have ended": fleet.ended(),
    }


def _read_users(table: MemoryTable) -> dict[str, object]:
    tokens = PersonalTokens(table, Revocations(table), clock=ManualClock(0.0, NOW))
    second_contender = Lease(table, "controller", 5.0, "other", clock=ManualClock(0.0, NOW))
    return {
        "tokens": tokens.list(OWNER),
        "token": tokens.find(f"fst_{TOKEN_TEXT}"),
        "profile": Profiles(table).find(OWNER),
        "session": SessionStore(table).find(SESSION),
        "rotated session": SessionStore(table).find(f"{SESSION}-old"),
        "claim": Claims(table, OWNER).find(KEY, NOW),
        "upload with a key": FirstUpload.find(table, JobStore(table).job(JOB), KEY),
        "quota": Quotas(table, LIMITS, ManualClock(0.0, NOW)).remaining(OWNER),
        "lease is free": second_contender.take_or_renew(),
    }


def _plain(value: Any) -> Any:
    """Return a value as JSON can have it, with the names of fields, so that views of two releases can be compared."""
    if isinstance(value, BaseModel):
        return {name: _plain(getattr(value, name)) for name in type(value).model_fields}
    if is_dataclass(value):
        return {each.name: _plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, set | frozenset | list | tuple):
        return [_plain(each) for each in (value if isinstance(value, list | tuple) else sorted(value))]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def main() -> None:
    """Print what this release writes, or, with the argument `read`, what it sees in the input."""
    json.dump(read(json.load(sys.stdin)) if sys.argv[1:] == ["read"] else write(), sys.stdout)


if __name__ == "__main__":
    main()
