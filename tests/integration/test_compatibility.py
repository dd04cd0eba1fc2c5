"""Two releases work side by side: each reads what the other one has written, and sees the same in it.

`CONTRIBUTING.md` has the rules. The previous release is the code in `tests/compatibility/previous.zip`, or before the
first release with the present format of jobs, the first commit with it.
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
from core.messages import WireModel
from tests.compatibility import previous, samples
from tests.compatibility.samples import Written

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def old() -> Written:
    """What the previous release writes."""
    return previous.written_by_previous()


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


def test_this_release_reads_what_the_previous_one_has_written(old: Written) -> None:
    assert list(disagreements(previous.seen_by_previous(old), samples.read(old))) == []


def test_the_previous_release_reads_what_this_one_writes(new: Written) -> None:
    assert list(disagreements(previous.seen_by_previous(new), samples.read(new))) == []


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
