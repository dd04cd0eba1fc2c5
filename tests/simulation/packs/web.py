"""The web tier: forms, presigned uploads, retry, cancel, delete. Each function is one request of a client."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from operator import not_

from services.table import CLOUD_ERRORS
from tests.simulation.packs.rules import Guard, asked_attempt, is_answer, is_final
from tests.simulation.packs.services import Item, RefusedError, Write
from tests.simulation.packs.store import (
    TRANSACTION_PACKS,
    TRIES,
    Cloud,
    File,
    JobGoneError,
    Outcome,
    UnansweredError,
    accept,
    is_living,
    new_packs,
    record,
    request_of,
)

Reply = Mapping[str, int | None]
"""The image of each file of a request, or None if it is not accepted."""


def open_job(cloud: Cloud, job: str) -> Item:
    """Return a job that takes images, or an empty item; open it, so that it is swept if the upload dies."""
    found = cloud.table.get(job, "JOB")
    if is_living(found) and not found["is_open"] and cloud.has(Guard.CLOSED_JOBS_ARE_SWEPT):
        with suppress(RefusedError):
            cloud.table.write(Write((job, "JOB"), lambda job: {**job, "is_open": True}, is_living))
    return found if is_living(found) else {}


def upload(cloud: Cloud, job: str, files: Sequence[File], key: str = "") -> Reply:
    """Accept the files of a form: objects, claim of the whole request under its key, transaction, requests.

    Raises:
        UnansweredError: it is unknown which files are accepted.
    """
    found, names = open_job(cloud, job), [file.name for file in files]
    if not found:
        return dict.fromkeys(names)
    mine = _put_objects(cloud, new_packs(cloud, job, names, found["accepted"], found["model"]), files)
    if not key or not cloud.has(Guard.REQUESTS_ARE_CLAIMED):
        outcomes = _accept_all(cloud, job, mine)
        _delete_objects(cloud, [item for pack, item in mine.items() if outcomes[pack] == "refused"])
        return _reply(mine, outcomes, names)
    claim = _claim(cloud, job, key, {"files": tuple(files), "packs": mine})
    if claim["packs"] != mine:
        _delete_objects(cloud, mine.values())
    if claim["files"] != tuple(files):
        return dict.fromkeys(names)
    if claim["packs"] != mine and not cloud.has(Guard.BORDERS_ARE_CLAIMED):
        again = zip(claim["packs"].items(), mine.values(), strict=False)
        claim = {**claim, "packs": {pack: {**item, "key": held["key"]} for (pack, held), item in again}}
    for _ in range(TRIES):
        outcomes = _accept_all(cloud, job, claim["packs"])
        refused = [pack for pack, outcome in outcomes.items() if outcome == "refused"]
        if not refused or not open_job(cloud, job):
            return _reply(claim["packs"], outcomes, names)
        claim = _renew(cloud, job, key, claim, refused)
    raise UnansweredError


def _put_objects(cloud: Cloud, packs: Mapping[int, Item], files: Sequence[File]) -> dict[int, Item]:
    """Store the objects of packs; the time at which S3 stored each decides later whether it is young."""
    contents = {file.name: file.content for file in files}
    stored = {}
    for pack, item in packs.items():
        body = tuple(contents[name] for name in item["names"])
        stored[pack] = {**item, "contents": body, "put_at": cloud.inputs.put(item["key"], body).modified_at}
    return stored


def _delete_objects(cloud: Cloud, packs: Iterable[Item]) -> None:
    """Delete the objects of packs that are not accepted; a sweep deletes what stays."""
    with suppress(*CLOUD_ERRORS):
        for item in packs:
            cloud.inputs.delete(item["key"])


def _claim(cloud: Cloud, job: str, key: str, mine: Item) -> Item:
    """Return the claim that holds under a key: the first one."""
    for _ in range(TRIES):
        with suppress(RefusedError, *CLOUD_ERRORS):
            cloud.table.write(Write((job, f"KEY#{key}"), lambda _: mine, not_))
            return mine
        if held := cloud.table.get(job, f"KEY#{key}"):
            return held
    raise UnansweredError


def _renew(cloud: Cloud, job: str, key: str, claim: Item, refused: Sequence[int]) -> Item:
    """Replace in a claim the packs with objects too old to be accepted; return the claim that holds then."""
    packs = {pack: item for pack, item in claim["packs"].items() if pack not in refused}
    ids = {pack: cloud.new_id() for pack in refused}
    fresh = {new: {**claim["packs"][pack], "key": f"{job}/{new}.tar"} for pack, new in ids.items()}
    mine = {**claim, "packs": packs | _put_objects(cloud, fresh, claim["files"])}
    with suppress(RefusedError):
        cloud.table.write(Write((job, f"KEY#{key}"), lambda _: mine, lambda found: found == claim))
        return mine
    return cloud.table.get(job, f"KEY#{key}") or claim


def _accept_all(cloud: Cloud, job: str, packs: Mapping[int, Item]) -> dict[int, Outcome]:
    """Accept packs in as many transactions as they need, in order."""
    outcomes: dict[int, Outcome] = {}
    for start in range(0, len(packs), TRANSACTION_PACKS):
        part = list(packs)[start : start + TRANSACTION_PACKS]
        outcomes |= accept(cloud, job, {pack: packs[pack] for pack in part})
    return outcomes


def _reply(packs: Mapping[int, Item], outcomes: Mapping[int, Outcome], names: Sequence[str]) -> Reply:
    """Name each file of a request."""
    if "unknown" in outcomes.values():
        raise UnansweredError
    reply: dict[str, int | None] = dict.fromkeys(names)
    for pack, item in packs.items():
        if outcomes[pack] != "refused":
            reply |= {name: pack + place for place, name in enumerate(item["names"])}
    return reply


def declare(cloud: Cloud, job: str, names: Sequence[str], key: str) -> None:
    """Give out forms under a key, one a pack."""
    if found := open_job(cloud, job):
        _claim(cloud, job, key, {"packs": new_packs(cloud, job, names, found["accepted"], found["model"])})


def form_key(job: str, pack: int) -> str:
    """Return the key to which a form puts the object of a pack."""
    return f"{job}/forms/{pack}.tar"


def commit(cloud: Cloud, job: str, key: str) -> Reply:
    """Accept what was put by forms: one copy of each object to a key that no form can write, then as a form.

    Raises:
        RefusedError: another commit was faster, or the form was used again; the client repeats it.
        UnansweredError: it is unknown which files are accepted.
    """
    claim = cloud.table.get(job, f"KEY#{key}")
    if not claim or not open_job(cloud, job):
        return {}
    accepted = cloud.table.query(job, "PACK#")  # their objects may be gone: they are not copied again
    each = claim["packs"].items()
    packs = {pack: accepted.get(str(pack)) or _copied(cloud, job, pack, item) for pack, item in each}
    found = {pack: item for pack, item in packs.items() if item}
    names = [name for item in claim["packs"].values() for name in item["names"]]
    return _reply(found, _accept_all(cloud, job, found), names)


def _copied(cloud: Cloud, job: str, pack: int, item: Item) -> Item:
    """Return the item of a pack with the object that its commit accepts, or an empty one if nothing was put."""
    form = form_key(job, pack)
    if not cloud.has(Guard.FORMS_ARE_COPIED):
        put = cloud.inputs.get(form)
        return {**item, "key": form, "contents": put.body, "put_at": put.modified_at} if put else {}
    copy = cloud.inputs.get(item["key"])
    if not copy:
        if not (put := cloud.inputs.get(form)):
            return {}
        copy = cloud.inputs.put(item["key"], put.body, is_new=True, etag=put.etag, origin=form)
    return {**item, "contents": copy.body, "put_at": copy.modified_at}


def retry(cloud: Cloud, job: str) -> None:
    """Ask for the next attempt of each image that failed, unless for good: RESULT#, then a request with positions."""
    for pack, item in cloud.table.query(job, "PACK#").items():
        asked: dict[int, int] = {}

        def ask(result: Item, asked: dict[int, int] = asked) -> Item:
            asked.clear()
            for place, line in result.get("lines", {}).items():
                if is_answer(line, asked_attempt(result, place)) and not is_final(line):
                    asked[place] = line.attempt + 1
            return {**result, "asked": {**result.get("asked", {}), **asked}} if asked else result

        try:
            result = record(cloud, job, int(pack), {}, change=ask, counts={"is_cancelled": False})
        except JobGoneError:
            return
        for attempt in sorted(set(asked.values())):
            places = [place for place, each in asked.items() if each == attempt]
            request = request_of(job, int(pack), item, places, attempt)
            is_suspect = any(result["lines"][place].value == "crashed_worker" for place in places)
            with suppress(*CLOUD_ERRORS):
                cloud.requests.send(request._replace(is_suspect=is_suspect and cloud.has(Guard.SUSPICION_STAYS)))


def cancel(cloud: Cloud, job: str) -> None:
    """Cancel a job; the controller fails what has no result."""
    with suppress(RefusedError):
        cloud.table.write(Write((job, "JOB"), lambda job: {**job, "is_cancelled": True, "is_open": True}, bool))


def delete(cloud: Cloud, job: str) -> None:
    """Mark a job as deleted; the controller deletes what belongs to it, again and again while the mark stays."""
    with suppress(RefusedError):
        now = cloud.clock()
        cloud.table.write(Write((job, "JOB"), lambda job: {**job, "is_deleted": True, "deleted_at": now}, bool))
