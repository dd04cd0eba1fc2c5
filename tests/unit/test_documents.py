"""Documents name what exists: paths, functions of the architecture, and the test behind each promise."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from core.images import format_names
from tests.conftest import ROOT

FOLDERS = {each.name for each in ROOT.iterdir() if each.is_dir()}
DOCUMENTS = sorted({*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("*/README.md")} - {ROOT / "CHANGELOG.md"})
ARCHITECTURE = ROOT / "docs" / "architecture.md"

_CODE = re.compile(r"`([^`\n]+)`")
_PATH = re.compile(r"(?:[\w.-]+/)+[\w.-]*\.(?:py|js|html|md|sh|yaml|toml|txt)")


NAMED = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")


@cache
def names_in(path: Path) -> frozenset[str]:
    """Return the names of the functions and classes of a module."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef))


def absent(text: str, root: Path) -> list[str]:
    """Return the tests that `text` names and that are not there."""
    found = [match.groups() for match in NAMED.finditer(text)]
    missing = [path for path, _ in found if not (root / path).exists()]
    return missing + [
        f"{path}::{test}"
        for path, test in found
        if test is not None and path not in missing and test not in names_in(root / path)
    ]


def paths_in(document: Path) -> Iterator[str]:
    """Yield the paths from the project's root that a document has in backticks."""
    for code in _CODE.findall(document.read_text(encoding="utf-8")):
        path = code.split("::")[0]
        if _PATH.fullmatch(path) and path.split("/")[0] in FOLDERS:
            yield path


def qualified_names_in(path: Path) -> set[str]:
    """Return the functions and classes of a module, methods as `Class.method`."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{each.name}" for each in node.body if isinstance(each, ast.FunctionDef)}
    return found


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_each_path_in_a_document_exists(document: Path) -> None:
    assert [path for path in paths_in(document) if not (ROOT / path).exists()] == []


def test_each_function_on_the_architecture_page_exists() -> None:
    missing = []
    rows = [line for line in ARCHITECTURE.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    for row in rows:
        cells = _CODE.findall(row)
        modules = [cell for cell in cells if cell.endswith(".py")]
        if modules:
            known = qualified_names_in(ROOT / modules[0])
            functions = [cell for cell in cells if re.fullmatch(r"\w+(\.\w+)?", cell)]
            missing += [f"{modules[0]}: {name}" for name in functions if name not in known]
    assert missing == []
    assert sum(".py`" in row for row in rows) > 20, "the path of an image is a table of modules and functions"


def test_the_api_document_lists_all_image_formats() -> None:
    assert format_names("and") in (ROOT / "docs/api.md").read_text(encoding="utf-8")
