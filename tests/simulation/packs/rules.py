"""The rules that need no service: guards, ids, lines and how they merge, the size of a pack, demand.

These rules replace what schedules of this model broke:

- "An acceptance refuses old objects": a process may stand still after that check. The sweep stores in the job from
  when on objects are young, by S3's clock, and the transaction refuses older ones (`SWEEP_IS_SEEN`).
- "A job is swept when it closes and daily while it is open": an upload into a closed job may die. It opens the job
  before its first object, and a job is swept until three days after it closed (`CLOSED_JOBS_ARE_SWEPT`).
- "Giving back is a new message": its poison ends one more worker each time. It stays suspect (`SUSPICION_STAYS`).
- "A single image's sixth receive": lost replies are receives. Recorded tries count instead (`TRIES_ARE_RECORDED`).
- "A commit copies once": a later one would bring back bytes that were deleted, if it did not read PACK# first.
- "Three messages": a count names its tenure, since a controller that was replaced finds its own number there, too.
"""

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, Final, NamedTuple

SLOT: Final = 64
"""Positions that belong to one pack: an image's place is the low six bits of its position."""
MAX_IMAGES: Final = 4
"""Images of a pack, here; 50 in the product."""
FIRST_SHARE: Final = 2
"""A pack has at most this part of what its job has had; an eighth in the product."""
SPLIT_RECEIVES: Final = 6
MAX_TRIES: Final = 6
CHILDREN: Final = 3
"""Children that must end in a row before an image or a model is failed."""
MAX_MESSAGES: Final = 3
"""Requests of a pack and attempt, not counting the messages of a split."""
FINAL: Final = frozenset({"undecodable"})
"""Failures that no retry changes."""


class Guard(Enum):
    """What protects from what; a test takes out each one and sees a promise broken."""

    REQUESTS_ARE_CLAIMED = "The first request with a key claims all its packs; a repeat completes exactly these."
    BORDERS_ARE_CLAIMED = "The claim holds the borders of packs; they are not computed again."
    SWEEP_IS_SEEN = "An acceptance is refused if its objects were old enough for a sweep of the job."
    CLOSED_JOBS_ARE_SWEPT = "An upload opens its job first, and closed jobs are swept for three days."
    FORMS_ARE_COPIED = "A commit copies the object of a form to a new key, which no form can write."
    GIVING_BACK_IS_NO_TRY = "What a worker gives back is a new message."
    MODELS_ARE_TRIED = "A child loads a model and answers a grey picture before the worker loads it."
    REDELIVERIES_RUN_IN_A_CHILD = "From its second receive on a pack is worked off in a child process."
    GREY_COMES_FIRST = "A child that ends before it has answered a grey picture is no evidence against an image."
    SUSPICION_STAYS = "A request for what may have ended a worker is marked, also when it is sent anew."
    TRIES_ARE_RECORDED = "What ends the whole worker is judged by recorded tries, not by receives."
    LINES_ARE_MERGED = "Lines are merged into the results object on the condition that it is the one that was read."
    RESULTS_HAVE_VERSIONS = "RESULT# is written on the condition of the version that was read."
    COUNTS_MOVE_WITH_ITEMS = "One transaction writes an item and adds the difference to the job's counts."
    SOURCES_FAIL_ALONE = "A refusal by a user's bucket is the failure of one image."
    FAILURES_ARE_READ_AGAIN = "Before a job closes, results with failures that are not final are read again."
    ITEMS_LIVE_AS_LONG_AS_JOBS = "No item of a living job expires."
    LATER_ATTEMPTS_WIN = "A line of a later attempt replaces the failure of an earlier one."
    DONE_WINS = "A label is never replaced."
    BYTES_WAIT_FOR_FINAL_LINES = "An image that is not kept goes when its whole pack is done or failed for good."
    DEMAND_HAS_MESSAGES = "Without a message there is no demand."
    PACKS_HAVE_SLOTS = "Each pack begins at a slot of its own."
    DEATHS_ARE_KNOWN = "When an instance has ended, the messages in its heartbeat are made visible at once."


Guards = frozenset[Guard]
ALL: Final = frozenset(Guard)


class Line(NamedTuple):
    """The result of one image in one attempt: `done` with its label, or `failed` with a code."""

    status: str
    attempt: int
    value: str


Lines = Mapping[int, Line]
"""Lines by the place of the image in its pack."""


class Request(NamedTuple):
    """A request: a pack, positions, attempt; all that a worker needs, which reads no table.

    `is_suspect` sends it to a child at once. `is_alone`: it is one image of a pack that was split.
    """

    job: str
    pack: int
    key: str
    model: str
    positions: tuple[int, ...]
    attempt: int = 0
    is_suspect: bool = False
    is_alone: bool = False
    sources: tuple[tuple[str, str], ...] = ()
    reason: str = "accepted"


def pack_of(image: int) -> int:
    """Return the pack of an image id."""
    return image & ~(SLOT - 1)


def place_of(image: int) -> int:
    """Return the place of an image in its pack."""
    return image & (SLOT - 1)


def is_final(line: Line | None) -> bool:
    """Return whether no retry can change a line."""
    return line is not None and (line.status == "done" or line.value in FINAL)


def is_answer(line: Line | None, attempt: int) -> bool:
    """Return whether a line answers this attempt."""
    return line is not None and (line.status == "done" or line.attempt >= attempt)


def merge_lines(held: Lines, more: Lines, guards: Guards = ALL) -> dict[int, Line]:
    """Return what stands: `done` beats `failed`, a later attempt an earlier one, an equal one stays."""

    def is_better(line: Line, than: Line) -> bool:
        if Guard.DONE_WINS not in guards:
            return (line.attempt, line.status == "done") > (than.attempt, than.status == "done")
        if "done" in {line.status, than.status}:
            return than.status != "done"
        return line.attempt > than.attempt and Guard.LATER_ATTEMPTS_WIN in guards

    better = {place: line for place, line in more.items() if place not in held or is_better(line, held[place])}
    return {**held, **better}


def asked_attempt(result: Mapping[str, Any], place: int) -> int:
    """Return the attempt that was last asked for."""
    return int(result.get("asked", {}).get(place, 0))


def open_places(pack: Mapping[str, Any], result: Mapping[str, Any]) -> list[int]:
    """Return the places that have no answer to the attempt that was last asked for."""
    lines = result.get("lines", {})
    places = range(len(pack.get("names", ())))
    return [place for place in places if not is_answer(lines.get(place), asked_attempt(result, place))]


def count_lines(result: Mapping[str, Any]) -> tuple[int, int]:
    """Return how many images a RESULT# answers with a label, and with a failure."""
    lines = result.get("lines", {})
    answers = [line for place, line in lines.items() if is_answer(line, asked_attempt(result, place))]
    done = sum(line.status == "done" for line in answers)
    return done, len(answers) - done


def cut(count: int, so_far: int) -> list[int]:
    """Return the sizes of the packs of `count` files of a job that has had `so_far` images, a lower bound."""
    sizes: list[int] = []
    while (left := count - sum(sizes)) > 0:
        sizes.append(max(1, min(MAX_IMAGES, (so_far + sum(sizes)) // FIRST_SHARE, left)))
    return sizes


def demand(messages: int, outstanding: Sequence[int], guards: Guards = ALL) -> float:
    """Return the images that wait, of so many messages and the open images of each outstanding pack."""
    if Guard.DEMAND_HAS_MESSAGES not in guards:
        return sum(outstanding)
    mean = sum(outstanding) / len(outstanding) if outstanding else 1
    return min(messages, len(outstanding)) * mean + max(0, messages - len(outstanding))
