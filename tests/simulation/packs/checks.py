"""What must hold of packs at any moment, at each reply, and when everything has come to rest."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.simulation.packs.controller import Controller
from tests.simulation.packs.rules import (
    CHILDREN,
    MAX_MESSAGES,
    MAX_TRIES,
    Line,
    Request,
    asked_attempt,
    count_lines,
    is_final,
    open_places,
    pack_of,
    place_of,
)
from tests.simulation.packs.services import Item, Stored
from tests.simulation.packs.store import File, results_key

if TYPE_CHECKING:
    from tests.simulation.packs.clients import Sent
    from tests.simulation.packs.web import Reply
    from tests.simulation.packs.world import World


@dataclass
class Checks:
    """The promises of a world.

    Attributes:
        labels: those that were visible.
        stored: results objects as they were last, and when one of a job changed, as a number of calls.
    """

    world: "World"
    labels: dict[str, dict[int, Line]] = field(default_factory=dict)
    stored: dict[str, Stored] = field(default_factory=dict)
    stored_at: Counter[str] = field(default_factory=Counter)

    def packs(self, job: str) -> Iterator[tuple[int, Item, Item]]:
        """Return id, PACK# and RESULT# of each pack of a job."""
        items = self.world.cloud.table.items
        for (held, name), item in list(items.items()):
            if held == job and name.startswith("PACK#"):
                pack = int(name.removeprefix("PACK#"))
                yield pack, item, items.get((job, f"RESULT#{pack}"), {})

    def check_reply(self, sent: "Sent", reply: "Reply") -> None:
        """A reply names every file; each accepted one has an item and an object, and is one image."""
        if sent.job in self.world.clients.deleted or not reply:
            return
        assert set(reply) == {file.name for file in sent.files}, f"a part is named: {reply}"
        for name, image in reply.items():
            before = sent.images.get(name)
            is_late = image is None and sent.key.startswith("forms")  # nothing had been put yet
            assert before in {None, image} or is_late, f"{name} was {before}, is {image}"
            self._check_image(sent, name, image, at_reply=True)

    def _check_image(self, sent: "Sent", name: str, image: int | None, *, at_reply: bool) -> None:
        if image is None:
            return
        pack, place = pack_of(image), place_of(image)
        item = self.world.cloud.table.items.get((sent.job, f"PACK#{pack}"), {})
        result = self.world.cloud.table.items.get((sent.job, f"RESULT#{pack}"), {})
        assert item.get("names", ())[place : place + 1] == (name,), f"{name} is not image {image}"
        content = {file.name: file.content for file in sent.files}[name]
        is_same = item["contents"][place] == content or sent.key.startswith("forms")
        assert is_same, f"{name} is {item['contents'][place]}, its client sent {content}"
        if at_reply and not is_settled(item, result):
            assert item["key"] in self.world.cloud.inputs.objects, f"{name} is accepted without object"

    def check_always(self) -> None:
        """Labels stay, bytes are those accepted and there while they are needed, workers end by poison alone."""
        world = self.world
        assert not world.failed_workers, "an object of a user or a model ended a worker"
        for (job, image), deaths in world.deaths.items():
            result = world.cloud.table.items.get((job, f"RESULT#{pack_of(image)}"), {})
            # One for a request that is not suspect and one for its copy; a retry of a cancelled image is not suspect.
            allowed = 2 * (1 + asked_attempt(result, place_of(image)))
            assert deaths <= allowed, f"{image} of {job} ended {deaths} workers"
        for job in set(world.clients.jobs) - world.clients.deleted:
            for pack, item, result in self.packs(job):
                self._check_bytes(job, item, result)
                self._check_labels(job, pack, result)
        if not world.cloud.requests.messages:
            wanted = Controller(world.cloud).demand()
            assert not wanted, f"workers are wanted for {wanted} images without a message"

    def _check_bytes(self, job: str, item: Item, result: Item) -> None:
        is_over = is_settled(item, result) and not self.world.cloud.table.items[job, "JOB"]["is_kept"]
        held = self.world.cloud.inputs.objects.get(item["key"])
        if held is None:
            assert is_over or "sources" in item, f"the object of {item} is gone, it has {result}"
        elif not is_over:
            assert held.body == item["contents"], f"{item['contents']} were accepted, there is {held}"

    def _check_labels(self, job: str, pack: int, result: Item) -> None:
        lines, key = result.get("lines", {}), results_key(job, pack)
        stored = self.world.cloud.outputs.objects.get(key)
        if stored is not None and stored is not self.stored.get(key):
            self.stored[key], self.stored_at[job] = stored, self.world.scheduler.calls
        labels = {place: line for place, line in lines.items() if line.status == "done"}
        before = self.labels.get(key, {})
        assert before.items() <= labels.items(), f"labels {before} of {job} became {lines}"
        self.labels[key] = labels

    def check_rest(self) -> None:
        """Everything is answered, agrees, and nothing is left over."""
        world, cloud = self.world, self.world.cloud
        for queue in (cloud.requests, cloud.responses, cloud.letters):
            assert not queue.messages, f"left in a queue: {list(queue.messages.values())[:3]}"
        for job in world.clients.jobs:
            if cloud.table.items.get((job, "JOB"), {"is_deleted": True}).get("is_deleted"):
                held = [key for key in cloud.table.items if key[0] == job]
                stored = [key for key in (*cloud.inputs.objects, *cloud.outputs.objects) if key.startswith(f"{job}/")]
                assert not held and not stored, f"left of a deleted job: {held[:3]} {stored[:3]}"
            else:
                self._check_job(job)
        for sent in [each for each in world.clients.sent if each.job not in world.clients.deleted]:
            for name, image in sent.images.items():
                self._check_image(sent, name, image, at_reply=False)
        self._check_messages()

    def _check_job(self, job: str) -> None:
        item = self.world.cloud.table.items[job, "JOB"]
        packs = list(self.packs(job))
        assert not item["is_open"], f"{job} is open for ever: {item}"
        counts = [(len(each["names"]), *count_lines(result)) for _, each, result in packs]
        seen = [sum(column) for column in zip(*counts, strict=True)] or [0, 0, 0]
        stored = [item[name] for name in ("accepted", "done", "failed")]
        assert seen == stored, f"{job} counts {stored}, its items are {seen}"
        names = Counter(name for _, each, _ in packs for name in each["names"])
        assert max(names.values(), default=1) == 1, f"a file is two images: {names.most_common(1)}"
        if item["has_source"]:
            objects = {key for key in self.world.cloud.sources.objects if key.startswith(f"{job}/")}
            assert objects <= set(names) | self.world.clients.troubled, f"not imported: {objects - set(names)}"
        for pack, each, result in packs:
            self._check_pack(job, pack, each, result, is_kept=item["is_kept"])
        named = {each["key"] for _, each, _ in packs}
        orphans = [key for key in self.world.cloud.inputs.objects if key.startswith(f"{job}/") and key not in named]
        assert not orphans, f"objects without an item: {orphans}"

    def _check_pack(self, job: str, pack: int, item: Item, result: Item, *, is_kept: bool) -> None:
        assert not open_places(item, result), f"no answer for ever: {item['names']} {result}"
        held = self.world.cloud.outputs.objects[results_key(job, pack)].body
        # No rule finds the label of a worker that stood still until its job was closed, and died before it answered.
        is_late = self.world.kills and self.stored_at[job] > self.world.last_reading.get(job, 0)
        assert held == result["lines"] or is_late, f"item {result['lines']}, object {held}"
        if "sources" not in item and (is_kept or is_settled(item, result)):
            assert (item["key"] in self.world.cloud.inputs.objects) == is_kept, f"{item} should be kept: {is_kept}"
        for place, line in result["lines"].items():
            self._check_line(job, pack + place, File(item["names"][place], item["contents"][place]), line, item)

    def _check_line(self, job: str, image: int, file: File, line: Line, item: Item) -> None:
        (kind, number), code = file.content, line.value
        if line.status == "done":
            is_right = code == f"label-{number}" and kind not in {"broken", "poison", "hang", "machine"}
            assert is_right, f"{file} is {line}"
            return
        children, deaths = self.world.children[job, image], self.world.deaths[job, image]
        is_seen = kind in {"poison", "hang"} and children >= CHILDREN
        is_justified = (
            (code == "crashed_worker" and (is_seen or self.world.interrupted[job, image] >= MAX_TRIES))
            or (code == "undecodable" and kind == "broken")
            or (code == "cancelled" and job in self.world.clients.cancelled)
            or (code == "model_failed" and item["model"] == "broken")
            or (code.startswith("source_") and file.name in self.world.clients.troubled)
        )
        assert is_justified, f"innocent: {file} is {line} after {children} children, {deaths} deaths"

    def _check_messages(self) -> None:
        """Requests are few: three of a pack and attempt, and those of a split; not counted is what was given back."""
        sent: Counter[tuple[str, int, int]] = Counter()
        splits: Counter[tuple[str, int]] = Counter()
        for request in self.world.cloud.requests.sent:
            for place in request.positions if isinstance(request, Request) else ():
                image = request.job, request.pack + place
                sent[*image, request.attempt] += request.reason in {"accepted", "again"}
                splits[image] += request.reason == "split"
        for each, count in sent.items():
            assert count <= MAX_MESSAGES, f"{count} requests of {each}"
            splits[each[:2]] -= count
        more = self.world.kills + self.world.faults.met  # a split that is interrupted is repeated
        assert max(splits.values(), default=0) <= more, f"too many messages of splits: {splits.most_common(3)}"


def is_settled(item: Item, result: Item) -> bool:
    """Return whether each image of a pack is done or failed for good."""
    lines = result.get("lines", {})
    return bool(item) and all(is_final(lines.get(place)) for place in range(len(item["names"])))
