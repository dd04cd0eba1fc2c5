"""Tests that a document names, as `tests/…/test_x.py::test_y`."""

import ast
import re
from functools import cache
from pathlib import Path

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
