"""The controller: collector, reconciler, canceller, importer, dead letters, known deaths, closing and sweeping.

Each function is one round of a loop; a tenure's writes carry its fencing token.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from tests.simulation.packs.rules import (
    MAX_MESSAGES,
    Guard,
    Line,
    Lines,
    Request,
    asked_attempt,
    demand,
    is_final,
    open_places,
)
from tests.simulation.packs.services import Item, RefusedError, Write
from tests.simulation.packs.store import (
    Cloud,
    JobGoneError,
    accept,
    is_living,
    new_packs,
    read_lines,
    record,
    request_of,
    store_lines,
)

LOST_AFTER_SECONDS: Final = 60.0
HOUR: Final = 3_600.0
DAY: Final = 86_400.0
LINGER_SECONDS: Final = 3 * DAY
"""Time for which a closed job is swept, and the mark of a deleted one stays."""
PAGE: Final = 5
"""Objects in a page of a listing."""
LEASE: Final = ("", "LEASE")


@dataclass
class Controller:
    """One tenure. What it remembers is only when it saw something first, by its own clock."""

    cloud: Cloud
    on_reading: Callable[[str], None] = lambda job: None
    _tenure: int = 0
    _fence: list[Write] = field(default_factory=list)
    _waiting: dict[tuple[str, int, int], float] = field(default_factory=dict)
    _swept: dict[str, float] = field(default_factory=dict)
    _letters_at: float = 0.0

    def begin(self) -> None:
        """Acquire the lease: a write with another token is refused from now on, so its own are if this fails."""
        token = self._tenure = self.cloud.new_id()
        self._fence = [Write(LEASE, lambda held: held, lambda held: held == {"token": token})]
        self.cloud.table.write(Write(LEASE, lambda _: {"token": token}, lambda held: held.get("token", 0) < token))

    def _packs(self, job: str) -> list[tuple[int, Item, Item]]:
        """Return id, PACK# and RESULT# of each pack."""
        results = self.cloud.table.query(job, "RESULT#")
        return [
            (int(name), item, results.get(name, {})) for name, item in self.cloud.table.query(job, "PACK#").items()
        ]

    def collect(self) -> float:
        """Record responses: RESULT# with its counts, then the object goes, then the response."""
        for delivery in self.cloud.responses.receive(10, 30.0):
            job, pack, lines = delivery.body
            item = self.cloud.table.get(job, f"PACK#{pack}")
            with suppress(JobGoneError):
                if item:
                    self._record(job, pack, item, lines)
            self.cloud.responses.delete(delivery.id)
        return 1.0

    def _record(
        self, job: str, pack: int, item: Item, lines: Lines, change: Callable[[Item], Item] = lambda held: held
    ) -> Item:
        result = record(self.cloud, job, pack, lines, change=change, fence=self._fence)
        self._delete_object(job, item, result)
        return result

    def _delete_object(self, job: str, item: Item, result: Item) -> None:
        """Delete an object that is not kept, once no retry can need it."""
        held = result.get("lines", {})
        lines = [held.get(place) for place in range(len(item["names"]))]
        is_over = all(map(is_final if self.cloud.has(Guard.BYTES_WAIT_FOR_FINAL_LINES) else bool, lines))
        if is_over and not item.get("sources") and not self.cloud.table.get(job, "JOB").get("is_kept"):
            self.cloud.inputs.delete(item["key"])

    def reconcile(self) -> float:
        """Import, cancel, find lost packs, close, sweep and remove, job by job."""
        now = self.cloud.clock()
        for job in self.cloud.table.jobs():
            found = self.cloud.table.get(job, "JOB")
            with suppress(JobGoneError):
                if found.get("is_deleted"):
                    self._remove(job, found)
                elif found and found["is_open"]:
                    self._reconcile_job(job, found)
                is_closed_long = not found.get("is_open") and now - found.get("closed_at", 0.0) > LINGER_SECONDS
                if now - self._swept.get(job, 0.0) >= DAY and not is_closed_long:
                    self._sweep(job)
        if now - self._letters_at >= HOUR:
            self._letters_at = now
            self._request_letters()
        self._release_messages()
        return 5.0

    def _reconcile_job(self, job: str, found: Item) -> None:
        is_whole = self._import_page(job, found)
        for pack, item, result in self._packs(job):
            places = open_places(item, result)
            if places and found.get("is_cancelled"):
                failed = {place: Line("failed", asked_attempt(result, place), "cancelled") for place in places}
                self._record(job, pack, item, store_lines(self.cloud, job, pack, failed))
            for attempt in sorted({asked_attempt(result, place) for place in places}):
                self._find_lost(job, pack, item, result, attempt)
            is_whole &= not places
        if is_whole:
            self._close(job)

    def _find_lost(self, job: str, pack: int, item: Item, result: Item, attempt: int) -> None:
        """Read the results of a pack that is late; request what is still open twice, then hourly if all is quiet.

        The request is counted before it is sent, with the tenure: a controller that was replaced meanwhile finds the
        count of another one, and sends nothing.
        """
        now = self.cloud.clock()
        since = self._waiting.setdefault((job, pack, attempt), now)
        seen = result.get("resent", {}).get(attempt, (0, 0))
        is_quiet = sum(self.cloud.requests.counts()) == 0 and now - since > HOUR
        if now - since <= LOST_AFTER_SECONDS or (seen[0] >= MAX_MESSAGES - 1 and not is_quiet):
            return
        self._waiting[job, pack, attempt] = now
        result = self._record(job, pack, item, read_lines(self.cloud, job, pack))
        mine = (seen[0] + 1, self._tenure)

        def resend(held: Item) -> Item:
            is_same = held.get("resent", {}).get(attempt, (0, 0)) == seen
            return {**held, "resent": {**held.get("resent", {}), attempt: mine}} if is_same else held

        places = [place for place in open_places(item, result) if asked_attempt(result, place) == attempt]
        if places and self._record(job, pack, item, {}, resend)["resent"][attempt] == mine:
            reason = "again" if mine[0] < MAX_MESSAGES else "quiet"
            self._request(request_of(job, pack, item, places, attempt), reason)

    def _request(self, request: Request, reason: str) -> None:
        """Request again what may have ended a worker."""
        is_suspect = self.cloud.has(Guard.SUSPICION_STAYS)
        self.cloud.requests.send(request._replace(is_suspect=is_suspect, reason=reason))

    def _request_letters(self) -> None:
        """Request the open positions of dead letters again, each hour for ever: they are faults of the system."""
        for delivery in self.cloud.letters.receive(10, 30.0):
            request = delivery.body
            if isinstance(request, Request):
                item = self.cloud.table.get(request.job, f"PACK#{request.pack}")
                result = self.cloud.table.get(request.job, f"RESULT#{request.pack}")
                places = [place for place in open_places(item, result) if place in request.positions]
                if places:
                    self._request(request._replace(positions=tuple(places), is_alone=False), "letter")
            self.cloud.letters.delete(delivery.id)

    def _release_messages(self) -> None:
        """Make visible what was held by workers of instances that have ended."""
        for name in sorted(self.cloud.ended if self.cloud.has(Guard.DEATHS_ARE_KNOWN) else ()):
            for message in self.cloud.heartbeats.get(name, []):
                self.cloud.requests.make_visible(message)
            self.cloud.ended.discard(name)

    def _import_page(self, job: str, found: Item) -> bool:
        """Accept a page of a listing and claim it in one transaction; return whether all pages are accepted."""
        listing = self.cloud.table.get(job, "LISTING")
        if not found["has_source"] or listing.get("is_complete"):
            return True
        objects, now = self.cloud.sources.list(f"{job}/")
        names = [key for key in sorted(objects) if key > listing.get("cursor", "")][:PAGE]
        packs = new_packs(self.cloud, job, names, found["accepted"], found["model"])
        for item in packs.values():
            held = [objects[name] for name in item["names"]]
            item |= {"contents": tuple(each.body for each in held), "put_at": now}
            if found["is_kept"]:
                item["put_at"] = self.cloud.inputs.put(item["key"], item["contents"]).modified_at
            else:
                item["sources"] = tuple(zip(item["names"], (each.etag for each in held), strict=True))
        after = {"cursor": names[-1] if names else "", "is_complete": len(names) < PAGE}
        claim = Write((job, "LISTING"), lambda _: after, lambda held: held == listing)
        if packs:
            accept(self.cloud, job, packs, [claim])
        else:
            with suppress(RefusedError):
                self.cloud.table.write(claim)
        return False

    def _update(self, job: str, change: Callable[[Item], Item], seen: Item | None = None) -> bool:
        """Change the item of a living job, if it is still the one that was seen; return whether it was.

        Raises:
            RefusedError: the tenure is over.
        """

        def is_same(held: Item) -> bool:
            return is_living(held) and (seen is None or held == seen)

        try:
            self.cloud.table.transact([Write((job, "JOB"), change, is_same), *self._fence], f"{self.cloud.new_id()}")
        except RefusedError as error:
            if 1 in error.writes:
                raise
            return False
        return True

    def _close(self, job: str) -> None:
        """Close a job of which all images are answered, as it was read before all its items were."""
        self._sweep(job)
        seen = self.cloud.table.get(job, "JOB")
        if not seen or seen["done"] + seen["failed"] != seen["accepted"] or not seen["is_open"]:
            return
        self.on_reading(job)
        for pack, item, result in self._packs(job):
            if open_places(item, result):
                return
            if self.cloud.has(Guard.FAILURES_ARE_READ_AGAIN) and not all(map(is_final, result["lines"].values())):
                self._record(job, pack, item, read_lines(self.cloud, job, pack))
        self._update(job, lambda held: {**held, "is_open": False, "closed_at": self.cloud.clock()}, seen)

    def _sweep(self, job: str) -> None:
        """Delete objects that no item names and that are older than a day by S3's clock, and those that may go.

        From when they are too old to be accepted is stored first, then the items are read.
        """
        before = self.cloud.inputs.list(f"{job}/")[1] - DAY
        is_swept = self._update(
            job, lambda held: {**held, "swept_before": max(before, held.get("swept_before", before))}
        )
        named = {item["key"]: (item, result) for _, item, result in self._packs(job)}
        if not is_swept:
            return
        for key, held in self.cloud.inputs.list(f"{job}/")[0].items():
            if key in named:
                self._delete_object(job, *named[key])
            elif held.modified_at < before:
                self.cloud.inputs.delete(key)
        self._swept[job] = self.cloud.clock()

    def _remove(self, job: str, found: Item) -> None:
        """Delete what belongs to a deleted job, in each round; the mark goes last."""
        for bucket in (self.cloud.inputs, self.cloud.outputs):
            for key in bucket.list(f"{job}/")[0]:
                bucket.delete(key)
        for kind in ("PACK#", "RESULT#", "KEY#", "LISTING"):
            for name in self.cloud.table.query(job, kind):
                self.cloud.table.write(Write((job, f"{kind}{name}"), lambda _: None))
        if self.cloud.clock() - found["deleted_at"] > LINGER_SECONDS:
            self.cloud.table.write(Write((job, "JOB"), lambda _: None))

    def demand(self) -> float:
        """Return the images that wait for workers, as the autoscaler counts them."""
        packs = [each for job in self.cloud.table.jobs() for each in self._packs(job)]
        outstanding = [len(places) for _, item, result in packs if (places := open_places(item, result))]
        return demand(sum(self.cloud.requests.counts()), outstanding, self.cloud.guards)
