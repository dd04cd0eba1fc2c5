"""Routes come to jobs by `web_tier.access.owned` and no other way: their source is read, so that none forgets it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask import Flask

from tests.conftest import ROOT

ROOMS = ("web_tier/pages", "web_tier/api")
"""Where routes are, and what only they use."""

WITHOUT_JOBS = ("flask.", "web_tier.bootstrap")
"""Modules with routes that are no rooms of ours; they serve files."""

PAST_THE_OWNER = frozenset({"JobStore", "UploadManifests", "Claims", "UploadCounts", "ResultCache", "Table"})
"""What reads and writes jobs, whosever they are."""


def ways_past(source: str) -> list[str]:
    """Return where `source` comes to a job past its owner."""
    return [f"line {line}: {name}" for line, name in _used(ast.parse(source))]


def _used(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(attr="store"):
                yield node.lineno, ".store"
            case ast.ImportFrom() | ast.Import():
                yield from ((node.lineno, alias.name) for alias in node.names if alias.name in PAST_THE_OWNER)
            case ast.Constant(value="store"):
                yield node.lineno, "'store'"


@pytest.mark.parametrize(
    "source",
    [
        "job = backend.store.job(job_id)",
        "store = current_backend().store",
        "backend.intake.store.images_of(refs)",
        "own_jobs().store.job(job_id)",
        "getattr(backend, 'store').job(job_id)",
        "from core.jobs import JobStore as Anything",
    ],
)
def test_a_way_past_the_owner_is_found(source: str) -> None:
    assert len(ways_past(source)) == 1


def test_no_route_comes_to_a_job_past_its_owner() -> None:
    assert ways_past("own_jobs().job(job_id), backend.fleet.snapshot()") == []
    sources = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]
    assert len(sources) > 15
    found = {str(path.relative_to(ROOT)): ways_past(path.read_text(encoding="utf-8")) for path in sources}
    assert {path: ways for path, ways in found.items() if ways} == {}


def test_every_route_is_in_a_room_that_is_looked_through(app: Flask) -> None:
    modules = {view.__module__ for view in app.view_functions.values()}
    ours = {module for module in modules if not module.startswith(WITHOUT_JOBS)}
    assert {module for module in ours if not Path(module.replace(".", "/")).is_relative_to("web_tier")} == set()
    assert [module for module in ours if not module.replace(".", "/").startswith(ROOMS)] == []
