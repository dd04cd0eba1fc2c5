"""Structure of the code in figures: how much a reader has to know to change it.

Nothing is measured in time. The bars are goals of the redesign, and most of them are still missed.
"""

import ast
import re
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from benchmarks.report import Bar, Report

IN_IMAGES = "ami/files/"
"""Begins the paths of files that have the same path in a machine image."""

ROOT = Path(__file__).resolve().parents[1]
PRONOUNS = re.compile(r"\b(whoever|whatever|nobody|somebody|whose|whom|thereof|wherever)\b", re.IGNORECASE)
"""Pronouns that leave open who acts. The documents of this project name the actor instead."""


def run(quick: bool) -> Report:
    """Count; it takes some seconds, so `quick` changes nothing."""
    del quick
    modules = _texts("*.py")
    source = {name: text for name, text in modules.items() if not name.startswith(("tests/", "examples/"))}
    tests = {name: text for name, text in modules.items() if name.startswith("tests/")}
    documents = _texts("*.md")
    trees = {name: ast.parse(text) for name, text in source.items()}
    lines, document_lines = _lines(source), _lines(documents)
    bars = (
        Bar("source modules", len(source), at_most=300),
        Bar("source lines", lines, at_most=47_000),
        Bar("test modules", len(tests), at_most=250),
        Bar("test lines", _lines(tests), at_most=38_000),
        Bar(
            "private helpers used once, per 1,000 lines", helpers_used_once(source, trees) / lines * 1_000, at_most=7
        ),
        Bar("Protocol classes", sum(1 for _ in protocols(trees.values())), at_most=5),
        Bar(
            "modules on the path of an image", len(modules_on_the_path(documents["docs/architecture.md"])), at_most=40
        ),
        Bar("folders deep", max(name.count("/") for name in source if not name.startswith(IN_IMAGES)), at_most=3),
        Bar("import cycles", import_cycles(source, trees), at_most=0),
        Bar("archaic pronouns in code, per 1,000 lines", _pronouns(source) / lines * 1_000, at_most=1),
        Bar(
            "archaic pronouns in documents, per 1,000 lines", _pronouns(documents) / document_lines * 1_000, at_most=1
        ),
    )
    return Report("house", {bar.what: bar.value for bar in bars}, bars)


def _texts(pattern: str) -> dict[str, str]:
    """Return the text of each file that git tracks, by its path."""
    listed = subprocess.run(("git", "ls-files", pattern), cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return {name: path.read_text() for name in listed.splitlines() if (path := ROOT / name).is_file()}


def _lines(files: Mapping[str, str]) -> int:
    return sum(text.count("\n") for text in files.values())


def _pronouns(files: Mapping[str, str]) -> int:
    return sum(len(PRONOUNS.findall(text)) for text in files.values())


def modules_on_the_path(architecture: str) -> set[str]:
    """Return the modules that docs/architecture.md names on the way of one image; a test checks that each exists."""
    section = re.search(r"^## The path of an image\n(.*?)^## ", architecture, re.MULTILINE | re.DOTALL)
    return set(re.findall(r"`([\w/]+\.py)`", section[1])) if section else set()


def helpers_used_once(source: Mapping[str, str], trees: Mapping[str, ast.Module]) -> int:
    """Return the number of private functions that their own module names at most once after the definition."""
    once = 0
    for name, tree in trees.items():
        words = Counter(re.findall(r"[A-Za-z_]\w*", source[name]))
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and re.match("_[^_]", node.name):
                once += words[node.name] <= 2
    return once


def protocols(trees: Iterable[ast.Module]) -> Iterator[ast.ClassDef]:
    """Yield the classes that derive from Protocol."""
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and any("Protocol" in ast.unparse(base) for base in node.bases):
                yield node


def import_cycles(source: Mapping[str, str], trees: Mapping[str, ast.Module]) -> int:
    """Return how many groups of modules import each other, also inside functions and for types alone."""
    names = {file.removesuffix(".py").replace("/", ".").removesuffix(".__init__"): file for file in source}
    imported: dict[str, set[str]] = {}
    for name, file in names.items():
        found: set[str] = set()
        for node in ast.walk(trees[file]):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        imported[name] = found & names.keys() - {name}
    reached = {name: _reached(name, imported) for name in names}
    return len(
        {frozenset(each for each in far if name in reached[each]) for name, far in reached.items() if name in far}
    )


def _reached(name: str, imported: Mapping[str, set[str]]) -> set[str]:
    """Return the modules that `name` imports, those that they import, and so on."""
    found: set[str] = set()
    left = [name]
    while left:
        fresh = imported[left.pop()] - found
        found |= fresh
        left += fresh
    return found
