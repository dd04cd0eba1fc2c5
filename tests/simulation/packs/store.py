"""What several writers do alike: accept packs, store lines in the results object, record them in the table."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from operator import not_
from random import Random
from typing import Final, Literal, NamedTuple

from services.table import CLOUD_ERRORS
from tests.simulation.packs.rules import ALL, SLOT, Guard, Guards, Lines, Request, count_lines, cut, merge_lines
from tests.simulation.packs.services import Bucket, Item, Queue, RefusedError, Table, Write

TRIES: Final = 8
"""Tries of a call with an unknown outcome, or of a read and a conditional write, before its caller gives up."""
TRANSACTION_PACKS: Final = 2
"""Packs of one transaction; 99 in the product, since DynamoDB allows 100 items."""


class UnansweredError(Exception):
    """Raised when it is unknown what became of a request; its client may repeat it with its key."""


class JobGoneError(Exception):
    """Raised when a job was deleted."""


class File(NamedTuple):
    """A file of a client; the content is what a worker makes of it, and a number."""

    name: str
    content: tuple[str, int]


@dataclass
class Cloud:
    """The services, and what else a process has: a clock in seconds, ids, the guards that are not taken out.

    Attributes:
        heartbeats: the messages that each worker holds, by its name, as of its last heartbeat.
        ended: the names of the workers of instances that have ended.
    """

    table: Table
    inputs: Bucket
    outputs: Bucket
    sources: Bucket
    requests: Queue
    responses: Queue
    letters: Queue
    clock: Callable[[], float]
    random: Random
    guards: Guards = ALL
    heartbeats: dict[str, list[int]] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)
    _last_id: int = 0

    def has(self, guard: Guard) -> bool:
        """Return whether a guard is in force."""
        return guard in self.guards

    def new_id(self) -> int:
        """Return an id that is greater than all before; the positions of a request follow it."""
        self._last_id += SLOT << 8
        return self._last_id


def new_packs(cloud: Cloud, job: str, names: Sequence[str], so_far: int, model: str) -> dict[int, Item]:
    """Return the items of new packs, by their ids; ascending positions of one request, each pack in its own slot."""
    packs: dict[int, Item] = {}
    position = cloud.new_id()
    start = 0
    for size in cut(len(names), so_far):
        key = f"{job}/{position}.tar"
        packs[position] = {"names": tuple(names[start : start + size]), "model": model, "key": key}
        start += size
        position += SLOT if cloud.has(Guard.PACKS_HAVE_SLOTS) else size
    return packs


Outcome = Literal["stood", "existed", "refused", "unknown"]
"""What became of an acceptance: made by this call, made before, refused for good, or unknown."""


def transact(cloud: Cloud, writes: Sequence[Write], token: str) -> None:
    """Make all writes or none; if its guard is taken out, the job's counts come after all others."""
    counts = [write for write in writes if write.key[1] == "JOB" and not cloud.has(Guard.COUNTS_MOVE_WITH_ITEMS)]
    cloud.table.transact([write for write in writes if write not in counts], token)
    for write in counts:
        cloud.table.write(write)


def accept(cloud: Cloud, job: str, packs: Mapping[int, Item], more: Sequence[Write] = ()) -> dict[int, Outcome]:
    """Write PACK# items and count their images in one transaction, which is the commit point; send their requests.

    A process sends only if its own transaction stood; otherwise the reconciler does. A transaction is repeated with
    its token while its outcome is unknown. The packs that exist are left out: the repeat of a request may be ahead.
    """
    outcomes: dict[int, Outcome] = {}
    while left := {pack: item for pack, item in packs.items() if pack not in outcomes}:
        outcome, found = _accept_at_once(cloud, job, left, more)
        outcomes |= dict.fromkeys(found, outcome)
    with suppress(*CLOUD_ERRORS):
        for pack, outcome in outcomes.items():
            if outcome == "stood":
                cloud.requests.send(request_of(job, pack, packs[pack], range(len(packs[pack]["names"]))))
    return outcomes


def _accept_at_once(
    cloud: Cloud, job: str, packs: Mapping[int, Item], more: Sequence[Write]
) -> tuple[Outcome, list[int]]:
    images = sum(len(pack["names"]) for pack in packs.values())
    oldest = min(pack["put_at"] for pack in packs.values())

    def may_accept(found: Item) -> bool:
        is_young = oldest >= found.get("swept_before", oldest) or not cloud.has(Guard.SWEEP_IS_SEEN)
        return is_living(found) and is_young

    def counted(found: Item) -> Item:
        return {**found, "accepted": found["accepted"] + images, "is_open": True}

    expiry = {} if cloud.has(Guard.ITEMS_LIVE_AS_LONG_AS_JOBS) else {"expires_at": cloud.clock() + 86_400}
    items = [Write((job, f"PACK#{pack}"), partial(_put, {**item, **expiry}), not_) for pack, item in packs.items()]
    writes, token = [*items, Write((job, "JOB"), counted, may_accept), *more], f"accept {cloud.new_id()}"
    for _ in range(TRIES):
        try:
            transact(cloud, writes, token)
        except RefusedError as error:
            existing = [pack for at, pack in enumerate(packs) if at in error.writes]
            return ("existed", existing) if existing else ("refused", list(packs))
        except CLOUD_ERRORS:
            continue
        return "stood", list(packs)
    return "unknown", list(packs)


def _put(item: Item, _: Item) -> Item:
    return item


def request_of(job: str, pack: int, item: Item, positions: Sequence[int], attempt: int = 0) -> Request:
    """Return a request for positions of a pack."""
    return Request(job, pack, item["key"], item["model"], tuple(positions), attempt, sources=item.get("sources", ()))


def results_key(job: str, pack: int) -> str:
    """Return the key of the results object of a pack."""
    return f"{job}/{pack}.jsonl"


def store_lines(cloud: Cloud, job: str, pack: int, lines: Lines) -> Lines:
    """Merge lines into the results object of a pack, and return what stands there.

    The first put demands that there is none, a later one that it is still the one that was read. A put whose reply
    was lost finds its own lines, and is done.
    """
    key = results_key(job, pack)
    with suppress(RefusedError):
        cloud.outputs.put(key, dict(lines), is_new=True)
        return lines
    while True:
        held = cloud.outputs.get(key)
        if held is None:  # the job was deleted
            return lines
        merged = merge_lines(held.body, lines, cloud.guards)
        if merged == held.body:
            return merged
        with suppress(RefusedError):
            cloud.outputs.put(key, merged, etag=held.etag if cloud.has(Guard.LINES_ARE_MERGED) else None)
            return merged


def read_lines(cloud: Cloud, job: str, pack: int) -> Lines:
    """Return the lines of the results object of a pack."""
    held = cloud.outputs.get(results_key(job, pack))
    return {} if held is None else held.body


def record(
    cloud: Cloud,
    job: str,
    pack: int,
    lines: Lines,
    *,
    change: Callable[[Item], Item] = lambda result: result,
    counts: Mapping[str, object] | None = None,
    fence: Sequence[Write] = (),
) -> Item:
    """Merge lines into RESULT# on the condition of its version, add the difference to the counts; return the item.

    If the outcome is unknown it is read again: a write that stood leaves nothing to change.

    Args:
        change: what else becomes of the item, each time that it was read.
        counts: attributes that the job gets with it.
        fence: conditions of the writer's tenure.

    Raises:
        JobGoneError: the job was deleted.
        RefusedError: the tenure is over, or others always were faster.
    """
    error: Exception = RefusedError()
    for _ in range(TRIES):
        before = cloud.table.get(job, f"RESULT#{pack}")
        merged = merge_lines(before.get("lines", {}), lines, cloud.guards)
        after = change({**before, **({"lines": merged} if merged else {})})
        if after == before:
            return before
        after["version"] = before.get("version", 0) + 1
        writes = [_result_write(cloud, (job, pack), before, after), _count_write(job, before, after, counts or {})]
        try:
            transact(cloud, [*writes, *fence], f"record {cloud.new_id()}")
        except RefusedError as refused:
            if 1 in refused.writes:
                raise JobGoneError from None
            if 2 in refused.writes:
                raise
            error = RefusedError()
        except CLOUD_ERRORS as unknown:
            error = unknown
        else:
            return after
    raise error


def _result_write(cloud: Cloud, place: tuple[str, int], before: Item, after: Item) -> Write:
    def is_unchanged(found: Item) -> bool:
        return found.get("version") == before.get("version") or not cloud.has(Guard.RESULTS_HAVE_VERSIONS)

    return Write((place[0], f"RESULT#{place[1]}"), lambda _: after, is_unchanged)


def _count_write(job: str, before: Item, after: Item, more: Mapping[str, object]) -> Write:
    (was_done, had_failed), (done, failed) = count_lines(before), count_lines(after)

    def counted(found: Item) -> Item:
        sums = {"done": found["done"] + done - was_done, "failed": found["failed"] + failed - had_failed}
        return {**found, **sums, "is_open": True, **more}

    return Write((job, "JOB"), counted, is_living)


def is_living(job: Item) -> bool:
    """Return whether a job exists and is not being deleted."""
    return bool(job) and not job.get("is_deleted")
