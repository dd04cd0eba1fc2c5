"""Two releases work side by side: each reads what the other one has written, and sees the same in it.

`CONTRIBUTING.md` has the rules. The previous release is the code in `tests/compatibility/previous.zip`.
"""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import core.fleet.store
import core.jobs.store
from app_tier.bundle import DEMO_BUNDLE
from core.bundle_facts import MANIFEST_NAME
from core.jobs.items import COUNTED
from core.messages import WireModel
from tests.compatibility import previous, samples
from tests.compatibility.samples import Written

pytestmark = pytest.mark.processes


def without_packs(written: Written) -> Written:
    """Return what was written without messages about packs: those of the previous release are about one image."""
    of_packs = {"request", "response", "stored response"}
    return {**written, "messages": {kind: each for kind, each in written["messages"].items() if kind not in of_packs}}


@pytest.fixture(scope="module")
def old() -> Written:
    """What the previous release writes."""
    return without_packs(previous.written_by_previous())


@pytest.fixture(scope="module")
def new() -> Written:
    """What this release writes."""
    return {**samples.write(), "manifest": (DEMO_BUNDLE / MANIFEST_NAME).read_text(encoding="utf-8")}


def disagreements(old: Any, new: Any, where: str = "") -> Iterator[str]:
    """Yield where the view of the new release lacks something that the old one sees, or differs from it.

    A value that only the new release knows is no disagreement.
    """
    if isinstance(old, dict) and isinstance(new, dict):
        for name, value in old.items():
            if name in new:
                yield from disagreements(value, new[name], f"{where}/{name}")
            else:
                yield f"{where}/{name} is not seen by the new release"
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for number, (before, after) in enumerate(zip(old, new, strict=True)):
            yield from disagreements(before, after, f"{where}/{number}")
    elif old != new:
        yield f"{where}: {old!r} is seen as {new!r}"


OF_RESULT_CACHE = {"cached", "sha256", "source", "first_cached_at", "last_cached_at"}
"""Fields of results, images and counts, of which `cached` is in each."""


def without_result_cache(value: Any) -> Any:
    """Return a view without the fields of the result cache, which this release does not have."""
    if isinstance(value, dict):
        dropped = OF_RESULT_CACHE if "cached" in value else set()
        return {name: without_result_cache(each) for name, each in value.items() if name not in dropped}
    return [without_result_cache(each) for each in value] if isinstance(value, list) else value


OF_IMAGES = ("IMAGE#", "PACK#", "RESULT#", "RESENT#")
"""Items of images, of which this release refuses those of the previous one."""


def without_images(written: Written) -> Written:
    """Return what was written, without the items of images."""
    return {**written, "items": [item for item in written["items"] if not item["sk"].startswith(OF_IMAGES)]}


OF_SIGN_IN = ("session", "rotated session", "token", "tokens")
"""What comes from a sign-in: the previous release has no sign-in at an OpenID provider."""


def without_dropped(view: dict[str, Any]) -> dict[str, Any]:
    """Return what the previous release sees, without what this release drops."""
    seen: dict[str, Any] = without_result_cache(view)
    for dropped in (
        "notification",
        "audit",
        "cached label",
        "recovery codes",
        "images that are not counted",
        "manifest of an upload",
        *("images", "image", "results", "summaries", "resends", "dead letters"),
        *OF_SIGN_IN,
    ):
        del seen[dropped]
    for counted in (seen, *seen["status"].values()):  # the releases count images and results in other items
        del counted["counts"]
        counted.pop("accepted", None)
    for name in ("arrival_rate", "waiting_seconds", "recent_launches"):
        del seen["fleet"]["snapshot"][name]
    for entry in seen["journal"]["entries"]:
        for name in ("instance_profile", "security_group_ids"):
            (entry["spec"] or {}).pop(name, None)
    return seen


def test_this_release_reads_what_the_previous_one_has_written(old: Written) -> None:
    seen = without_dropped(previous.seen_by_previous(old))
    assert list(disagreements(seen, samples.read(without_images(old)))) == []


def known_to_previous(new: Written) -> Written:
    """Return what the previous release can read."""
    # It expects other counts.
    items = [item for item in without_images(new)["items"] if not item["sk"].startswith(COUNTED)]
    return {**without_packs(new), "items": items}


@pytest.fixture(scope="module")
def new_by_previous(old: Written, new: Written) -> dict[str, Any]:
    """What the previous release sees in what this one writes, with its own items of images."""
    images = [item for item in old["items"] if item["sk"].startswith(OF_IMAGES)]
    known = known_to_previous(new)
    return previous.seen_by_previous({**known, "items": [*known["items"], *images]})


def test_the_previous_release_reads_what_this_one_writes(new: Written, new_by_previous: dict[str, Any]) -> None:
    seen = without_dropped(new_by_previous)
    assert list(disagreements(seen, samples.read(known_to_previous(new)))) == []


def test_users_sign_in_again_after_an_upgrade_and_after_a_rollback(
    old: Written, new: Written, new_by_previous: dict[str, Any]
) -> None:
    for seen in (samples.read(without_images(old)), new_by_previous):
        assert [seen[name] for name in OF_SIGN_IN] == [None, None, None, []]
    assert all(samples.read(new)[name] for name in OF_SIGN_IN)


LATER = "later"
POSITIONAL = {"objects", "images"}
"""Attributes of items with rows, to which a later release may add values at the end."""


def with_later_fields(value: Any) -> Any:
    """Return JSON with a field in each object that no release knows yet."""
    if isinstance(value, dict):
        return {name: with_later_fields(each) for name, each in value.items()} | {LATER: {"of": [1, "later"]}}
    return [with_later_fields(each) for each in value] if isinstance(value, list) else value


def later_item(item: dict[str, Any]) -> dict[str, Any]:
    """Return an item as a later release may write it."""
    found = dict(item)
    for name, value in item.items():
        if name == "resent":
            found[name] = json.dumps({at: with_later_fields(each) for at, each in json.loads(value).items()})
        elif name == "states":
            found[name] = " ".join(f"{state}:{LATER}" for state in value.split())
        elif name in {"results", "body", "snapshot", "shares"} and str(value).startswith(("{", "[{")):
            found[name] = json.dumps(with_later_fields(json.loads(value)))
        elif name in POSITIONAL and str(value).startswith("[["):
            found[name] = json.dumps([[*row, LATER] for row in json.loads(value)])
    return {**found, LATER: "later"}


def later_kinds(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return items of kinds that no release knows yet, beside those of jobs, users and the fleet."""
    partitions = {item["pk"] for item in items if re.match(r"(JOB|COUNTS|USER)#|FLEET|LEASE", item["pk"])}
    return [{"pk": pk, "sk": f"LATER#{number}", LATER: "later"} for pk in sorted(partitions) for number in (1, 2)]


def test_what_a_later_release_adds_is_ignored_by_every_reader(new: Written) -> None:
    messages = {kind: json.dumps(with_later_fields(json.loads(body))) for kind, body in new["messages"].items()}
    items = [later_item(item) for item in new["items"]] + later_kinds(new["items"])
    assert samples.read({"messages": messages, "items": items}) == samples.read(
        {name: new[name] for name in ("messages", "items")}
    )


def rows(document: str | None) -> list[tuple[str, str]]:
    """Return the partition and sort keys of the rows of a table of items, as regular expressions."""
    found = []
    for line in (document or "").splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) > 4 and (cells[1].startswith("`") or cells[1] == "FLEET") and cells[2] != "all":
            found.append((_pattern(cells[1]), _pattern(cells[2])))
    return found


def _pattern(cell: str) -> str:
    names = re.findall(r"`([^`]+)`", cell)
    return (re.escape(names[0]) if names else "") + ".*"


@pytest.mark.parametrize(
    "document",
    [core.jobs.store.__doc__, core.fleet.store.__doc__],
    ids=["jobs", "fleet"],
)
def test_each_kind_of_item_in_the_documents_has_a_sample(new: Written, document: str | None) -> None:
    kinds = rows(document)
    assert len(kinds) >= 2
    keys = [(item["pk"], item["sk"]) for item in new["items"]]
    lacking = [
        (pk, sk)
        for pk, sk in kinds
        if not any(re.fullmatch(pk, found[0]) and re.fullmatch(sk, found[1]) for found in keys)
    ]
    assert lacking == []


STORING = ("core.", "web_tier.features.notifications.")
"""Packages whose models are sent or stored as they are."""


def subclasses(kind: type[WireModel]) -> Iterator[type[WireModel]]:
    for each in kind.__subclasses__():
        yield each
        yield from subclasses(each)


def test_each_message_and_model_has_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    made: set[type] = set()
    initialise: Callable[..., None] = WireModel.__init__

    def record(self: WireModel, **values: Any) -> None:
        made.add(type(self))
        initialise(self, **values)

    monkeypatch.setattr(WireModel, "__init__", record)
    written = samples.write()
    samples.read(written)
    known = {each for each in subclasses(WireModel) if each.__module__.startswith(STORING)}
    never = {each.__name__ for each in known - made if not each.__name__.startswith("_")}
    # Made without a constructor, only for pages, only within a worker, and when the samples are imported.
    assert never <= {"ClassificationResult", "HistoryPoint", "ImageContent", "Model"}
