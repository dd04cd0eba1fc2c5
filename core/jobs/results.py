"""Results and resends of packs: what their items have, how they merge, and the transactions that also count them.

A result replaces a worse one only: `done` beats `failed` and stays, and a later failure beats an earlier one. An item
is written on the condition of the version that was read, and its transaction adds the difference between what both
items count to the counts of the job. So each image is counted once, also if several write its pack at a time.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final, NamedTuple, Self

from pydantic import TypeAdapter

from core.ids import ImageRef, image_id_at, pack_of, place_of
from core.jobs.figures import counts_update
from core.jobs.items import COUNTED_FIGURES, JOBS, RESULT, deflated, inflated, open_item, partition
from core.jobs.models import Resend, ResultSummary
from core.messages import ClassificationResult, Response, Status, is_cancelled
from services.batches import in_batches
from services.table import IS_NEW, READ_BATCH, ConditionCheck, Item, Put, Table, TransactedWrite

MAX_PACKS = 96
"""Packs of a transaction; with the writes for their job and its counts they stay below the maximum."""

_RESENDS: Final = TypeAdapter(dict[int, Resend])


def is_better(result: ClassificationResult, known: ClassificationResult | None) -> bool:
    """Return whether a result replaces the one that is known of its image."""
    if known is None:
        return True
    return known.status == "failed" and (result.status == "done" or result.attempt > known.attempt)


class Answer(NamedTuple):
    """What there is of an image besides its record."""

    result: ClassificationResult | None = None
    resend: Resend | None = None


@dataclass(slots=True)
class PackResults:
    """The results of the images of a pack, and the requests that were sent again, by image id.

    Attributes:
        version: how often its item was written.
        known: what the item had that these come to, if it was read; the first write needs no read.
    """

    job_id: str
    pack_id: str
    results: dict[str, ClassificationResult] = field(default_factory=dict)
    resends: dict[str, Resend] = field(default_factory=dict)
    version: int = 0
    known: "PackResults | None" = None

    @classmethod
    def in_item(cls, item: Item) -> Self:
        """Return the results of an item."""
        pack_id = str(item["sk"]).removeprefix(RESULT)
        found = unpacked_results(str(item["results"])) if "results" in item else ()
        resends = _RESENDS.validate_json(str(item["resent"])) if "resent" in item else {}
        return cls(
            str(item["pk"]).partition("#")[2],
            pack_id,
            {each.image_id: each for each in found},
            {image_id_at(pack_id, place): each for place, each in resends.items()},
            int(item["version"]),
        )

    def _item(self, version: int) -> Item:
        pk, sk, results = partition(self.job_id), f"{RESULT}{self.pack_id}", tuple(self.results.values())
        item: dict[str, str | int] = {"pk": pk, "sk": sk, "version": version}
        if results:
            item |= {"results": _packed(results), "states": " ".join(map(_state, results))}
        if self.resends:
            resends = {place_of(image_id): each for image_id, each in self.resends.items()}
            item["resent"] = _RESENDS.dump_json(resends).decode()
        return item

    def before(self, result: ClassificationResult) -> ClassificationResult | None:
        """Return the known result of the same image."""
        return None if self.known is None else self.known.results.get(result.image_id)

    def merged(self) -> dict[str, ClassificationResult]:
        """Return what is known with the new results."""
        return self.results if self.known is None else self.known.results | self.results

    def merge(self, known: "PackResults | None") -> None:
        """Set what is known; drop the results that are no better."""
        self.known = known
        self.results = {each.image_id: each for each in self.results.values() if is_better(each, self.before(each))}

    def change(self) -> tuple[Put, Sequence[int]]:
        """Return the put of what is known with what is new, and what it adds to the counts, as `figures`."""
        if (known := self.known) is None:
            return Put(self._item(version=1), condition=IS_NEW), self.figures()
        merged = replace(
            self,
            results=self.merged(),
            resends=known.resends
            | {each: resend.after(known.resends.get(each)) for each, resend in self.resends.items()},
        )
        put = Put(merged._item(known.version + 1), condition="#version = :before", values={"before": known.version})
        return put, [now - before for now, before in zip(merged.figures(), known.figures(), strict=True)]

    def figures(self) -> tuple[int, ...]:
        """Return what the images add to the counts of their job, in the order of `COUNTED_FIGURES`."""
        results, resends = self.results.values(), self.resends.values()
        done = [each.status for each in results].count("done")
        retried = self.resends.keys() | {each.image_id for each in results if each.attempts > 1}
        cancelled, times = sum(map(is_cancelled, results)), sum(each.times for each in resends)
        attempts = [each.attempt for each in results]
        answered_packs = max(attempts) + 1 if attempts else 0
        return done, len(results) - done, cancelled, len(retried), times, answered_packs, sum(attempts)


def _packed(results: Sequence[ClassificationResult]) -> str:
    """Return results as text: those of 50 images have an eighth of their bytes then."""
    return deflated(Response(results=tuple(results)).to_json())


def unpacked_results(text: str) -> Sequence[ClassificationResult]:
    """Return the results in the attribute `results` of an item."""
    return Response.from_json(inflated(text)).results


def _state(result: ClassificationResult) -> str:
    """Return the summary of a result as one word of the attribute `states`."""
    code = "c" if is_cancelled(result) else result.status[0]
    return f"{place_of(result.image_id)}:{code}:{result.attempt}:{result.attempts}"


def answers_in(item: Item) -> dict[str, Answer]:
    """Return the results and resends of an item by image id."""
    pack = PackResults.in_item(item)
    ids = dict.fromkeys((*pack.results, *pack.resends))
    return {image_id: Answer(pack.results.get(image_id), pack.resends.get(image_id)) for image_id in ids}


def summaries_in(item: Item) -> dict[str, ResultSummary]:
    """Return the summaries of the results of an item by image id, without reading the results."""
    pack_id, found = str(item["sk"]).removeprefix(RESULT), dict[str, ResultSummary]()
    for state in str(item.get("states", "")).split():
        place, code, attempt, attempts, *_ = state.split(":")
        status: Status = "done" if code == "d" else "failed"
        found[image_id_at(pack_id, int(place))] = ResultSummary(status, int(attempt), int(attempts), code == "c")
    return found


@dataclass
class JobResults:
    """New results and resends of images of one job, which are recorded in one transaction."""

    job_id: str
    packs: list[PackResults]

    @classmethod
    def of(
        cls, job_id: str, results: Iterable[ClassificationResult] = (), resends: Mapping[str, Resend] | None = None
    ) -> Self:
        """Return what is new of images of a job: at most one result of each, and the resends by image id."""
        new: dict[str, PackResults] = {}

        def pack(image_id: str) -> PackResults:
            return new.setdefault(pack_id := pack_of(image_id), PackResults(job_id, pack_id))

        for each in results:
            pack(each.image_id).results[each.image_id] = each
        for image_id, resend in (resends or {}).items():
            pack(image_id).resends[image_id] = resend
        return cls(job_id, list(new.values()))

    def parts(self, packs: int = MAX_PACKS) -> list[Self]:
        """Return these in parts of up to so many packs, for one transaction each."""
        return [replace(self, packs=some) for some in in_batches(self.packs, packs)]

    @property
    def results(self) -> list[ClassificationResult]:
        """The new results."""
        return [each for pack in self.packs for each in pack.results.values()]

    @property
    def refs(self) -> list[ImageRef]:
        """The images of which something is new."""
        images = (image_id for pack in self.packs for image_id in (*pack.results, *pack.resends))
        return [ImageRef(self.job_id, image_id) for image_id in images]

    def writes(self, token: int, run: int, at: datetime) -> list[TransactedWrite]:
        """Return the writes of a controller with a fencing `token`, in the billing period `run`.

        A check fails if the job does not exist, the update of its counts if a later controller has written, and the
        put of a pack if another one has written its results.
        """
        puts, differences = zip(*(pack.change() for pack in self.packs), strict=True)
        figures = dict(zip(COUNTED_FIGURES, map(sum, zip(*differences, strict=True)), strict=True))
        counted = counts_update(
            self.job_id, token, figures, answers=len(self.answers()), run=run, at=at if self.changed() else None
        )
        writes = [ConditionCheck(JOBS, self.job_id, condition="attribute_exists( #pk )"), counted, *puts]
        if any(pack.before(each) for pack in self.packs for each in pack.results.values()):
            writes.append(Put(open_item(self.job_id, at)))  # the file with all results must be written again
        return writes

    def changed(self) -> list[ClassificationResult]:
        """Return the results that give their image another status."""
        found = ((each, pack.before(each)) for pack in self.packs for each in pack.results.values())
        return [each for each, before in found if before is None or before.status != each.status]

    def answers(self) -> list[ClassificationResult]:
        """Return the results of workers. Cancelled images had no share of the workers' time."""
        return [each for each in self.results if not is_cancelled(each)]

    def read_again(self, table: Table, refused: Iterable[Put] | None = None) -> None:
        """Read what there is of packs, or of those with a refused put; drop results that are no better than those.

        The calls are made one after another, since the caller may be a call of the table's pool.
        """
        packs = {(partition(self.job_id), f"{RESULT}{pack.pack_id}"): pack for pack in self.packs}
        keys = list(packs) if refused is None else [(str(put.item["pk"]), str(put.item["sk"])) for put in refused]
        for some in in_batches(keys, READ_BATCH):
            found = {str(item["sk"]): PackResults.in_item(item) for item in table.get_all(some)}
            for key in some:
                packs[key].merge(found.get(key[1]))
        self.packs = [each for each in self.packs if each.results or each.resends]


def best_by_image(results: Iterable[ClassificationResult]) -> dict[ImageRef, ClassificationResult]:
    """Return one result for each image: one that is done if there is any, else the failure of the last attempt."""
    best: dict[ImageRef, ClassificationResult] = {}
    for each in results:
        if is_better(each, best.get(each.ref)):
            best[each.ref] = each
    return best
