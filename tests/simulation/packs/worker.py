"""A worker: results object, response, then the request is deleted; and what follows if an image ends the worker.

1. The first receive of a request that is not suspect: batches in the worker itself.
2. Each later one: what stands is the answer; the rest one by one in a child process, without credentials.
3. Three children in a row that end at one image, each of which had answered a grey picture: `crashed_worker`.
4. A model is tried in such a child before the worker loads it; three ends are the model's failure.
5. What is given back is a new message, after its lines are stored. A hang is left for the visibility timeout.
6. A pack that ends the whole worker is replaced, at its sixth receive, by messages of one image, also a pack of one.
   The worker records each try of such a message before it begins; six tries of one message are `crashed_worker`.
7. A message that is no request is a dead letter at its fifth receive.
"""

from collections.abc import Mapping
from contextlib import suppress
from typing import Final

from botocore.exceptions import ClientError

from services.table import CLOUD_ERRORS
from tests.simulation.packs.machine import Content, Machine
from tests.simulation.packs.rules import CHILDREN, MAX_TRIES, SPLIT_RECEIVES, Guard, Line, Lines, Request, is_answer
from tests.simulation.packs.services import Message, RefusedError
from tests.simulation.packs.store import Cloud, read_lines, store_lines

BATCH: Final = 2
VISIBILITY_SECONDS: Final = 30.0
GIVEN_BACK_SECONDS: Final = 60.0
"""Pause of a worker after a fault of the system, as of the circuit breaker."""
Contents = Mapping[int, Content | Line]
"""What a worker fetched by the place in the pack: a picture, or why there is none."""


class DrainError(Exception):
    """Raised in a worker that is to end."""


class MachineFaultError(Exception):
    """Raised when a worker cannot work for a reason that is no image's and no model's."""


class HungError(Exception):
    """Raised when a batch hangs."""


class Worker:
    """Works off one message at a time."""

    def __init__(self, cloud: Cloud, machine: Machine, name: str) -> None:
        self._cloud, self._machine, self._name = cloud, machine, name
        self._models: set[str] = set()
        self._has_child = False

    def tick(self) -> float:
        """Receive messages and work them off; return the seconds until the next receive."""
        cloud = self._cloud
        timeout = cloud.random.uniform(VISIBILITY_SECONDS, 2 * VISIBILITY_SECONDS)
        deliveries = cloud.requests.receive(2, timeout)
        cloud.heartbeats[self._name] = [each.id for each in deliveries]
        pauses = [self._handle(each) for each in deliveries]
        cloud.heartbeats[self._name] = []
        return max(pauses, default=1.0)

    def _handle(self, delivery: Message) -> float:
        cloud, request = self._cloud, delivery.body
        if not isinstance(request, Request):
            if delivery.receives >= 5:
                cloud.letters.send(request)
                cloud.requests.delete(delivery.id)
            return 1.0
        lines: dict[int, Line] = {}
        try:
            self._work_off(request, delivery, lines)
        except HungError:
            return 1.0
        except (DrainError, MachineFaultError, *CLOUD_ERRORS) as error:
            self._give_back(request, delivery, lines)
            return 0.0 if isinstance(error, DrainError) else GIVEN_BACK_SECONDS
        return 0.0

    def _work_off(self, request: Request, delivery: Message, lines: dict[int, Line]) -> None:
        """Put lines into `lines` as they come, and answer."""
        cloud, is_later = self._cloud, self._is_later(request, delivery)
        stands: Lines = read_lines(cloud, request.job, request.pack) if is_later else {}
        wanted = _unanswered(request, stands)
        if not wanted:
            self._respond(request, stands, delivery)
            return
        if delivery.receives >= SPLIT_RECEIVES and not request.is_alone:
            self._split(request, delivery, wanted)
            return
        contents = self._fetch(request, wanted)
        if self._is_model_broken(request.model):
            lines |= {place: Line("failed", request.attempt, "model_failed") for place in wanted}
        elif request.is_alone and self._is_judged(request, delivery):
            lines |= {place: Line("failed", request.attempt, "crashed_worker") for place in wanted}
        elif is_later:
            self._work_in_child(request, contents, lines)
        else:
            self._work_in_batches(request, contents, lines)
        self._respond(request, store_lines(cloud, request.job, request.pack, lines), delivery)

    def _is_later(self, request: Request, delivery: Message) -> bool:
        is_redelivered = delivery.receives > 1 and self._cloud.has(Guard.REDELIVERIES_RUN_IN_A_CHILD)
        return is_redelivered or request.is_suspect or request.is_alone

    def _respond(self, request: Request, stands: Lines, delivery: Message | None = None) -> None:
        """Answer with what stands; the request is deleted if that is all."""
        self._cloud.responses.send((request.job, request.pack, dict(stands)))
        if delivery is not None:
            self._cloud.requests.delete(delivery.id)

    def _fetch(self, request: Request, wanted: list[int]) -> Contents:
        """Return the content of each image, or its failure if it cannot be read."""
        if request.sources:
            return {place: self._fetch_source(request, place) for place in wanted}
        held = self._cloud.inputs.get(request.key)
        if held is None:
            stands = read_lines(self._cloud, request.job, request.pack)
            return {place: stands.get(place, Line("failed", request.attempt, "gone")) for place in wanted}
        return {place: held.body[place] for place in wanted}

    def _fetch_source(self, request: Request, place: int) -> Content | Line:
        """Read an image in place; a refusal is the image's failure, if a read of our own bucket works."""
        key, etag = request.sources[place]
        try:
            held = self._cloud.sources.get(key)
        except ClientError as error:
            if error.response["Error"]["Code"] != "AccessDenied":
                raise
            if not self._cloud.has(Guard.SOURCES_FAIL_ALONE):
                self._machine.fail()
            self._cloud.inputs.get(request.key)
            return Line("failed", request.attempt, "source_refused")
        if held is None or held.etag != etag:
            return Line("failed", request.attempt, "source_changed" if held else "source_gone")
        content: Content = held.body
        return content

    def _is_model_broken(self, model: str) -> bool:
        """Try a model before it is loaded for the first time."""
        if model in self._models:
            return False
        if self._cloud.has(Guard.MODELS_ARE_TRIED):
            if not any(self._machine.answers_grey(model, is_second=False) for _ in range(CHILDREN)):
                return True
        elif not self._machine.answers_grey(model, is_second=False):
            self._machine.fail()
        self._models.add(model)
        return False

    def _work_in_batches(self, request: Request, contents: Contents, lines: dict[int, Line]) -> None:
        places = list(contents)
        for start in range(0, len(places), BATCH):
            if self._machine.is_draining:
                raise DrainError
            part = places[start : start + BATCH]
            batch = [self._classify(request, place, contents, in_child=False) for place in part]
            if None in batch:
                raise HungError
            lines |= {place: line for place, line in zip(part, batch, strict=True) if line is not None}

    def _work_in_child(self, request: Request, contents: Contents, lines: dict[int, Line]) -> None:
        """Work off images one by one; what stands is stored and answered before an image has its second child."""
        for place in contents:
            if self._machine.is_draining:
                raise DrainError
            for ended in range(CHILDREN):
                if ended == 1 and lines:
                    self._respond(request, store_lines(self._cloud, request.job, request.pack, lines))
                is_evidence = self._begin_child(request.model)
                line = self._classify(request, place, contents, in_child=True) if is_evidence else None
                if line is not None:
                    lines[place] = line
                    break
                self._has_child = False
            else:
                lines[place] = Line("failed", request.attempt, "crashed_worker")

    def _begin_child(self, model: str) -> bool:
        """Begin a child, unless there is one; return False if its end counts against an image, wrongly.

        Raises:
            MachineFaultError: it ends at a grey picture, as without memory for a second network.
        """
        if not self._has_child:
            self._has_child = self._machine.answers_grey(model, is_second=True)
            if not self._has_child and self._cloud.has(Guard.GREY_COMES_FIRST):
                raise MachineFaultError
        return self._has_child

    def _classify(self, request: Request, place: int, contents: Contents, *, in_child: bool) -> Line | None:
        content = contents[place]
        if isinstance(content, Line):
            return content
        label = self._machine.classify(content, (request.job, request.pack + place), in_child=in_child)
        if label == "broken":
            return Line("failed", request.attempt, "undecodable")
        return None if label is None else Line("done", request.attempt, label)

    def _is_judged(self, request: Request, delivery: Message) -> bool:
        """Record a try of a message of one image; return True if it had so many that it ends workers."""
        if not self._cloud.has(Guard.TRIES_ARE_RECORDED):
            return delivery.receives >= SPLIT_RECEIVES
        key = f"{request.job}/{request.pack + request.positions[0]}.tries"
        while True:
            held = self._cloud.outputs.get(key)
            tries: frozenset[tuple[int, int]] = held.body if held else frozenset()
            if sum(message == delivery.id for message, _ in tries) >= MAX_TRIES:
                return True
            with suppress(RefusedError):
                recorded = tries | {(delivery.id, delivery.receives)}
                self._cloud.outputs.put(key, recorded, is_new=held is None, etag=held.etag if held else None)
                return False

    def _split(self, request: Request, delivery: Message, wanted: list[int]) -> None:
        """Replace a pack that ends workers by messages of one image each."""
        for place in wanted:
            alone = request._replace(positions=(place,), is_suspect=True, is_alone=True, reason="split")
            self._cloud.requests.send(alone)
        self._cloud.requests.delete(delivery.id)

    def _give_back(self, request: Request, delivery: Message, lines: Lines) -> None:
        """Store and answer the lines so far, send the rest as a new message, delete the old one; leave what fails."""
        stands: Lines = {}
        with suppress(*CLOUD_ERRORS):  # what cannot be stored is worked off again
            if lines:
                stands = store_lines(self._cloud, request.job, request.pack, lines)
                self._respond(request, stands)
        is_suspect = self._is_later(request, delivery) and self._cloud.has(Guard.SUSPICION_STAYS)
        with suppress(*CLOUD_ERRORS):
            if not self._cloud.has(Guard.GIVING_BACK_IS_NO_TRY):
                self._cloud.requests.make_visible(delivery.id)
                return
            if wanted := tuple(_unanswered(request, stands)):
                again = request._replace(positions=wanted, is_suspect=is_suspect, reason="given back")
                self._cloud.requests.send(again)
            self._cloud.requests.delete(delivery.id)


def _unanswered(request: Request, stands: Lines) -> list[int]:
    return [place for place in request.positions if not is_answer(stands.get(place), request.attempt)]
